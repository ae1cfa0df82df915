package v2beta1

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

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
		Spec:       IPLeaseSpec{Pool: pool, IP: ip, Node: "n1", Pod: &LeasePod{Namespace: "default", Name: pod, UID: "u-" + pod, Interface: "eth0"}},
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

func TestValidateIPPool(t *testing.T) {
	type change = func(*SpiderIPPool)
	other := func(name, subnet string, ips ...string) SpiderIPPool {
		return SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: IPPoolSpec{Subnet: subnet, IPs: ips}}
	}
	tests := []struct {
		name     string
		change   change
		families Families
		others   []SpiderIPPool
		want     string
	}{
		{name: "the guide's pool", change: func(*SpiderIPPool) {}},
		{name: "no addresses yet", change: func(p *SpiderIPPool) { p.Spec.IPs = nil }},
		{name: "gateway excluded by the user", change: func(p *SpiderIPPool) {
			p.Spec.IPs, p.Spec.ExcludeIPs = []string{"172.91.0.1-172.91.0.9"}, []string{"172.91.0.1"}
		}},
		{name: "equal subnet, other addresses", change: func(*SpiderIPPool) {},
			others: []SpiderIPPool{other("a", "172.91.0.0/16", "172.91.0.121-172.91.0.130")}},
		{name: "itself among the others", change: func(*SpiderIPPool) {}, others: []SpiderIPPool{*guidePool()}},
		{name: "subnet is no CIDR", change: func(p *SpiderIPPool) { p.Spec.Subnet = "172.91.0.0" },
			want: `spec.subnet: Invalid value: "172.91.0.0": is not a CIDR; want for example 192.0.2.0/24 or 2001:db8::/64`},
		{name: "host bits set", change: func(p *SpiderIPPool) { p.Spec.Subnet = "172.91.0.10/16" },
			want: `spec.subnet: Invalid value: "172.91.0.10/16": has host bits set; write 172.91.0.0/16`},
		{name: "version against subnet", change: func(p *SpiderIPPool) { p.Spec.IPVersion = new(int64(6)) },
			want: `spec.ipVersion: Invalid value: 6: the subnet 172.91.0.0/16 is IPv4; write 4 or leave the field out`},
		{name: "family not enabled", change: func(*SpiderIPPool) {}, families: Families{IPv6: true},
			want: `spec.ipVersion: Forbidden: IPv4 is not enabled; set enableIPv4: true in the product's configuration`},
		{name: "range backwards", change: func(p *SpiderIPPool) { p.Spec.IPs = []string{"172.91.0.120-172.91.0.100"} },
			want: `spec.ips[0]: Invalid value: "172.91.0.120-172.91.0.100": runs backwards; write 172.91.0.100-172.91.0.120`},
		{name: "address outside", change: func(p *SpiderIPPool) { p.Spec.IPs = []string{"172.92.0.5"} },
			want: `spec.ips[0]: Invalid value: "172.92.0.5": lies outside the subnet 172.91.0.0/16; use addresses from 172.91.0.0 to 172.91.255.255`},
		{name: "address of the other family", change: func(p *SpiderIPPool) { p.Spec.IPs = []string{"fd00::1"} },
			want: `spec.ips[0]: Invalid value: "fd00::1": lies outside the subnet 172.91.0.0/16; use addresses from 172.91.0.0 to 172.91.255.255`},
		{name: "excluded outside", change: func(p *SpiderIPPool) { p.Spec.ExcludeIPs = []string{"172.91.0.1", "10.0.0.1"} },
			want: `spec.excludeIPs[1]: Invalid value: "10.0.0.1": lies outside the subnet 172.91.0.0/16; use addresses from 172.91.0.0 to 172.91.255.255`},
		{name: "gateway is no address", change: func(p *SpiderIPPool) { p.Spec.Gateway = new("172.91.0.0/16") },
			want: `spec.gateway: Invalid value: "172.91.0.0/16": is not an IP address; want for example 192.0.2.10 or 2001:db8::10`},
		{name: "gateway outside", change: func(p *SpiderIPPool) { p.Spec.Gateway = new("172.92.0.1") },
			want: `spec.gateway: Invalid value: "172.92.0.1": lies outside the subnet 172.91.0.0/16; use addresses from 172.91.0.0 to 172.91.255.255`},
		{name: "gateway among the addresses", change: func(p *SpiderIPPool) { p.Spec.Gateway = new("172.91.0.105") },
			want: `spec.gateway: Invalid value: "172.91.0.105": is one of the addresses in spec.ips, so a pod could be given it; add 172.91.0.105 to spec.excludeIPs`},
		{name: "default route", change: func(p *SpiderIPPool) { p.Spec.Routes = []Route{{Dst: "0.0.0.0/0", Gw: "172.91.0.1"}} },
			want: `spec.routes[0].dst: Invalid value: "0.0.0.0/0": is a default route; use spec.gateway for it`},
		{name: "route with host bits", change: func(p *SpiderIPPool) { p.Spec.Routes = []Route{{Dst: "10.1.2.3/16", Gw: "172.91.0.1"}} },
			want: `spec.routes[0].dst: Invalid value: "10.1.2.3/16": has host bits set; write 10.1.0.0/16`},
		{name: "route of the other family", change: func(p *SpiderIPPool) { p.Spec.Routes = []Route{{Dst: "fd00::/64", Gw: "172.91.0.1"}} },
			want: `spec.routes[0].dst: Invalid value: "fd00::/64": is not of the family of the subnet 172.91.0.0/16`},
		{name: "route twice", change: func(p *SpiderIPPool) {
			p.Spec.Routes = []Route{{Dst: "10.0.0.0/8", Gw: "172.91.0.1"}, {Dst: "10.0.0.0/8", Gw: "172.91.0.2"}}
		}, want: `spec.routes[1].dst: Duplicate value: "10.0.0.0/8"`},
		{name: "route by a gateway outside", change: func(p *SpiderIPPool) { p.Spec.Routes = []Route{{Dst: "10.0.0.0/8", Gw: "10.0.0.1"}} },
			want: `spec.routes[0].gw: Invalid value: "10.0.0.1": lies outside the subnet 172.91.0.0/16; use addresses from 172.91.0.0 to 172.91.255.255`},
		{name: "empty selector", change: func(p *SpiderIPPool) { p.Spec.PodAffinity = &metav1.LabelSelector{} },
			want: `spec.podAffinity: Invalid value: "{}": is empty and would match everything; add matchLabels or matchExpressions, or leave the field out`},
		{name: "bad selector", change: func(p *SpiderIPPool) {
			p.Spec.NodeAffinity = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}
		}, want: `spec.nodeAffinity.matchExpressions[0].operator: Invalid value: "Like": not a valid selector operator`},
		{name: "node name with a slash", change: func(p *SpiderIPPool) { p.Spec.NodeName = []string{"a/b"} },
			want: `spec.nodeName[0]: Invalid value: "a/b": want one name without spaces and slashes`},
		{name: "network name with two slashes", change: func(p *SpiderIPPool) { p.Spec.MultusName = []string{"a/b/c"} },
			want: `spec.multusName[0]: Invalid value: "a/b/c": want name or namespace/name`},
		{name: "overlapping subnet", change: func(*SpiderIPPool) {}, others: []SpiderIPPool{other("wide", "172.91.0.0/24")},
			want: `spec.subnet: Invalid value: "172.91.0.0/16": overlaps the subnet 172.91.0.0/24 of pool wide; use that very subnet or one apart from it`},
		{name: "addresses of another pool", change: func(*SpiderIPPool) {}, others: []SpiderIPPool{other("a", "172.91.0.0/16", "172.91.0.110-172.91.0.130")},
			want: `spec.ips: Forbidden: 172.91.0.110-172.91.0.120 belong to pool a already; take them out of one of the two pools`},
		{name: "name too long", change: func(p *SpiderIPPool) { p.Name = strings.Repeat("a", 214) },
			want: fmt.Sprintf(`metadata.name: Invalid value: %q: has 214 characters; use at most 213, because the names of leases hold the pool's name and an address`, strings.Repeat("a", 214))},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			families := test.families
			if families == (Families{}) {
				families = both
			}
			if got := text(ValidateIPPool(guidePool(test.change), families, test.others)); got != test.want {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestValidateIPPoolUpdate(t *testing.T) {
	leases := []SpiderIPLease{lease("v4-91", "172.91.0.100", "a"), lease("v4-91", "172.91.0.101", "b")}
	outside := append(leases, lease("v4-91", "172.91.0.200", "old"))
	tests := []struct {
		name     string
		old, new func(*SpiderIPPool)
		leases   []SpiderIPLease
		want     string
	}{
		{name: "grow", new: func(p *SpiderIPPool) { p.Spec.IPs = []string{"172.91.0.100-172.91.0.130"} }, leases: leases},
		{name: "shrink where nothing is used", new: func(p *SpiderIPPool) { p.Spec.IPs = []string{"172.91.0.100-172.91.0.101"} }, leases: leases},
		{name: "disable", new: func(p *SpiderIPPool) { p.Spec.Disable = new(true) }, leases: leases},
		{name: "shrink below what is used", new: func(p *SpiderIPPool) { p.Spec.IPs = []string{"172.91.0.102-172.91.0.120"} }, leases: leases,
			want: `spec.ips: Forbidden: addresses in use cannot be taken out of the pool: 172.91.0.100 (pod default/a), 172.91.0.101 (pod default/b); delete their pods first, or leave the addresses in the pool and set spec.disable`},
		{name: "exclude what is used", new: func(p *SpiderIPPool) { p.Spec.ExcludeIPs = []string{"172.91.0.101"} }, leases: leases,
			want: `spec.ips: Forbidden: addresses in use cannot be taken out of the pool: 172.91.0.101 (pod default/b); delete their pods first, or leave the addresses in the pool and set spec.disable`},
		{name: "a lease that lay outside before", new: func(p *SpiderIPPool) { p.Spec.Disable = new(true) }, leases: outside},
		{name: "other subnet", new: func(p *SpiderIPPool) { p.Spec.Subnet = "172.92.0.0/16" },
			want: `spec.subnet: Invalid value: "172.92.0.0/16": cannot be changed from 172.91.0.0/16; create another pool`},
		{name: "other version", old: func(p *SpiderIPPool) { p.Spec.IPVersion = new(int64(4)) }, new: func(p *SpiderIPPool) { p.Spec.IPVersion = new(int64(6)) },
			want: `spec.ipVersion: Invalid value: 6: cannot be changed from 4; create another pool`},
		{name: "change while being deleted", new: func(p *SpiderIPPool) {
			p.Spec.Disable, p.DeletionTimestamp = new(true), new(metav1.NewTime(time.Unix(1, 0)))
		},
			want: `spec: Forbidden: the pool is being deleted and cannot be changed; wait until its addresses are given back, then create it again`},
		{name: "finalizer removed while being deleted", new: func(p *SpiderIPPool) { p.Finalizers, p.DeletionTimestamp = nil, new(metav1.NewTime(time.Unix(1, 0))) }},
		{name: "stored before a rule existed", old: func(p *SpiderIPPool) { p.Spec.IPs = []string{"junk"} },
			new: func(p *SpiderIPPool) { p.Spec.IPs, p.Labels = []string{"junk"}, map[string]string{"a": "b"} }},
		{name: "bad change", new: func(p *SpiderIPPool) { p.Spec.IPs = []string{"junk"} },
			want: `spec.ips[0]: Invalid value: "junk": is not an IP address; want for example 192.0.2.10 or 2001:db8::10`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			old := guidePool()
			if test.old != nil {
				test.old(old)
			}
			if got := text(ValidateIPPoolUpdate(old, guidePool(test.new), both, []SpiderIPPool{*old}, test.leases)); got != test.want {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestReservedIP(t *testing.T) {
	reserved := func(version *int64, ips ...string) *SpiderReservedIP {
		return &SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: ReservedIPSpec{IPVersion: version, IPs: ips}}
	}
	r := reserved(nil, "fd00::5", "fd00::1-fd00::4")
	DefaultReservedIP(r)
	if diff := cmp.Diff(ReservedIPSpec{IPVersion: new(int64(6)), IPs: []string{"fd00::1-fd00::5"}}, r.Spec); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	tests := []struct {
		name string
		old  *SpiderReservedIP // nil: create
		in   *SpiderReservedIP
		want string
	}{
		{name: "good", in: r},
		{name: "nothing", in: reserved(nil), want: "spec.ips: Required value: name at least one address, or give spec.ipVersion"},
		{name: "two families", in: reserved(new(int64(4)), "10.0.0.1", "fd00::1"),
			want: `spec.ips[1]: Invalid value: "fd00::1": is IPv6, but spec.ipVersion is 4; use one object for each family`},
		{name: "bad entry", in: reserved(new(int64(4)), "10.0.0.0/8"),
			want: `spec.ips[0]: Invalid value: "10.0.0.0/8": is a CIDR; write the range 10.0.0.0-10.255.255.255`},
		{name: "version changed", old: r, in: reserved(new(int64(4)), "10.0.0.1"),
			want: `spec.ipVersion: Invalid value: 4: cannot be changed from 6; create another object`},
		{name: "one more address", old: r, in: reserved(new(int64(6)), "fd00::9")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			errs := ValidateReservedIP(test.in, both)
			if test.old != nil {
				errs = ValidateReservedIPUpdate(test.old, test.in, both)
			}
			if got := text(errs); got != test.want {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestLeaseAddress(t *testing.T) {
	good := lease("v4-91", "172.91.0.100", "a")
	if ip, err := good.Address(); err != nil || ip != netip.MustParseAddr("172.91.0.100") {
		t.Errorf("Address() = %v, %v", ip, err)
	}
	bad := lease("v4-91", "172.91.0.100", "a")
	bad.Name = "v4-91.172-91-0-101"
	const want = "lease v4-91.172-91-0-101: its pool v4-91 and address 172.91.0.100 belong to the name v4-91.172-91-0-100; delete this object"
	if _, err := bad.Address(); err == nil || err.Error() != want {
		t.Errorf("a lease under a false name: %v, want %s", err, want)
	}
}

// FuzzParseIPPoolSpec: whatever is written, reading ends without a panic, and
// a pool without errors never holds an address outside its subnet.
func FuzzParseIPPoolSpec(f *testing.F) {
	f.Add("172.91.0.0/16", "172.91.0.100-172.91.0.120", "172.91.0.105", "172.91.0.1", "10.0.0.0/8")
	f.Add("fd00::/64", "fd00::1-fd00::ffff", "", "fd00::1", "fd01::/64")
	f.Fuzz(func(t *testing.T, subnet, ips, exclude, gateway, dst string) {
		p := guidePool(func(p *SpiderIPPool) {
			p.Spec = IPPoolSpec{Subnet: subnet, IPs: []string{ips}, ExcludeIPs: []string{exclude}, Gateway: &gateway, Routes: []Route{{Dst: dst, Gw: gateway}}}
		})
		DefaultIPPool(p)
		a, errs := ParseIPPoolSpec(&p.Spec)
		if len(errs) > 0 {
			return
		}
		for _, r := range a.IPs.Ranges() {
			if !a.Subnet.Contains(r.From()) || !a.Subnet.Contains(r.To()) {
				t.Fatalf("range %v of %q lies outside %v", r, ips, a.Subnet)
			}
		}
		ValidateIPPool(p, both, []SpiderIPPool{*guidePool()})
	})
}
