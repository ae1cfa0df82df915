// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/lab/internal/topology"
)

// What the SR-IOV tests use: the second card of each node, which the guide's policy does not select.
const (
	secondCard = "0000:87:00.0"
	lowVFs     = "spidernet.io/e2e_low"
	highVFs    = "spidernet.io/e2e_high"
	guideVFs   = "spidernet.io/mellanoxibsriov" // of the first card
)

// Limits. The machines are emulated: a VF takes a second to make, a pod several.
const (
	configureLimit = 4 * time.Minute
	podLimit       = 6 * time.Minute
)

// sriovPolicy gives the second card so many VFs, and offers those of the range.
func sriovPolicy(name string, numVFs int, first, last int) string {
	return fmt.Sprintf(`---
apiVersion: sriovnetwork.openshift.io/v1
kind: SriovNetworkNodePolicy
metadata: {name: %[1]s, namespace: kube-system}
spec:
  nodeSelector: {kubernetes.io/os: linux}
  resourceName: %[2]s
  numVfs: %[3]d
  nicSelector: {pfNames: ["%[4]s#%[5]d-%[6]d"]}
  isRdma: true
`, name, strings.ReplaceAll(name, "-", "_"), numVFs, topology.Nodes()[0].Cards(2)[1].Interface, first, last)
}

// sriovNetwork is on the functions of the low range.
var sriovNetwork = documents(
	pool("e2e-93", "  subnet: 172.93.0.0/16\n  gateway: 172.93.0.1\n  ips: [172.93.0.100-172.93.0.180]\n"),
	network("e2e-low",
		"  cniType: ib-sriov\n  ibsriov: {resourceName: spidernet.io/e2e_low, ippools: {ipv4: [e2e-93]}}\n"))

// documents are manifests one after another.
func documents(all ...string) string {
	return manifestOf(len(all), func(i int) string { return "---\n" + all[i] })
}

// lowPod uses one VF of the low range on a node.
func lowPod(name, node string) pod {
	return pod{name: name, namespace: "e2e", label: "sriov", node: node, devices: []string{lowVFs},
		annotations: map[string]string{defaultNetwork: "kube-system/e2e-low"}}
}

func sriovPod(name, node string) string { return lowPod(name, node).manifest() }

// sriovSetup brings the second cards' networks and a namespace, and takes all of it away again.
func sriovSetup(t *testing.T) {
	t.Helper()
	shell(t,
		"kubectl -n kube-system rollout status --timeout=300s daemonset,deployment -l "+
			"app.kubernetes.io/name=spiderpool")
	shell(t, "kubectl create namespace e2e --dry-run=client -o yaml | kubectl apply -f -")
	apply(t, sriovNetwork)
	t.Cleanup(func() {
		shell(t,
			"kubectl -n e2e delete pods --all --grace-period=0 --timeout=300s; kubectl -n kube-system delete "+
				"--ignore-not-found sriovnetworknodepolicies e2e-low e2e-high")
		eventually(t, configureLimit, func() string {
			return differs("allocatable", offered(t, lowVFs, highVFs),
				none(lowVFs, highVFs))
		})
	})
}

// offered is what the API server shows as allocatable of some resources on each node, "" for what
// it does not show.
func offered(t *testing.T, resources ...string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, n := range topology.Names() {
		for _, r := range resources {
			got[n+" "+r] = allocatableOf(t, n, r)
		}
	}
	return got
}

func allocatableOf(t *testing.T, node, resource string) string {
	t.Helper()
	path := strings.ReplaceAll(resource, ".", `\.`)
	text := strings.TrimSpace(shell(t, fmt.Sprintf(`kubectl get node %s -o jsonpath='{.status.allocatable.%s}'`, node,
		path)))
	if text == "0" {
		return "" // the kubelet keeps the name of a resource that has gone
	}
	return text
}

func none(resources ...string) map[string]string { return every("", resources...) }

func every(count string, resources ...string) map[string]string {
	want := map[string]string{}
	for _, n := range topology.Names() {
		for _, r := range resources {
			want[n+" "+r] = count
		}
	}
	return want
}

func differs(what string, got, want any) string {
	if diff := cmp.Diff(want, got); diff != "" {
		return what + ":\n" + diff
	}
	return ""
}

// numVFs is what the second card has of a node, as the kernel says.
func numVFs(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(node(t, name, "cat /sys/bus/pci/devices/"+secondCard+"/sriov_numvfs"))
}

// guids are those of the second card's VFs, by index.
func guids(t *testing.T, node string) []string {
	t.Helper()
	return strings.Fields(shell(t,
		fmt.Sprintf(
			`kubectl -n kube-system get sriovnetworknodestate %s -o jsonpath='{.status.interfaces[?(@.pciAddress=="%s")].Vfs[*].guid}'`, node, secondCard)))
}

// knownGUIDs are the GUIDs once the node's state, which follows the node, shows as many.
func knownGUIDs(t *testing.T, node string, n int) (all []string) {
	t.Helper()
	eventually(t, configureLimit, func() string {
		all = guids(t, node)
		return differs("number of GUIDs in the state of "+node, len(all), n)
	})
	return all
}

// planOf is what a node will do, and what it may not do yet.
func planOf(t *testing.T, node string) string {
	t.Helper()
	return shell(t, fmt.Sprintf(`kubectl -n kube-system get sriovnetworknodestate %s -o jsonpath='{.status.plan}'`,
		node))
}

// restartAgent kills a node's agent with all its children, at once, and has its pod replaced: the
// kubelet would let a container that died several times wait for minutes.
func restartAgent(t *testing.T, name string) {
	t.Helper()
	node(t, name, killAgent+" || true")
	shell(t, replaceAgent(name))
}

// killAgent ends a node's agent with all its children, at once, on the node.
const killAgent = "pkill -9 -f '^/[^ ]*spiderpool agent'"

// replaceAgent has a node's agent's pod replaced.
func replaceAgent(name string) string {
	return "kubectl -n kube-system delete pod --wait=false --force --grace-period=0 -l " +
		"app.kubernetes.io/component=agent --field-selector spec.nodeName=" + name
}

// TestSRIOVRanges has two policies share a card, and changes the number of VFs with pods and without.
func TestSRIOVRanges(t *testing.T) {
	sriovSetup(t)
	here, there := topology.Names()[0], topology.Names()[1]
	guideBefore := offered(t, guideVFs)
	must := func(what string, want map[string]string, resources ...string) {
		t.Helper()
		eventually(t, configureLimit, func() string { return differs(what, offered(t, resources...), want) })
	}
	set := func(n int) { apply(t, sriovPolicy("e2e-low", n, 0, n-1)) }

	apply(t, sriovPolicy("e2e-low", 8, 0, 3)+sriovPolicy("e2e-high", 8, 4, 7))
	must("two ranges of one card", every("4", lowVFs, highVFs), lowVFs, highVFs)
	shell(t, "kubectl -n kube-system delete sriovnetworknodepolicy e2e-high")
	set(12)
	must("12 VFs, no pod", every("12", lowVFs), lowVFs)
	first := map[string][]string{here: knownGUIDs(t, here, 12), there: knownGUIDs(t, there, 12)}
	checkGUIDs(t, slices.Concat(first[here], first[there]), 24)

	apply(t, sriovPod("holder", here))
	shell(t, "kubectl -n e2e wait --for=condition=Ready --timeout=400s pod/holder")
	set(4)
	eventually(t, configureLimit, func() string {
		if plan := planOf(t, here); !strings.Contains(plan, "e2e/holder") {
			return "the plan does not name the pod that is in the way: " + plan
		}
		return differs("allocatable", []string{allocatableOf(t, here, lowVFs), allocatableOf(t, there, lowVFs)},
			[]string{"4", "4"})
	})
	if n := numVFs(t, here); n != "12" {
		t.Errorf("the card with a VF in use has %s VFs, want 12 as before", n)
	}
	shell(t, "kubectl -n e2e exec holder -- ip link show eth0")
	shell(t, "kubectl -n e2e delete pod holder --grace-period=0")
	eventually(t, configureLimit, func() string {
		return differs("VFs once the pod has gone", numVFs(t, here), "4")
	})
	must("4 VFs", every("4", lowVFs), lowVFs)
	set(12)
	must("12 again", every("12", lowVFs), lowVFs)
	for _, n := range topology.Names() {
		eventually(t, configureLimit, func() string {
			return differs("GUIDs of "+n+" after all that", guids(t, n),
				first[n])
		})
	}
	if diff := cmp.Diff(guideBefore, offered(t, guideVFs)); diff != "" {
		t.Errorf("the guide's card was touched: %s", diff)
	}
}

// checkGUIDs shows that VFs have permanent identities: none zero, none all ones, none twice.
func checkGUIDs(t *testing.T, all []string, want int) {
	t.Helper()
	seen := map[string]bool{}
	for _, g := range all {
		digits := strings.ReplaceAll(g, ":", "")
		if seen[g] || strings.Trim(digits, "0") == "" || strings.Trim(digits, "f") == "" {
			t.Errorf("GUID %s is there twice, or is none: %v", g, all)
		}
		seen[g] = true
	}
	if len(seen) != want {
		t.Errorf("%d GUIDs, want %d: %v", len(seen), want, all)
	}
}

// TestSRIOVDrain has the pod evicted that is in the way of a change, by the user's leave alone, and no other.
func TestSRIOVDrain(t *testing.T) {
	sriovSetup(t)
	here := topology.Names()[0]
	leave := func(disable bool) {
		shell(t,
			fmt.Sprintf(
				`kubectl -n kube-system patch sriovoperatorconfig default --type merge -p '{"spec":{"disableDrain":%t}}'`, disable))
	}
	t.Cleanup(func() { leave(true) })
	apply(t, sriovPolicy("e2e-low", 4, 0, 3)+sriovPod("in-the-way", here))
	other := lowPod("bystander", here)
	other.devices, other.annotations = []string{guideVFs}, map[string]string{defaultNetwork: "kube-system/ib-sriov"}
	bystander := other.manifest()
	apply(t, bystander)
	shell(t, "kubectl -n e2e wait --for=condition=Ready --timeout=400s pod/in-the-way pod/bystander")
	apply(t, sriovPolicy("e2e-low", 6, 0, 5))
	eventually(t, configureLimit, func() string {
		if plan := planOf(t, here); !strings.Contains(plan, "e2e/in-the-way") {
			return "the plan does not name the pod: " + plan
		}
		return ""
	})
	time.Sleep(20 * time.Second) // longer than a drain takes to begin
	shell(t, "kubectl -n e2e get pod in-the-way")
	leave(false)
	eventually(t, podLimit, func() string {
		return differs("VFs", []string{numVFs(t, here), allocatableOf(t, here, lowVFs)}, []string{"6", "6"})
	})
	if left := strings.TrimSpace(shell(t, "kubectl -n e2e get pods -o name")); left != "pod/bystander" {
		t.Errorf("left are %s, want the bystander alone", left)
	}
	eventually(t, configureLimit, func() string {
		return differs("the node's drain", shell(t, "kubectl -n kube-system get sriovnetworknodestate "+here+
			` -o jsonpath='{.metadata.annotations.sriovnetwork\.openshift\.io/current-state} {.status.conditions[?(@.type=="Drained")].status}'`), "Idle True")
	})
}

// TestSRIOVAgentKilled kills the agent while it makes and removes VFs.
func TestSRIOVAgentKilled(t *testing.T) {
	sriovSetup(t)
	here := topology.Names()[0]
	apply(t, sriovPolicy("e2e-low", 12, 0, 11))
	eventually(t, configureLimit, func() string { return differs("at first", offered(t, lowVFs), every("12", lowVFs)) })
	want := knownGUIDs(t, here, 12)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	for round, n := range []int{4, 12} {
		apply(t, sriovPolicy("e2e-low", n, 0, n-1))
		time.Sleep(time.Duration(random.Int64N(int64(4 * time.Second))))
		t.Logf("round %d: killed while going to %d VFs, at %s", round, n, numVFs(t, here))
		restartAgent(t, here)
		eventually(t, configureLimit, func() string {
			return differs("allocatable", allocatableOf(t, here, lowVFs), fmt.Sprint(n))
		})
	}
	eventually(t, configureLimit, func() string { return differs("GUIDs", guids(t, here), want) })
}

// TestSRIOVCable pulls a card's cable and puts it back.
func TestSRIOVCable(t *testing.T) {
	sriovSetup(t)
	here, there := topology.Names()[0], topology.Names()[1]
	apply(t, sriovPolicy("e2e-low", 4, 0, 3))
	eventually(t, configureLimit, func() string { return differs("at first", offered(t, lowVFs), every("4", lowVFs)) })
	plug := func(state string) {
		node(t, here, fmt.Sprintf("echo %s >/sys/bus/pci/devices/%s/vhca_cable", state, secondCard))
	}
	t.Cleanup(func() { plug("1") })
	plug("0")
	pulled := time.Now()
	eventually(t, configureLimit, func() string { return differs("cable pulled", allocatableOf(t, here, lowVFs), "") })
	t.Logf("unhealthy %s after the cable was pulled", time.Since(pulled).Round(100*time.Millisecond))
	if got := allocatableOf(t, there, lowVFs); got != "4" {
		t.Errorf("the other node offers %s, want 4", got)
	}
	eventually(t, configureLimit, func() string {
		events := shell(t,
			"kubectl -n kube-system get events --field-selector reason=PortDown -o "+
				"jsonpath='{.items[*].message}{.items[*].note}'")
		if !strings.Contains(events, secondCard) || !strings.Contains(events, "cable") {
			return "no event says why: " + events
		}
		return ""
	})
	plug("1")
	eventually(t, configureLimit, func() string { return differs("cable back", allocatableOf(t, here, lowVFs), "4") })
}

// TestSRIOVDrift has somebody else change the number of VFs, of a card in use and of one that is not.
func TestSRIOVDrift(t *testing.T) {
	sriovSetup(t)
	here := topology.Names()[0]
	apply(t, sriovPolicy("e2e-low", 4, 0, 3))
	eventually(t, configureLimit, func() string { return differs("at first", offered(t, lowVFs), every("4", lowVFs)) })
	want := knownGUIDs(t, here, 4)
	node(t, here, fmt.Sprintf("cd /sys/bus/pci/devices/%s && echo 0 >sriov_numvfs && echo 2 >sriov_numvfs", secondCard))
	mended := func() string {
		return differs("VFs", []any{numVFs(t, here), guids(t, here), allocatableOf(t, here, lowVFs)},
			[]any{"4", want, "4"})
	}
	eventually(t, configureLimit, mended)

	apply(t, sriovPod("holder", here))
	shell(t, "kubectl -n e2e wait --for=condition=Ready --timeout=400s pod/holder")
	pci := strings.TrimSpace(shell(t, "kubectl -n e2e exec holder -- sh -c 'echo $PCIDEVICE_SPIDERNET_IO_E2E_LOW'"))
	node(t, here, fmt.Sprintf("echo %[1]s >/sys/bus/pci/devices/%[1]s/driver/unbind", others(t, here, pci)))
	eventually(t, configureLimit, func() string {
		return differs("a free VF that was unbound comes back beside one in use", allocatableOf(t, here, lowVFs), "4")
	})
	shell(t, "kubectl -n e2e exec holder -- ip link show eth0")
	shell(t, "kubectl -n e2e delete pod holder --grace-period=0")
	eventually(t, configureLimit, mended)
}

// others returns a VF of the second card other than the given one.
func others(t *testing.T, name, pci string) string {
	t.Helper()
	for vf := range strings.FieldsSeq(node(t, name, "for l in /sys/bus/pci/devices/"+secondCard+
		"/virtfn*; do basename $(readlink -f $l); done")) {
		if vf != pci {
			return vf
		}
	}
	t.Fatalf("%s has no VF but %s", name, pci)
	return ""
}

// TestSRIOVKubelet restarts the kubelet again and again while pods come and go.
func TestSRIOVKubelet(t *testing.T) {
	restarts := atLength(3, 10)
	sriovSetup(t)
	here := topology.Names()[0]
	apply(t, sriovPolicy("e2e-low", 6, 0, 5)+sriovPod("stays", here))
	eventually(t, configureLimit, func() string { return differs("at first", offered(t, lowVFs), every("6", lowVFs)) })
	shell(t, "kubectl -n e2e wait --for=condition=Ready --timeout=400s pod/stays")
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	var wrong wrongness
	running.Go(func() { wrong.watch(ctx, t, here, "6") })
	running.Go(func() { churn(ctx, t, here) })
	for range restarts {
		node(t, here, restartKubelet)
		eventually(t, podLimit, func() string {
			return differs("allocatable after a restart of the kubelet", allocatableOf(t, here, lowVFs), "6")
		})
	}
	stop()
	running.Wait()
	t.Logf("%d restarts of the kubelet: allocatable was not 6 in %d of %d looks, for %s at most", restarts, wrong.times,
		wrong.looks, wrong.longest.Round(100*time.Millisecond))
	shell(t, "kubectl -n e2e delete pods -l e2e=churn --grace-period=0 --timeout=300s")
	eventually(t, configureLimit, func() string {
		return differs("left behind",
			strings.Fields(shell(t,
				`kubectl get pods -A -o jsonpath='{range .items[?(@.status.reason=="UnexpectedAdmissionError")]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}'`)), []string{})
	})
	shell(t, "kubectl -n e2e exec stays -- ip link show eth0")
	apply(t, manifestOf(5, func(i int) string { return sriovPod(fmt.Sprint("all-", i), here) }))
	shell(t, "kubectl -n e2e wait --for=condition=Ready --timeout=400s pod -l e2e=sriov")
}

// restartKubelet ends the kubelet and returns when the next one has looked at its pods.
//
//nolint:lll // the lines of a raw string
const restartKubelet = `old=$(pgrep -x kubelet); pkill -x kubelet
for i in $(seq 300); do
  new=$(pgrep -x kubelet || true)
  if [ -n "$new" ] && [ "$new" != "$old" ] && curl -sf http://127.0.0.1:10248/healthz >/dev/null; then sleep 2; exit 0; fi
  sleep 0.2
done
echo "no kubelet after a minute" >&2; exit 1`

func manifestOf(n int, of func(int) string) string {
	var all strings.Builder
	for i := range n {
		all.WriteString(of(i))
	}
	return all.String()
}

// wrongness is how often, and how long, allocatable was not what it should be.
type wrongness struct {
	looks, times int
	longest      time.Duration
}

func (w *wrongness) watch(ctx context.Context, t *testing.T, node, want string) {
	var since time.Time
	for ctx.Err() == nil {
		got := allocatableOf(t, node, lowVFs)
		w.looks++
		switch {
		case got == want:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
			w.times++
		default:
			w.times++
			w.longest = max(w.longest, time.Since(since))
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// churn makes pods and deletes them.
func churn(ctx context.Context, t *testing.T, node string) {
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprint("churn-", i)
		p := lowPod(name, node)
		p.label = "churn"
		apply(t, p.manifest())
		select {
		case <-ctx.Done():
		case <-time.After(8 * time.Second):
		}
		shell(t, "kubectl -n e2e delete pod --grace-period=0 --wait=false "+name)
	}
}

// TestSRIOVReboot restarts a node under pods, as if its power had failed. The kubelet admits pods
// anew before any device plugin can have registered, and refuses those that have a device
// (devicesToAllocate in its device manager: "node reboot"); whoever owns them makes others. These
// get working devices, of VFs under the GUIDs of before.
func TestSRIOVReboot(t *testing.T) {
	sriovSetup(t)
	pods := atLength(4, 12)
	vfs := pods // each has one
	here := topology.Nodes()[0]
	apply(t, sriovPolicy("e2e-low", vfs, 0, vfs-1))
	eventually(t, configureLimit, func() string {
		return differs("at first", allocatableOf(t, here.Name, lowVFs), fmt.Sprint(vfs))
	})
	apply(t, deploymentOf(sriovPod("reboot", here.Name), pods))
	t.Cleanup(func() { shell(t, "kubectl -n e2e delete deployment reboot --timeout=300s") })
	shell(t, "kubectl -n e2e rollout status deployment/reboot --timeout=700s")
	want := knownGUIDs(t, here.Name, vfs)
	if err := laboratory.Reboot(t.Context(), here, true); err != nil {
		t.Fatal(err)
	}
	rebooted := time.Now()
	eventually(t, 12*time.Minute, func() string {
		running := strings.Fields(shell(t,
			`kubectl -n e2e get pods -l e2e=sriov -o jsonpath='{range .items[?(@.status.phase=="Running")]}{.metadata.name}{"\n"}{end}'`))
		if len(running) != pods {
			return fmt.Sprintf("%d pods run, want %d", len(running), pods)
		}
		for _, name := range running {
			if lacks := works(t, name); lacks != "" {
				return lacks
			}
		}
		return ""
	})
	took := time.Since(rebooted).Round(time.Second)
	eventually(t, podLimit, func() string {
		return differs("pods that are left",
			strings.Fields(shell(t,
				`kubectl -n e2e get pods -l e2e=sriov -o jsonpath='{range .items[?(@.status.phase!="Running")]}{.metadata.name}{"\n"}{end}'`)), []string{})
	})
	t.Logf("%d pods have working devices %s after the reboot; the kubelet refused %s, and they are gone", pods, took,
		strings.TrimSpace(shell(t,
			`kubectl -n e2e get events --field-selector reason=RefusedPodRemoved -o name | wc -l`)))
	eventually(t, configureLimit, func() string {
		return differs("after the reboot", []any{guids(t, here.Name), allocatableOf(t, here.Name, lowVFs)},
			[]any{want, fmt.Sprint(vfs)})
	})
}

// deploymentOf has a Deployment make pods like this one.
func deploymentOf(pod string, replicas int) string {
	_, pod, _ = strings.Cut(pod, "metadata:\n")
	return fmt.Sprintf(`---
apiVersion: apps/v1
kind: Deployment
metadata: {name: reboot, namespace: e2e}
spec:
  replicas: %d
  selector: {matchLabels: {e2e: sriov}}
  template:
    metadata:
%s`, replicas, indented(pod, "    "))
}

func indented(text, by string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(by + line)
	}
	return b.String()
}

// works says what a pod lacks: an interface that is up, and its own RDMA device that opens and has
// an active port.
func works(t *testing.T, pod string) string {
	out, err := term.Shell(t.Context(),
		fmt.Sprintf("kubectl -n e2e exec %s -- sh -c 'ip -br addr show eth0 && ibv_devinfo'", pod))
	switch {
	case err != nil:
		return fmt.Sprintf("pod %s: %v", pod, err)
	case !strings.Contains(out, "172.93.") || strings.Count(out, "hca_id:") != 1 ||
		!strings.Contains(out, "PORT_ACTIVE"):
		return fmt.Sprintf("pod %s: %s", pod, out)
	}
	return ""
}
