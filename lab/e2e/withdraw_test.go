// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"spidernet.io/spiderpool/lab/internal/topology"
)

// plainPod asks for nothing of ours.
var plainPod = pod{name: "plain", namespace: "e2e"}.manifest()

// leftOnNode is what docs/uninstall.md says that there is nothing of, and what a node had before
// the product came.
const leftOnNode = `ls -d /var/lib/spidernet /run/spidernet /etc/cni/net.d/00-multus.conf /opt/cni/bin/spiderpool-cni /opt/cni/bin/multus 2>/dev/null
ls /opt/cni/bin | tr '\n' ' '; echo
cat /sys/bus/pci/devices/*/sriov_numvfs | tr '\n' ' '; echo
ip -o link show | grep -oE '\b(veth[0-9a-f]{11}|ibc[0-9a-f]{12})\b'; ip rule | grep -c 'lookup 500' || true`

// TestUninstall follows docs/uninstall.md on the cluster that all tests before it used. It is the
// last, as its file is.
func TestUninstall(t *testing.T) {
	doc, err := os.ReadFile("../../docs/uninstall.md")
	if err != nil {
		t.Fatal(err)
	}
	job := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(doc)
	if job == nil {
		t.Fatal("docs/uninstall.md has no manifest")
	}
	image := strings.TrimSpace(shell(t, `kubectl -n kube-system get ds spiderpool-agent -o jsonpath='{..image}'`))

	// 1. Workloads, and 2. policies and networks.
	shell(t, "kubectl -n default delete deployments,daemonsets,statefulsets,jobs,pods --all --timeout=300s")
	for _, name := range topology.Names() {
		eventually(t, podLimit, func() string {
			return differs("records of InfiniBand on "+name, ofUs(records(t, name)),
				[]string{})
		})
	}
	shell(t, "kubectl -n kube-system delete sriovnetworknodepolicies --all --timeout=60s")
	eventually(t, configureLimit, func() string {
		return differs("VFs",
			strings.Fields(shell(t,
				`kubectl -n kube-system get sriovnetworknodestates -o jsonpath='{.items[*].status.interfaces[*].numVfs}'`)), []string{})
	})
	shell(t,
		"kubectl delete spidermultusconfigs -A --all --timeout=60s; kubectl delete spiderippools,spiderreservedips "+
			"--all --timeout=200s")

	// 3. The release.
	shell(t,
		`helm -n kube-system upgrade spiderpool charts/spiderpool --reuse-values --set multus.multusCNI.uninstall=true
kubectl -n kube-system rollout status --timeout=400s daemonset/spiderpool-agent
helm -n kube-system uninstall spiderpool --wait --timeout=300s`)
	eventually(t, podLimit, func() string {
		return differs("pods",
			strings.Fields(shell(t, "kubectl -n kube-system get pods -l app.kubernetes.io/component=agent -o name")),
			[]string{})
	})

	// 4. The nodes.
	for _, name := range topology.Names() {
		for _, args := range []string{"[purge, --yes]", "[purge]"} {
			manifest := strings.NewReplacer("NODE", name, "IMAGE", image, "[purge, --yes]",
				args).Replace(string(job[1]))
			apply(t, manifest)
			wait := "kubectl -n kube-system wait --for=condition=Complete --timeout=300s job/spiderpool-purge-" + name
			if _, err := tolerant(t, wait); err != nil {
				t.Fatalf("%v\n%s", err, shell(t, "kubectl -n kube-system describe job spiderpool-purge-"+name+
					"; kubectl -n kube-system logs job/spiderpool-purge-"+name))
			}
			said := shell(t, "kubectl -n kube-system logs job/spiderpool-purge-"+name+
				"; kubectl -n kube-system delete job spiderpool-purge-"+name)
			if args == "[purge]" && !strings.Contains(said, "nothing of the product is left on this node") {
				t.Errorf("purge once more on %s says:\n%s", name, said)
			}
		}
		if diff := differs("on "+name, strings.Split(node(t, name, leftOnNode), "\n"), []string{
			"bridge host-local ipvlan loopback macvlan portmap ptp static tuning vlan ", "0 0 ", "0", ""}); diff != "" {
			t.Error(diff)
		}
	}

	// 5. The cluster.
	shell(t,
		`kubectl get crd -o name | grep -E 'spiderpool.spidernet.io|sriovnetwork.openshift.io|network-attachment-definitions' | xargs kubectl delete --timeout=120s
kubectl -n kube-system delete lease -l app.kubernetes.io/part-of=spiderpool
kubectl -n kube-system delete lease spiderpool-controller spiderpool-sriov-operator --ignore-not-found`)
	shell(t, "kubectl create namespace e2e --dry-run=client -o yaml | kubectl apply -f -")
	apply(t, plainPod)
	shell(t,
		"kubectl -n e2e wait --for=condition=Ready --timeout=300s pod/plain; kubectl delete namespace e2e "+
			"--timeout=200s")
	if left := shell(t,
		`kubectl get crd,clusterrole,clusterrolebinding,validatingwebhookconfiguration,mutatingwebhookconfiguration -o name | grep -iE 'spider|sriov|k8s.cni.cncf.io' || true
kubectl -n kube-system get lease,configmap,secret,serviceaccount,role,rolebinding,service,deployment,daemonset,pod -o name | grep -iE 'spider|sriov' || true`); left != "" {
		t.Errorf("left in the cluster:\n%s", left)
	}
}

// ofUs are the records of pods in the namespaces that have networks of ours; those of the product's
// own pods are of the primary network.
func ofUs(records string) []string {
	out := []string{}
	for pod := range strings.Lines(records) {
		if !strings.HasPrefix(pod, "kube-system/") {
			out = append(out, strings.TrimSpace(pod))
		}
	}
	return out
}
