// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func guidePool(change ...func(*v2beta1.SpiderIPPool)) *v2beta1.SpiderIPPool {
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "v4-91", Generation: 1}, Spec: v2beta1.IPPoolSpec{
		Subnet: "172.91.0.0/16", Gateway: new("172.91.0.1"), IPs: []string{"172.91.0.100-172.91.0.120"},
	}}
	for _, c := range change {
		c(p)
	}
	return p
}

// podLease is a lease of the pool; without a pod name it is stock.
func podLease(pool, ip, pod string) v2beta1.SpiderIPLease {
	l := v2beta1.SpiderIPLease{ObjectMeta: metav1.ObjectMeta{Name: v2beta1.LeaseName(pool, netip.MustParseAddr(ip))}}
	l.Spec = v2beta1.IPLeaseSpec{Pool: pool, IP: ip, Node: "10-20-1-10"}
	if pod != "" {
		l.Spec.Pod = &v2beta1.LeasePod{Namespace: "default", Name: pod, UID: "uid-" + pod, Interface: "eth0"}
	}
	return l
}

func TestStatusOf(t *testing.T) {
	small := func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"172.91.0.100-172.91.0.101"} }
	two := []v2beta1.SpiderIPLease{podLease("v4-91", "172.91.0.101", "b"), podLease("v4-91", "172.91.0.100", "a")}
	reserved := netip.MustParseAddr("172.91.0.101")
	tests := []struct {
		name     string
		pool     *v2beta1.SpiderIPPool
		leases   []v2beta1.SpiderIPLease
		reserved []netip.Addr
	}{
		{"guide", guidePool(), nil, nil},
		{"guide-one-pod", guidePool(), two[1:], nil},
		{"stock", guidePool(), []v2beta1.SpiderIPLease{podLease("v4-91", "172.91.0.100", "")}, nil},
		{"exhausted", guidePool(small), two, nil},
		{"exhausted-by-reserved", guidePool(small), two[1:], []netip.Addr{reserved}},
		{"disabled", guidePool(func(p *v2beta1.SpiderIPPool) { p.Spec.Disable = new(true) }), two, nil},
		{"empty", guidePool(func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = nil }), nil, nil},
		{"invalid", guidePool(func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"172.91.0.120-172.91.0.100"} }),
			two, nil},
		{"terminating", guidePool(func(p *v2beta1.SpiderIPPool) { p.DeletionTimestamp = new(metav1.Now()) }), two, nil},
		{"outside", guidePool(), []v2beta1.SpiderIPLease{podLease("v4-91", "172.91.0.200", "c")}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var b netipx.IPSetBuilder
			for _, ip := range test.reserved {
				b.Add(ip)
			}
			set, err := b.IPSet()
			if err != nil {
				t.Fatal(err)
			}
			status := statusOf(test.pool, test.leases, set, nil)
			for i := range status.Conditions {
				status.Conditions[i].LastTransitionTime = metav1.Time{}
			}
			compareGolden(t, test.name, status)
		})
	}
}

func compareGolden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "status", name+".yaml")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; run the test with -update", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// A pool with more users than the text may list still counts them all.
func TestStatusListsNoMoreThanFits(t *testing.T) {
	pool := guidePool(func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"172.91.1.0-172.91.255.255"} })
	var leases []v2beta1.SpiderIPLease
	for i := range maxListed + 1 {
		leases = append(leases, podLease("v4-91", fmt.Sprintf("172.91.%d.%d", 1+i/256, i%256), fmt.Sprint("p", i)))
	}
	status := statusOf(pool, leases, nil, nil)
	listed := map[string]v2beta1.AllocatedIP{}
	if err := json.Unmarshal([]byte(*status.AllocatedIPs), &listed); err != nil {
		t.Fatal(err)
	}
	if len(listed) != maxListed || *status.AllocatedIPCount != maxListed+1 {
		t.Errorf("listed %d, counted %d", len(listed), *status.AllocatedIPCount)
	}
}

// A status that lists thousands of addresses is written seldom, however often the leases change.
func TestDelayOfStatus(t *testing.T) {
	api := runtime.NewScheme()
	if err := v2beta1.AddToScheme(api); err != nil {
		t.Fatal(err)
	}
	pool := func(name string, used *int64) client.Object {
		return guidePool(func(p *v2beta1.SpiderIPPool) { p.Name, p.Status.AllocatedIPCount = name, used })
	}
	c := fake.NewClientBuilder().WithScheme(api).WithObjects(pool("new", nil), pool("small", new(int64(21))),
		pool("large", new(int64(1000))), pool("huge", new(int64(1000000)))).Build()
	delay := (&statusReconciler{client: c}).delayOf(time.Second)
	for name, want := range map[string]time.Duration{"absent": 1, "new": 1, "small": 1, "large": 11, "huge": 51} {
		if got := delay(t.Context(), name); got != want*time.Second {
			t.Errorf("pool %s: %s, want %s", name, got, want*time.Second)
		}
	}
}
