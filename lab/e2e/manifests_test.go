// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"strings"
	"testing"

	"spidernet.io/spiderpool/lab/internal/topology"
)

// TestExamples applies the manifests of examples/ as users find them, on top of the guide's, which
// have the same names. The file is named so that TestGuide, which installs the product, runs first:
// go test goes by the names of files.
func TestExamples(t *testing.T) {
	before := remember(t)
	shell(t, "kubectl create namespace examples")
	t.Cleanup(func() {
		shell(t, `kubectl delete namespace examples --timeout=400s
kubectl delete spiderippool license-server --ignore-not-found --timeout=200s`)
		eventually(t, configureLimit, func() string { return differs("left behind", look(t), before) })
	})
	shell(t, `for f in examples/*.yaml; do kubectl apply -f "$f"; done`)
	shell(t, `kubectl -n examples rollout status --timeout=500s daemonset/ib-sriov
kubectl -n examples rollout status --timeout=500s daemonset/ipoib
kubectl -n examples rollout status --timeout=500s statefulset/storage
kubectl -n examples rollout status --timeout=500s statefulset/rank
kubectl -n examples wait --for=condition=Ready --timeout=500s pod/license-server pod/two-networks`)

	address := func(pod string) string {
		t.Helper()
		return strings.TrimSpace(shell(t, "kubectl -n examples get pod "+pod+" -o jsonpath='{.status.podIP}'"))
	}
	fabric := netip.MustParsePrefix("172.91.0.0/16")
	for _, pod := range []string{"storage-0", "storage-1", "rank-0", "rank-1"} {
		if a, err := netip.ParseAddr(address(pod)); err != nil || !fabric.Contains(a) {
			t.Errorf("%s has the address %s, expected one of %s: %v", pod, a, fabric, err)
		}
	}
	if got := address("license-server"); got != "172.91.0.200" {
		t.Errorf("license-server has the address %q, expected the only one of its pool, 172.91.0.200", got)
	}
	out := shell(t, "kubectl -n examples exec two-networks -- ip -br -4 addr show")
	primary := strings.TrimSuffix(topology.Nodes()[0].PodCIDR.String(), "10.0/24") // 10.244.
	if !strings.Contains(out, "ib0") || !strings.Contains(out, "172.91.0.") || !strings.Contains(out, primary) {
		t.Errorf("two-networks has the addresses %q, expected one of the cluster's and one of %s on ib0", out, fabric)
	}
	for _, rank := range []string{"rank-0", "rank-1"} {
		if out := shell(t, "kubectl -n examples exec "+rank+" -- ibv_devinfo"); !strings.Contains(out, "PORT_ACTIVE") {
			t.Errorf("%s has no RDMA device with an active port: %s", rank, out)
		}
	}
	kept := address("storage-0")
	shell(t, "kubectl -n examples delete pod storage-0 --timeout=300s")
	shell(t, "kubectl -n examples rollout status --timeout=500s statefulset/storage")
	if got := address("storage-0"); got != kept {
		t.Errorf("storage-0 has the address %s after it was re-created, and had %s: it must keep it", got, kept)
	}
}
