// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var both = Families{IPv4: true, IPv6: true}

// guidePool is the pool of the user's guide, changed by the caller.
func guidePool(change ...func(*SpiderIPPool)) *SpiderIPPool {
	p := &SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "v4-91"},
		Spec: IPPoolSpec{
			Subnet: "172.91.0.0/16", Gateway: new("172.91.0.1"), IPs: []string{"172.91.0.100-172.91.0.120"},
		},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func lease(pool, ip, pod string) SpiderIPLease {
	return SpiderIPLease{
		ObjectMeta: metav1.ObjectMeta{Name: LeaseName(pool, netip.MustParseAddr(ip))},
		Spec: IPLeaseSpec{Pool: pool, IP: ip, Node: "n1", Pod: &LeasePod{Namespace: "default", Name: pod,
			UID: "u-" + pod, Interface: "eth0"}},
	}
}

func text(errs field.ErrorList) string {
	if len(errs) == 0 {
		return ""
	}
	return errs.ToAggregate().Error()
}

func TestDefaultIPPool(t *testing.T) {
	p := guidePool()
	DefaultIPPool(p)
	want := guidePool(func(p *SpiderIPPool) {
		p.Finalizers = []string{"spiderpool.spidernet.io"}
		p.Labels = map[string]string{"ipam.spidernet.io/ippool-cidr": "172-91-0-0-16"}
		p.Spec.IPVersion = new(int64(4))
	})
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("guide's pool (-want +got):\n%s", diff)
	}
	DefaultIPPool(p)
	if diff := cmp.Diff(want, p); diff != "" {
		t.Errorf("defaulted twice (-want +got):\n%s", diff)
	}

	p = guidePool(func(p *SpiderIPPool) {
		p.Spec.IPs = []string{"172.91.0.9", "172.91.0.8"}
		p.Spec.ExcludeIPs = []string{"172.91.0.9-172.91.0.8", "172.91.0.1"}
	})
	DefaultIPPool(p)
	if diff := cmp.Diff([]string{"172.91.0.8-172.91.0.9"}, p.Spec.IPs); diff != "" {
		t.Errorf("ips (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"172.91.0.9-172.91.0.8", "172.91.0.1"}, p.Spec.ExcludeIPs); diff != "" {
		t.Errorf("an unreadable list was changed (-want +got):\n%s", diff)
	}

	p = guidePool(func(p *SpiderIPPool) { p.DeletionTimestamp = new(metav1.Now()) })
	DefaultIPPool(p)
	if len(p.Finalizers) > 0 || p.Spec.IPVersion != nil {
		t.Errorf("a pool that is being deleted was changed: %+v", p)
	}
}

func TestLeaseAddress(t *testing.T) {
	good := lease("v4-91", "172.91.0.100", "a")
	if ip, err := good.Address(); err != nil || ip != netip.MustParseAddr("172.91.0.100") {
		t.Errorf("Address() = %v, %v", ip, err)
	}
	bad := lease("v4-91", "172.91.0.100", "a")
	bad.Name = "v4-91.172-91-0-101"
	const want = "lease v4-91.172-91-0-101: its pool v4-91 and address 172.91.0.100 belong to the name " +
		"v4-91.172-91-0-100; delete this object"
	if _, err := bad.Address(); err == nil || err.Error() != want {
		t.Errorf("a lease under a false name: %v, want %s", err, want)
	}
}
