package ipam

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// pool makes a pool of 192.0.2.0/24 (or 2001:db8::/64 when its name begins with "v6"), changed by the caller.
func pool(name string, change ...func(*v2beta1.SpiderIPPool)) *v2beta1.SpiderIPPool {
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec = v2beta1.IPPoolSpec{Subnet: "192.0.2.0/24", IPs: []string{"192.0.2.10-192.0.2.20"}, Gateway: new("192.0.2.1")}
	if strings.HasPrefix(name, "v6") {
		p.Spec = v2beta1.IPPoolSpec{Subnet: "2001:db8::/64", IPs: []string{"2001:db8::10-2001:db8::20"}, Gateway: new("2001:db8::1")}
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func byDefault(p *v2beta1.SpiderIPPool) { p.Spec.Default = new(true) }
func disabled(p *v2beta1.SpiderIPPool)  { p.Spec.Disable = new(true) }

func selector(k, v string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}
}

func facts(pools ...*v2beta1.SpiderIPPool) Facts {
	f := Facts{
		Pools: map[string]*Pool{}, Families: v2beta1.Families{IPv4: true, IPv6: true},
		NamespaceLabels: map[string]string{"team": "a"}, NodeLabels: map[string]string{"rack": "1"}, NetworkNamespace: "kube-system",
	}
	for _, p := range pools {
		f.Pools[p.Name] = ParsePool(p, nil)
	}
	return f
}

func request(annotations ...string) Request {
	r := Request{Interface: "eth0", Network: "kube-system/ib", Pod: Pod{
		Namespace: "default", Name: "p", UID: "u", Node: "n1",
		Labels: map[string]string{"app": "x"}, Annotations: map[string]string{},
	}}
	for i := 0; i < len(annotations); i += 2 {
		r.Pod.Annotations[annotations[i]] = annotations[i+1]
	}
	return r
}

// names writes a choice as "4:a,b 6:c".
func names(c Choice) string {
	var out []string
	for _, f := range c.Families {
		var pools []string
		for _, p := range f.Pools {
			pools = append(pools, p.Name)
		}
		out = append(out, string(rune('0'+f.Version))+":"+strings.Join(pools, ","))
	}
	return strings.Join(out, " ")
}

func TestChooseSources(t *testing.T) {
	pools := []*v2beta1.SpiderIPPool{
		pool("v4-a"), pool("v4-b"), pool("v4-c"), pool("v6-a"), pool("v6-b"),
		pool("v4-default-2", byDefault), pool("v4-default-1", byDefault), pool("v6-default", byDefault),
	}
	named := `[{"interface":"eth0","ipv4":["v4-b"]},{"interface":"net1","ipv4":["v4-c"],"cleangateway":true}]`
	unnamed := `[{"ipv4":["v4-b"]},{"ipv6":["v6-b"]},{"ipv4":["v4-c"]}]`
	tests := []struct {
		name    string
		request Request
		change  func(*Request, *Facts)
		want    string
	}{
		{"cluster defaults, by name", request(), nil, "4:v4-default-1,v4-default-2 6:v6-default"},
		{"CNI configuration before cluster defaults", request(), func(r *Request, _ *Facts) { r.DefaultIPv4 = []string{"v4-a"} }, "4:v4-a"},
		{"namespace before CNI configuration", request(), func(r *Request, f *Facts) {
			r.DefaultIPv4 = []string{"v4-a"}
			f.NamespaceAnnotations = map[string]string{AnnotationNamespaceIPv6: `["v6-a"]`}
		}, "6:v6-a"},
		{"ippool before namespace", request(AnnotationPool, `{"ipv4":["v4-b"],"ipv6":["v6-b"]}`), func(_ *Request, f *Facts) {
			f.NamespaceAnnotations = map[string]string{AnnotationNamespaceIPv6: `["v6-a"]`}
		}, "4:v4-b 6:v6-b"},
		{"ippools before ippool", request(AnnotationPool, `{"ipv4":["v4-a"]}`, AnnotationPools, named), nil, "4:v4-b"},
		{"ippools by name", request(AnnotationPools, named), func(r *Request, _ *Facts) { r.Interface = "net1" }, "4:v4-c"},
		{"ippools by place", request(AnnotationPools, unnamed), func(r *Request, _ *Facts) { r.Interface = "net1" }, "6:v6-b"},
		{"ippools by place among given names", request(AnnotationPools, unnamed), func(r *Request, _ *Facts) {
			r.Interface, r.Interfaces = "ib0", []string{"eth0", "net1", "ib0"}
		}, "4:v4-c"},
		{"order as written", request(AnnotationPool, `{"ipv4":["v4-c","v4-a","v4-b"]}`), nil, "4:v4-c,v4-a,v4-b"},
		{"glob", request(AnnotationPool, `{"ipv4":["v4-[ab]"]}`), nil, "4:v4-a,v4-b"},
		{"glob after a name", request(AnnotationPool, `{"ipv4":["v4-c","v4-?"]}`), nil, "4:v4-c,v4-a,v4-b"},
		{"disabled family is left out", request(AnnotationPool, `{"ipv4":["v4-a"],"ipv6":["v6-a"]}`), func(_ *Request, f *Facts) { f.Families.IPv6 = false }, "4:v4-a"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := facts(pools...)
			if test.change != nil {
				test.change(&test.request, &f)
			}
			choice, err := Choose(test.request, f)
			if err != nil {
				t.Fatal(err)
			}
			if got := names(choice); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestChooseOrdersBySpecificity(t *testing.T) {
	f := facts(
		pool("v4-none"),
		pool("v4-network", func(p *v2beta1.SpiderIPPool) { p.Spec.MultusName = []string{"ib"} }),
		pool("v4-nslabels", func(p *v2beta1.SpiderIPPool) { p.Spec.NamespaceAffinity = selector("team", "a") }),
		pool("v4-ns", func(p *v2beta1.SpiderIPPool) { p.Spec.NamespaceName = []string{"default"} }),
		pool("v4-nodelabels", func(p *v2beta1.SpiderIPPool) { p.Spec.NodeAffinity = selector("rack", "1") }),
		pool("v4-node", func(p *v2beta1.SpiderIPPool) { p.Spec.NodeName = []string{"n1"} }),
		pool("v4-pod-2", func(p *v2beta1.SpiderIPPool) { p.Spec.PodAffinity = selector("app", "x") }),
		pool("v4-pod-1", func(p *v2beta1.SpiderIPPool) { p.Spec.PodAffinity = selector("app", "x") }),
	)
	r := request(AnnotationPool, `{"ipv4":["v4-none","v4-network","v4-nslabels","v4-ns","v4-nodelabels","v4-node","v4-pod-2","v4-pod-1"]}`)
	choice, err := Choose(r, f)
	if err != nil {
		t.Fatal(err)
	}
	const want = "4:v4-pod-2,v4-pod-1,v4-node,v4-nodelabels,v4-ns,v4-nslabels,v4-network,v4-none"
	if got := names(choice); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDropReasons(t *testing.T) {
	type change = func(*v2beta1.SpiderIPPool)
	tests := []struct {
		name    string
		change  change
		request func(*Request)
		want    string
	}{
		{name: "terminating", change: func(p *v2beta1.SpiderIPPool) { p.DeletionTimestamp = new(metav1.Now()) }, want: "is being deleted"},
		{name: "disabled", change: disabled, want: "is disabled; set its spec.disable to false, or name another pool"},
		{name: "invalid", change: func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"x"} },
			want: `is not valid: spec.ips[0]: Invalid value: "x": is not an IP address; want for example 192.0.2.10 or 2001:db8::10`},
		{name: "version", change: func(p *v2beta1.SpiderIPPool) { p.Spec = pool("v6").Spec }, want: "is IPv6, but is named among the IPv4 pools"},
		{name: "node name overrides labels", change: func(p *v2beta1.SpiderIPPool) {
			p.Spec.NodeName, p.Spec.NodeAffinity = []string{"n2", "n3"}, selector("rack", "1")
		}, want: "does not serve node n1 (spec.nodeName: n2, n3)"},
		{name: "node labels", change: func(p *v2beta1.SpiderIPPool) { p.Spec.NodeAffinity = selector("rack", "2") },
			want: "does not serve node n1, whose labels do not match (spec.nodeAffinity: rack=2)"},
		{name: "namespace name", change: func(p *v2beta1.SpiderIPPool) { p.Spec.NamespaceName = []string{"other"} },
			want: "does not serve namespace default (spec.namespaceName: other)"},
		{name: "namespace labels", change: func(p *v2beta1.SpiderIPPool) { p.Spec.NamespaceAffinity = selector("team", "b") },
			want: "does not serve namespace default, whose labels do not match (spec.namespaceAffinity: team=b)"},
		{name: "pod labels", change: func(p *v2beta1.SpiderIPPool) { p.Spec.PodAffinity = selector("app", "y") },
			want: "does not serve this pod, whose labels do not match (spec.podAffinity: app=y)"},
		{name: "network", change: func(p *v2beta1.SpiderIPPool) { p.Spec.MultusName = []string{"ipoib", "a/b"} },
			want: "does not serve network kube-system/ib (spec.multusName: ipoib, a/b)"},
		{name: "network without a name", change: func(p *v2beta1.SpiderIPPool) { p.Spec.MultusName = []string{"ib"} }, request: func(r *Request) { r.Network = "" },
			want: "does not serve network without a name (spec.multusName: ib)"},
		{name: "master subnet", change: func(*v2beta1.SpiderIPPool) {}, request: func(r *Request) {
			r.MatchMasterSubnet, r.MasterAddresses = true, []netip.Addr{netip.MustParseAddr("10.0.0.1")}
		}, want: "has subnet 192.0.2.0/24, which holds none of the physical interface's addresses (10.0.0.1), and the network asks for match_master_subnet"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := request(AnnotationPool, `{"ipv4":["v4"]}`)
			if test.request != nil {
				test.request(&r)
			}
			choice, err := Choose(r, facts(pool("v4", test.change)))
			if err != nil {
				t.Fatal(err)
			}
			want := []Family{{Version: 4, Source: "annotation ipam.spidernet.io/ippool", Dropped: []Drop{{Pool: "v4", Reason: test.want}}}}
			if diff := cmp.Diff(want, choice.Families, cmpopts.IgnoreUnexported(Family{})); diff != "" {
				t.Fatalf("families (-want +got):\n%s", diff)
			}
			var refusal *Refusal
			if err := Refuse(choice.Families); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "pool v4 "+test.want) {
				t.Errorf("refusal %v does not name the reason", err)
			}
		})
	}
}

func TestChooseRefusals(t *testing.T) {
	byPlace := `[{"ipv4":["v4-a"]}]`
	tests := []struct {
		name    string
		request Request
		change  func(*Request, *Facts)
		want    string
	}{
		{name: "no default", request: request(),
			want: "the cluster's default pools: no pool has spec.default: true, and nothing else names a pool; annotate the pod with ipam.spidernet.io/ippool, or make a pool the default"},
		{name: "annotation does not parse", request: request(AnnotationPool, `{"ipv4":"v4-a"}`),
			want: `annotation ipam.spidernet.io/ippool: {"ipv4":"v4-a"} does not parse: ipv4 has a string; want for example {"ipv4":["pool"],"ipv6":["pool"]}`},
		{name: "unknown field", request: request(AnnotationPool, `{"ip4":["v4-a"]}`),
			want: `annotation ipam.spidernet.io/ippool: {"ip4":["v4-a"]} does not parse: unknown key "ip4"; want for example {"ipv4":["pool"],"ipv6":["pool"]}`},
		{name: "annotation names nothing", request: request(AnnotationPool, `{}`),
			want: `annotation ipam.spidernet.io/ippool: {} names no pool; want for example {"ipv4":["pool"],"ipv6":["pool"]}`},
		{name: "missing pool", request: request(AnnotationPool, `{"ipv4":["v4-a","v4-x"]}`),
			want: `annotation ipam.spidernet.io/ippool: pool "v4-x" does not exist; see kubectl get spiderippools`},
		{name: "listed twice", request: request(AnnotationPool, `{"ipv4":["v4-a","v4-a"]}`),
			want: `annotation ipam.spidernet.io/ippool: pool "v4-a" is listed twice`},
		{name: "glob without a match", request: request(AnnotationPool, `{"ipv6":["v4-*"]}`),
			want: `annotation ipam.spidernet.io/ippool: no IPv6 pool matches "v4-*"; see kubectl get spiderippools`},
		{name: "malformed glob", request: request(AnnotationPool, `{"ipv4":["v4-["]}`),
			want: `annotation ipam.spidernet.io/ippool: pool pattern "v4-[" is malformed; close its brackets`},
		{name: "only a family that is off", request: request(AnnotationPool, `{"ipv6":["v6-a"]}`), change: func(_ *Request, f *Facts) { f.Families.IPv6 = false },
			want: "annotation ipam.spidernet.io/ippool: only pools of a family that is not enabled are named (IPv4 enabled: true, IPv6 enabled: false)"},
		{name: "interface not listed", request: request(AnnotationPools, `[{"interface":"net1","ipv4":["v4-a"]},{"interface":"net2","ipv4":["v4-a"]}]`),
			want: "annotation ipam.spidernet.io/ippools: interface eth0 is not listed (found net1, net2); add an entry for it"},
		{name: "interface listed twice", request: request(AnnotationPools, `[{"interface":"net1","ipv4":["v4-a"]},{"interface":"net1","ipv4":["v4-a"]}]`),
			want: `annotation ipam.spidernet.io/ippools: entry 1: interface "net1" is listed twice`},
		{name: "some entries without interface", request: request(AnnotationPools, `[{"interface":"net1","ipv4":["v4-a"]},{"ipv4":["v4-a"]}]`),
			want: "annotation ipam.spidernet.io/ippools: entry 1: name the interface in every entry or in none"},
		{name: "too few entries", request: request(AnnotationPools, byPlace), change: func(r *Request, _ *Facts) { r.Interface = "net1" },
			want: "annotation ipam.spidernet.io/ippools: has 1 entries, and interface net1 is number 2; add an entry for it"},
		{name: "place unknown", request: request(AnnotationPools, byPlace), change: func(r *Request, _ *Facts) { r.Interface = "ib0" },
			want: "annotation ipam.spidernet.io/ippools: cannot tell which entry is for interface ib0; name the interface in every entry"},
		{name: "missing pool of another interface", request: request(AnnotationPools, `[{"interface":"eth0","ipv4":["v4-a"]},{"interface":"net1","ipv4":["v4-x"]}]`),
			want: `annotation ipam.spidernet.io/ippools: entry 1: pool "v4-x" does not exist; see kubectl get spiderippools`},
		{name: "an empty list", request: request(AnnotationPools, `[]`),
			want: `annotation ipam.spidernet.io/ippools: [] has no entry; want for example [{"interface":"eth0","ipv4":["pool"],"ipv6":["pool"]}]`},
		{name: "namespace annotation", request: request(), change: func(_ *Request, f *Facts) {
			f.NamespaceAnnotations = map[string]string{AnnotationNamespaceIPv4: "v4-a"}
		}, want: `annotation ipam.spidernet.io/default-ipv4-ippool of namespace default: v4-a does not parse: invalid character 'v' looking for beginning of value; want for example ["pool"]`},
		{name: "routes annotation", request: request(AnnotationPool, `{"ipv4":["v4-a"]}`, AnnotationRoutes, `[{"dst":"10.0.0.1/8","gw":"192.0.2.1"}]`),
			want: `annotation ipam.spidernet.io/routes: entry 0: dst "10.0.0.1/8" has host bits set; write 10.0.0.0/8`},
		{name: "pools on demand", request: request("ipam.spidernet.io/subnet", `{"ipv4":["s"]}`),
			want: "annotation ipam.spidernet.io/subnet asks for pools made on demand, which this product does not make; name pools with ipam.spidernet.io/ippool"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := facts(pool("v4-a"), pool("v6-a"))
			if test.change != nil {
				test.change(&test.request, &f)
			}
			_, err := Choose(test.request, f)
			if err == nil {
				t.Fatal("was accepted")
			}
			if err.Error() != test.want {
				t.Errorf("\n got %s\nwant %s", err, test.want)
			}
		})
	}
}

func TestRefusalListsEveryPool(t *testing.T) {
	f := facts(pool("v4-a", disabled), pool("v4-b", func(p *v2beta1.SpiderIPPool) { p.Spec.NodeName = []string{"n2"} }),
		pool("v6-a", disabled), pool("v6-b"))
	r := request(AnnotationPool, `{"ipv4":["v4-a","v4-b"],"ipv6":["v6-a","v6-b"]}`)
	choice, err := Choose(r, f)
	if err != nil {
		t.Fatal(err)
	}
	const want = "no IPv4 address from annotation ipam.spidernet.io/ippool: " +
		"pool v4-a is disabled; set its spec.disable to false, or name another pool; pool v4-b does not serve node n1 (spec.nodeName: n2)"
	if err := Refuse(choice.Families); err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
	if !choice.Families[0].Keeps("v4-a") {
		t.Error("an owner loses its address when the pool is disabled")
	}
	if choice.Families[0].Keeps("v4-b") {
		t.Error("an owner keeps an address of a pool that does not serve its node")
	}
}

func TestDefaultsOfOneFamilySuffice(t *testing.T) {
	f := facts(pool("v4", byDefault), pool("v6", byDefault, disabled))
	choice, err := Choose(request(), f)
	if err != nil || names(choice) != "4:v4" {
		t.Errorf("got %s, %v; want the IPv4 default alone", names(choice), err)
	}
	f = facts(pool("v4", byDefault, disabled), pool("v6", byDefault, disabled))
	if choice, _ = Choose(request(), f); Refuse(choice.Families) == nil {
		t.Error("defaults that cannot serve were not refused")
	}
}

func TestBuild(t *testing.T) {
	f := facts(
		pool("v4", func(p *v2beta1.SpiderIPPool) {
			p.Spec.Routes = []v2beta1.Route{{Dst: "10.0.0.0/8", Gw: "192.0.2.2"}, {Dst: "10.1.0.0/16", Gw: "192.0.2.2"}}
		}), pool("v6"))
	r := request(AnnotationPool, `{"ipv4":["v4"],"ipv6":["v6"]}`,
		AnnotationRoutes, `[{"dst":"10.0.0.0/8","gw":"192.0.2.3"},{"dst":"10.9.0.0/16","gw":"198.51.100.1"}]`)
	addresses := []Address{
		{IP: netip.MustParsePrefix("2001:db8::10/64"), Gateway: netip.MustParseAddr("2001:db8::1"), Pool: "v6"},
		{IP: netip.MustParsePrefix("192.0.2.10/24"), Gateway: netip.MustParseAddr("192.0.2.1"), Pool: "v4"},
	}
	own := []string{"10.0.0.0/8 via 192.0.2.3", "10.1.0.0/16 via 192.0.2.2"}
	for _, test := range []struct {
		name  string
		clean bool
		want  []string
	}{
		{"with default routes", false, append(own[:2:2], "0.0.0.0/0 via 192.0.2.1", "::/0 via 2001:db8::1")},
		{"clean gateway", true, own},
	} {
		r.CleanGateway = test.clean
		choice, err := Choose(r, f)
		if err != nil {
			t.Fatal(err)
		}
		a := choice.Build(addresses, f.Pools)
		var got []string
		for _, route := range a.Routes {
			got = append(got, route.Dst.String()+" via "+route.Gateway.String())
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: routes (-want +got):\n%s", test.name, diff)
		}
		if a.Addresses[0].Pool != "v4" || a.Addresses[0].Gateway != addresses[1].Gateway {
			t.Errorf("%s: addresses %v, want IPv4 first and its gateway kept", test.name, a.Addresses)
		}
	}
}

func FuzzChoose(f *testing.F) {
	f.Add(`{"ipv4":["v4-a"]}`, `[{"ipv4":["v4-a"]}]`, `[{"dst":"10.0.0.0/8","gw":"192.0.2.1"}]`, `["v4-*"]`, uint8(15))
	f.Add(`{"ipv4":[""]}`, `[{"interface":"eth0","ipv6":["["]}]`, `null`, `[]`, uint8(9))
	f.Fuzz(func(t *testing.T, one, several, routes, namespace string, set uint8) {
		r, fs := request(), facts(pool("v4-a"), pool("v6-a", byDefault))
		for i, a := range []struct {
			key, text string
			to        *map[string]string
		}{
			{AnnotationPool, one, &r.Pod.Annotations}, {AnnotationPools, several, &r.Pod.Annotations},
			{AnnotationRoutes, routes, &r.Pod.Annotations}, {AnnotationNamespaceIPv4, namespace, &fs.NamespaceAnnotations},
		} {
			if set&(1<<i) == 0 {
				continue
			}
			if *a.to == nil {
				*a.to = map[string]string{}
			}
			(*a.to)[a.key] = a.text
		}
		choice, err := Choose(r, fs)
		if err == nil && len(choice.Families) == 0 {
			t.Fatal("neither a family nor an error")
		}
		for _, family := range choice.Families {
			if len(family.Pools)+len(family.Dropped) == 0 {
				t.Fatalf("family %d has neither pools nor reasons", family.Version)
			}
		}
	})
}
