// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"spidernet.io/spiderpool/lab/demo"
	"spidernet.io/spiderpool/lab/internal/cache"
	"spidernet.io/spiderpool/lab/internal/previous"
	"spidernet.io/spiderpool/lab/internal/topology"
	"spidernet.io/spiderpool/release/image"
	"spidernet.io/spiderpool/release/product"
	"spidernet.io/spiderpool/release/source"
)

// previousVersion is what the previous chart's image is called.
const previousVersion = "v0.1.0"

// upgradePods are one pod of each kind on each node. The first two leave after the upgrade, the
// others after the downgrade.
var upgradePods = []pod{
	{name: "rdma-0", namespace: "e2e", node: topology.Names()[0], vfs: 1,
		annotations: map[string]string{defaultNetwork: "kube-system/ib-sriov"}},
	{name: "tcp-0", namespace: "e2e", node: topology.Names()[0],
		annotations: map[string]string{defaultNetwork: "kube-system/ipoib"}},
	{name: "rdma-1", namespace: "e2e", node: topology.Names()[1], vfs: 1,
		annotations: map[string]string{defaultNetwork: "kube-system/ib-sriov"}},
	{name: "tcp-1", namespace: "e2e", node: topology.Names()[1],
		annotations: map[string]string{defaultNetwork: "kube-system/ipoib"}},
}

// TestUpgrade installs the previous version, from its own chart and by its own guide, on the cluster
// that TestUninstall has cleaned; runs pods; upgrades as users do, with their values reused; and goes
// back one version. It is the last test because nothing can use the cluster afterwards, and it
// begins on a clean one so that the previous version finds no CRDs and records of the present one.
func TestUpgrade(t *testing.T) {
	onlyLong(t)
	dir := publishPrevious(t)
	install := fmt.Sprintf(
		"helm upgrade --install spiderpool %s/charts/spiderpool --namespace kube-system --set sriov.install=true "+
			"--wait --timeout 5m", dir)
	steps, err := demo.Setup(demo.Options{Nodes: topology.Names(), Install: install})
	if err != nil {
		t.Fatal(err)
	}
	results, err := demo.New(term, t.Output()).Run(t.Context(), steps)
	if err != nil {
		t.Fatalf("installing the previous version: %v: %v", err, results)
	}
	empty := look(t)
	shell(t, "kubectl create namespace e2e --dry-run=client -o yaml | kubectl apply -f -")
	apply(t, manifests(upgradePods))
	shell(t, "kubectl -n e2e wait --for=condition=Ready --timeout=400s pod --all")
	before := running(t)
	endTraffic := traffic(t)

	shell(t,
		fmt.Sprintf(
			"helm upgrade spiderpool %s --version %s --plain-http --namespace kube-system --reuse-values --wait "+
				"--timeout 5m",
			chart, releaseVersion))
	checkVersion(t, releaseVersion)
	same(t, "upgrade", before)
	endTraffic("upgrade")
	gone(t, empty, upgradePods[:2], upgradePods[2:])

	// Pods that the present version attached, as well, go through the downgrade.
	apply(t, manifests(upgradePods[:2]))
	shell(t, "kubectl -n e2e wait --for=condition=Ready --timeout=400s pod --all")
	before = running(t)
	endTraffic = traffic(t)
	shell(t, "helm rollback spiderpool 1 --namespace kube-system --wait --timeout 5m")
	checkVersion(t, previousVersion)
	same(t, "downgrade", before)
	endTraffic("downgrade")
	gone(t, empty, upgradePods, nil)
}

// publishPrevious compiles the previous version, pushes its image under the name that its chart has,
// and has the nodes find that registry at the lab's, as at a mirror. It returns the sources.
func publishPrevious(t *testing.T) string {
	t.Helper()
	clone := laboratory.Source.Product()
	dir, err := previous.Source(t.Context(), laboratory.Cache, clone)
	if err != nil {
		t.Fatal(err)
	}
	machines := product.Platform{OS: "linux", Arch: "amd64"}
	stamp := source.Stamp{Version: previousVersion, Commit: previous.Commit}
	bin, err := laboratory.Cache.Get("previous-programs", cache.NewKey("1", previous.Commit, runtime.Version()),
		func(bin string) error {
			return product.Build(t.Context(), dir, machines, stamp, bin)
		})
	if err != nil {
		t.Fatal(err)
	}
	layer, err := product.Layer(bin, product.Licenses(dir))
	if err != nil {
		t.Fatal(err)
	}
	img, err := image.Build(layer, product.Config(machines, stamp, ""))
	if err != nil {
		t.Fatal(err)
	}
	pushImage(t, "spidernet-io/spiderpool/spiderpool", previousVersion, img)
	for _, n := range topology.Names() {
		node(t, n, "cd /etc/containerd/certs.d && mkdir -p ghcr.io && cp 10.20.1.1:5000/hosts.toml ghcr.io/")
	}
	return dir
}

// checkVersion waits until every container of the product is of a version, and every node is ready.
func checkVersion(t *testing.T, version string) {
	t.Helper()
	shell(t,
		"kubectl -n kube-system rollout status --timeout=300s daemonset,deployment -l "+
			"app.kubernetes.io/name=spiderpool")
	ids := shell(t,
		"kubectl -n kube-system get pods -l app.kubernetes.io/component=agent -o "+
			"jsonpath='{..containerStatuses[*].image}'")
	if strings.HasPrefix(version, "v") != strings.Contains(ids, "ghcr.io") {
		t.Errorf("the agents run %s, expected version %s", ids, version)
	}
	for _, n := range topology.Names() {
		eventually(t, podLimit, func() string {
			if out, err := term.Node(t.Context(), n,
				"curl -sf http://127.0.0.1:5710/v1/runtime/readiness"); err != nil {
				return "the agent on " + n + " is not ready: " + out + err.Error()
			}
			return ""
		})
	}
}

// runningPods is all of the tests' pods that an upgrade could touch.
type runningPods struct {
	Pods    map[string]podState
	Records map[string][]string // node -> attachments in the agent's records
	Nodes   map[string]string   // node -> links and RDMA devices
	Leases  []string
}

type podState struct {
	UID, ContainerID, Started, IP, Status string
	Restarts                              int
	Inside                                string
}

// insidePod prints what a pod has of the network and of RDMA.
const insidePod = `ip -o addr; ip route; ip rule; rdma link; for f in /sys/class/infiniband/*/node_guid; do [ -e $f ] && cat $f; done; cat /sys/class/net/eth0/address`

func running(t *testing.T) runningPods {
	t.Helper()
	r := runningPods{Pods: map[string]podState{}, Records: map[string][]string{}, Nodes: map[string]string{}}
	var list struct {
		Items []struct {
			Metadata struct {
				Name, UID   string
				Annotations map[string]string
			}
			Status struct {
				PodIP             string
				ContainerStatuses []struct {
					ContainerID  string
					RestartCount int
					State        struct{ Running struct{ StartedAt string } }
				}
			}
		}
	}
	decode(t, shell(t, "kubectl -n e2e get pods -o json"), &list)
	for _, p := range list.Items {
		c := p.Status.ContainerStatuses[0]
		r.Pods[p.Metadata.Name] = podState{
			UID: p.Metadata.UID, ContainerID: c.ContainerID, Started: c.State.Running.StartedAt,
			Restarts: c.RestartCount,
			IP:       p.Status.PodIP, Status: p.Metadata.Annotations["k8s.v1.cni.cncf.io/network-status"],
			Inside: shell(t, fmt.Sprintf("kubectl -n e2e exec %s -- sh -c '%s'", p.Metadata.Name, insidePod)),
		}
	}
	for _, n := range topology.Names() {
		r.Nodes[n] = node(t, n, devicesOfNode)
		r.Records[n] = attachments(t, n)
	}
	r.Leases = strings.Fields(shell(t,
		`kubectl get spideripleases -o jsonpath='{range .items[?(@.spec.pod)]}{.metadata.name}/{.spec.pod.uid}{"\n"}{end}' | sort`))
	return r
}

// attachments are the records of the tests' pods: sandbox, network namespace, and each attachment.
func attachments(t *testing.T, name string) []string {
	t.Helper()
	var sandboxes []struct {
		ContainerID, NetNS string
		Pod                struct{ Namespace, Name string }
		Attachments        []struct{ Network, IfName, DeviceID, Phase string }
	}
	decode(t, node(t, name, "curl -sf http://127.0.0.1:5710/v1/node/sandboxes"), &sandboxes)
	all := []string{}
	for _, s := range sandboxes {
		if s.Pod.Namespace == "e2e" {
			all = append(all, fmt.Sprintf("%s %s %s %v", s.Pod.Name, s.ContainerID, s.NetNS, s.Attachments))
		}
	}
	return all
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

// same compares the pods with what they were before a step. Nodes may have other links of the
// product's own, which come and go with it; pods' ends are compared inside the pods.
func same(t *testing.T, step string, before runningPods) {
	t.Helper()
	if len(before.Pods) != len(upgradePods) {
		t.Errorf("%d pods ran before the %s, expected %d", len(before.Pods), step, len(upgradePods))
	}
	for name, records := range before.Records {
		if len(records) != len(upgradePods)/2 {
			t.Errorf("before the %s, %s had the records %q, expected %d", step, name, records, len(upgradePods)/2)
		}
	}
	if diff := differs("pods, records and leases after the "+step, running(t), before); diff != "" {
		t.Error(diff)
	}
}

// traffic has the pods of each kind ping each other until the function that it returns is called.
func traffic(t *testing.T) (end func(step string)) {
	t.Helper()
	ends := map[string]func() (int, int){}
	for _, kind := range []string{"rdma", "tcp"} {
		address := strings.TrimSpace(shell(t, "kubectl -n e2e get pod "+kind+"-1 -o jsonpath='{.status.podIP}'"))
		ends[kind] = pinging(t, kind+"-0", address)
	}
	return func(step string) {
		t.Helper()
		for kind, end := range ends {
			sent, back := end()
			t.Logf("%s: %d of %d packets between the pods on %s came back", step, back, sent, kind)
			if sent < 25 || back*100 < sent*98 { // an emulated machine may be late with one or another
				t.Errorf("%s: of %d packets between the pods on %s %d came back", step, sent, kind, back)
			}
		}
	}
}

// gone deletes pods and waits until the nodes have nothing of them: what they had without any pod,
// when none stay, and no record.
func gone(t *testing.T, empty snapshot, leave, stay []pod) {
	t.Helper()
	var names []string
	for _, p := range leave {
		names = append(names, p.name)
	}
	shell(t, "kubectl -n e2e delete --timeout=300s pod "+strings.Join(names, " "))
	eventually(t, configureLimit, func() string {
		left := 0
		for _, n := range topology.Names() {
			left += len(attachments(t, n))
		}
		return differs("pods with records", left, len(stay))
	})
	if len(stay) == 0 {
		eventually(t, configureLimit, func() string { return differs("left behind", look(t), empty) })
	}
}
