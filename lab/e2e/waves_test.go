// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"spidernet.io/spiderpool/lab/internal/topology"
)

var waveSeed = flag.Uint64("wave-seed", 0, "seed of TestWaves; 0 takes one from the clock")

const (
	waveVFs   = 12
	waveEvery = 5 * time.Second // between two looks at the addresses that pods have
)

// waveNetworks have fewer addresses than two waves need, so that they are given again and again.
var waveNetworks = documents(
	pool("e2e-94", "  subnet: 172.94.0.0/16\n  ips: [172.94.0.10-172.94.0.45]\n"),
	network("wave-sriov",
		"  cniType: ib-sriov\n  ibsriov: {resourceName: spidernet.io/e2e_low, ippools: {ipv4: [e2e-94]}}\n"),
	network("wave-tcp", "  cniType: ipoib\n  ipoib: {master: ibs5f0, ippools: {ipv4: [e2e-94]}}\n"))

// wavePod is one of three kinds: on a function, on an IPoIB child, and on the cluster's own network
// with both besides.
func wavePod(i int, node string) string {
	p := pod{name: fmt.Sprint("wave-", i), namespace: "e2e", label: "wave", node: node}
	switch i % 3 {
	case 0:
		p.annotations, p.devices = map[string]string{defaultNetwork: "kube-system/wave-sriov"}, []string{lowVFs}
	case 1:
		p.annotations, p.devices = map[string]string{networks: "kube-system/wave-sriov,kube-system/wave-tcp"},
			[]string{lowVFs}
	default:
		p.annotations = map[string]string{defaultNetwork: "kube-system/wave-tcp"}
	}
	return p.manifest()
}

// tolerant runs a script while things are broken on purpose: what it says is for the log, not a failure.
func tolerant(t *testing.T, script string) (string, error) {
	return term.Shell(context.WithoutCancel(t.Context()), script)
}

// TestWaves makes and deletes pods in waves while agents are killed at random instants, the API
// server is away for a minute and, with -long, a node's power fails. Afterwards nothing is left of
// them anywhere, and at no time had two pods one address.
func TestWaves(t *testing.T) {
	// The usual run has no power failure, of which TestSRIOVReboot has one: a wave and the start of
	// an emulated machine are minutes.
	pods, size := atLength(16, 200), atLength(8, 16)
	seed := *waveSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d, %d pods", seed, pods)
	sriovSetup(t)
	apply(t, sriovPolicy("e2e-low", waveVFs, 0, waveVFs-1)+waveNetworks)
	t.Cleanup(func() {
		shell(t,
			"kubectl -n kube-system delete --ignore-not-found spidermultusconfig wave-sriov wave-tcp; kubectl "+
				"delete --ignore-not-found spiderippool e2e-94")
	})
	eventually(t, configureLimit, func() string {
		return differs("allocatable", offered(t, lowVFs),
			every(fmt.Sprint(waveVFs), lowVFs))
	})
	wantGUIDs := map[string][]string{}
	for _, name := range topology.Names() {
		wantGUIDs[name] = knownGUIDs(t, name, waveVFs)
	}
	before := remember(t)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	seen := &sightings{}
	killed := 0
	running.Go(func() { seen.watch(ctx) })
	running.Go(func() { killed = killAgents(ctx, t, rand.New(rand.NewPCG(seed, 2))) })
	waves := (pods + size - 1) / size
	for w := range waves {
		wave(t, random, w*size, min(size, pods-w*size), w, waves)
	}
	stop()
	running.Wait()
	for _, name := range topology.Names() { // a container that died often is started again only after minutes
		restartAgent(t, name)
	}
	shell(t,
		"kubectl -n e2e delete pods -l e2e=wave --timeout=400s; kubectl -n kube-system rollout status "+
			"--timeout=300s daemonset,deployment -l app.kubernetes.io/name=spiderpool")
	for _, name := range topology.Names() {
		eventually(t, podLimit, func() string { return waveLeftovers(t, name) })
	}
	eventually(t, podLimit, func() string { return differs("left behind", look(t), before) })
	eventually(t, configureLimit, func() string {
		return differs("allocatable", offered(t, lowVFs),
			every(fmt.Sprint(waveVFs), lowVFs))
	})
	for name, want := range wantGUIDs {
		eventually(t, configureLimit, func() string { return differs("GUIDs of "+name, guids(t, name), want) })
	}
	t.Logf("%d pods in %d waves; agents killed %d times; %d looks at %d namespaces with %d addresses", pods, waves,
		killed, seen.looks, len(seen.namespaces), len(seen.addresses))
	if len(seen.addresses) == 0 || killed == 0 {
		t.Error("no address was seen in a pod, or no agent was killed: this test showed nothing")
	}
	for _, clash := range seen.clashes {
		t.Error(clash)
	}
}

// wave makes n pods, has something happen to them, and deletes them, in every second wave while they start.
func wave(t *testing.T, random *rand.Rand, first, n, w, waves int) {
	nodes := topology.Nodes()
	names := make([]string, n)
	for i := range n {
		names[i] = fmt.Sprintf("pod/wave-%d", first+i)
	}
	manifest := manifestOf(n, func(i int) string { return wavePod(first+i, nodes[(first+i)%len(nodes)].Name) })
	eventually(t, configureLimit, func() string { // webhooks and API server are away at times
		if _, err := tolerant(t, "kubectl apply -f - <<'END' >/dev/null\n"+manifest+"END"); err != nil {
			return err.Error()
		}
		return ""
	})
	switch {
	case w == waves-1:
		t.Logf("wave %d: the API server is away for a minute", w)
		time.Sleep(time.Duration(random.Int64N(int64(15 * time.Second))))
		if err := laboratory.Outage(t.Context(), "kube-apiserver", time.Minute); err != nil {
			t.Fatal(err)
		}
		time.Sleep(70 * time.Second)
	case w == waves/2:
		t.Logf("wave %d: the power of node %s fails", w, nodes[1].Name)
		time.Sleep(time.Duration(random.Int64N(int64(15 * time.Second))))
		if err := laboratory.Reboot(t.Context(), nodes[1], true); err != nil {
			t.Fatal(err)
		}
	case w%2 == 0:
		t.Logf("wave %d: %d of %d pods became ready", w, settle(t, names), n)
	default:
		after := time.Duration(random.Int64N(int64(30 * time.Second)))
		t.Logf("wave %d: deleted after %s", w, after.Round(time.Second))
		time.Sleep(after)
	}
	eventually(t, podLimit, func() string {
		_, err := tolerant(t, "kubectl -n e2e delete --wait=false --ignore-not-found "+strings.Join(names, " "))
		if err != nil {
			return err.Error()
		}
		return ""
	})
	eventually(t, podLimit, func() string { // the next wave needs the memory, not the addresses
		out, err := tolerant(t, "kubectl -n e2e get pods -l e2e=wave -o name | wc -l")
		if left := strings.TrimSpace(out); err != nil || len(left) > 1 {
			return fmt.Sprintf("%s pods are left, %v", left, err)
		}
		return ""
	})
}

// settle waits until each pod is ready or has failed, and returns how many are ready. A pod may
// fail: the kubelet refuses one with a device that comes while no device plugin is there.
func settle(t *testing.T, names []string) (ready int) {
	for deadline := time.Now().Add(4 * time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Second) {
		out, err := tolerant(t, "kubectl -n e2e get "+strings.Join(names, " ")+
			` -o jsonpath='{range .items[*]}{.status.phase}{" "}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}'`)
		if err != nil {
			continue
		}
		ready = strings.Count(out, "Running True")
		if ready+strings.Count(out, "Failed") == len(names) {
			break
		}
	}
	return ready
}

// killAgents ends agents at random instants of their work, without a word, until ctx ends. One that
// is only starting is let be, and one that has begun is given up to a minute and a half: so long do
// eight pods at once take on an emulated machine, and if none ever came through, nothing would be
// shown.
func killAgents(ctx context.Context, t *testing.T, random *rand.Rand) (killed int) {
	const ready = "curl -sf --max-time 5 http://127.0.0.1:5710/v1/runtime/readiness >/dev/null"
	inPlace := map[string]bool{}
	most := time.Duration(atLength(45, 90)) * time.Second // the usual run is short, and has to see one killed
	for ctx.Err() == nil {
		name, wait := topology.Names()[random.IntN(2)], time.Duration(random.Int64N(int64(most)))
		if _, err := term.Node(context.WithoutCancel(ctx), name, ready); err != nil {
			wait = 5 * time.Second
		}
		select {
		case <-ctx.Done():
			return killed
		case <-time.After(wait):
		}
		if _, err := term.Node(context.WithoutCancel(ctx), name, ready+" && "+killAgent); err != nil {
			continue // it is starting, or the node is down
		}
		killed++
		// the kubelet has started it once; it would let it wait for ever longer
		if inPlace[name] = !inPlace[name]; !inPlace[name] {
			_, _ = tolerant(t, replaceAgent(name))
		}
	}
	return killed
}

// podsOnNode prints what a node has of pods: its ends of their pairs, routes to them, addresses
// that its agent has given out or is to give back, and link states of functions that are a pod's
// wish.
//
//nolint:lll // the lines of a raw string
const podsOnNode = `set -eu -o pipefail
ip -o link show | { grep -oE '\bveth[0-9a-f]{11}\b' || true; }
ip route show table all | { grep '172.94..* table 500' || true; } # a table of no route is an error by its number
for view in handouts releases; do curl -sf http://127.0.0.1:5710/v1/node/$view | jq -r '(. // [])[] | "'$view' \(.)"'; done
ip link show dev "$(ls /sys/bus/pci/devices/` + secondCard + `/net)" | { grep 'link-state enable' || true; }`

// waveLeftovers is what a node still has of pods that are gone.
func waveLeftovers(t *testing.T, name string) string {
	out, err := term.Node(t.Context(), name, podsOnNode)
	if err != nil {
		return err.Error()
	}
	return differs("what "+name+" has of pods", strings.Fields(out), []string{})
}

// sightings are the addresses of the waves' pool that were seen in network namespaces.
type sightings struct {
	looks                 int
	namespaces, addresses map[string]bool
	clashes               []string
}

// addressesOfPods prints "NAMESPACE ADDRESS" of all that is configured on a node.
const addressesOfPods = `for ns in /run/netns/*; do ip -n "${ns##*/}" -o -4 addr show 2>/dev/null | awk -v ns="${ns##*/}" '$4 ~ /^172\.94\./ {print ns, $4}'; done; true`

// watch looks at both nodes in turn. An address is in two pods at once when one of them had it
// before and after the look that found it in the other.
func (s *sightings) watch(ctx context.Context) {
	s.namespaces, s.addresses = map[string]bool{}, map[string]bool{}
	last := map[string]map[string]string{} // by node: namespace and address -> address
	for ctx.Err() == nil {
		for _, name := range topology.Names() {
			out, err := term.Node(context.WithoutCancel(ctx), name, addressesOfPods)
			if err != nil {
				delete(last, name) // down
				continue
			}
			now := map[string]string{}
			for line := range strings.Lines(out) {
				ns, address, _ := strings.Cut(strings.TrimSpace(line), " ")
				now[ns+" "+address] = address
				s.namespaces[name+"/"+ns], s.addresses[address] = true, true
			}
			s.compare(name, last[name], now, last)
			last[name] = now
			s.looks++
		}
		time.Sleep(waveEvery)
	}
}

// compare finds what a node had in the look before and has now, and another namespace had in
// between, or has now on the same node.
func (s *sightings) compare(name string, before, now map[string]string, others map[string]map[string]string) {
	for pod, address := range now {
		if before[pod] == "" {
			continue
		}
		for other, seen := range others {
			if other == name {
				seen = now
			}
			for otherPod, otherAddress := range seen {
				if otherAddress == address && (other != name || otherPod != pod && before[otherPod] != "") {
					s.clashes = append(s.clashes, fmt.Sprintf("address %s is in %s on %s and in %s on %s at once",
						address, pod, name, otherPod, other))
				}
			}
		}
	}
}

// TestSightings: what TestWaves relies on finds an address that two namespaces have, and no one
// that was given on.
func TestSightings(t *testing.T) {
	for name, c := range map[string]struct {
		before, now map[string]string // of node a
		other       map[string]string // of node b, in between
		want        int
	}{
		"two nodes": {map[string]string{"n1 x": "x"}, map[string]string{"n1 x": "x"},
			map[string]string{"n2 x": "x"}, 1},
		"given on":   {map[string]string{"n1 x": "x"}, map[string]string{}, map[string]string{"n2 x": "x"}, 0},
		"given back": {map[string]string{}, map[string]string{"n1 x": "x"}, map[string]string{"n2 x": "x"}, 0},
		"one node": {map[string]string{"n1 x": "x", "n3 x": "x"}, map[string]string{"n1 x": "x", "n3 x": "x"},
			nil, 2},
		"one node, in turn": {map[string]string{"n1 x": "x"}, map[string]string{"n3 x": "x"}, nil, 0},
		"two addresses": {map[string]string{"n1 x": "x"}, map[string]string{"n1 x": "x"},
			map[string]string{"n2 y": "y"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var s sightings
			s.compare("a", c.before, c.now, map[string]map[string]string{"a": c.before, "b": c.other})
			if len(s.clashes) != c.want {
				t.Errorf("found %q, want %d clashes", s.clashes, c.want)
			}
		})
	}
}
