// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// pool makes a pool of 192.0.2.0/24 (or 2001:db8::/64 when its name begins with "v6"), changed by the caller.
func pool(name string, change ...func(*v2beta1.SpiderIPPool)) *v2beta1.SpiderIPPool {
	p := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec = v2beta1.IPPoolSpec{Subnet: "192.0.2.0/24", IPs: []string{"192.0.2.10-192.0.2.20"},
		Gateway: new("192.0.2.1")}
	if strings.HasPrefix(name, "v6") {
		p.Spec = v2beta1.IPPoolSpec{Subnet: "2001:db8::/64", IPs: []string{"2001:db8::10-2001:db8::20"},
			Gateway: new("2001:db8::1")}
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
		NamespaceLabels: map[string]string{"team": "a"}, NodeLabels: map[string]string{"rack": "1"},
		NetworkNamespace: "kube-system",
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
		{"CNI configuration before cluster defaults", request(),
			func(r *Request, _ *Facts) { r.DefaultIPv4 = []string{"v4-a"} }, "4:v4-a"},
		{"namespace before CNI configuration", request(), func(r *Request, f *Facts) {
			r.DefaultIPv4 = []string{"v4-a"}
			f.NamespaceAnnotations = map[string]string{AnnotationNamespaceIPv6: `["v6-a"]`}
		}, "6:v6-a"},
		{"ippool before namespace", request(AnnotationPool, `{"ipv4":["v4-b"],"ipv6":["v6-b"]}`),
			func(_ *Request, f *Facts) {
				f.NamespaceAnnotations = map[string]string{AnnotationNamespaceIPv6: `["v6-a"]`}
			}, "4:v4-b 6:v6-b"},
		{"ippools before ippool", request(AnnotationPool, `{"ipv4":["v4-a"]}`, AnnotationPools, named), nil, "4:v4-b"},
		{"ippools by name", request(AnnotationPools, named), func(r *Request, _ *Facts) { r.Interface = "net1" },
			"4:v4-c"},
		{"ippools by place", request(AnnotationPools, unnamed), func(r *Request, _ *Facts) { r.Interface = "net1" },
			"6:v6-b"},
		{"ippools by place among given names", request(AnnotationPools, unnamed), func(r *Request, _ *Facts) {
			r.Interface, r.Interfaces = "ib0", []string{"eth0", "net1", "ib0"}
		}, "4:v4-c"},
		{"order as written", request(AnnotationPool, `{"ipv4":["v4-c","v4-a","v4-b"]}`), nil, "4:v4-c,v4-a,v4-b"},
		{"glob", request(AnnotationPool, `{"ipv4":["v4-[ab]"]}`), nil, "4:v4-a,v4-b"},
		{"glob after a name", request(AnnotationPool, `{"ipv4":["v4-c","v4-?"]}`), nil, "4:v4-c,v4-a,v4-b"},
		{"disabled family is left out", request(AnnotationPool, `{"ipv4":["v4-a"],"ipv6":["v6-a"]}`),
			func(_ *Request, f *Facts) { f.Families.IPv6 = false }, "4:v4-a"},
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

// everyAffinity is a pool of each class of affinity, all of which serve the request.
func everyAffinity(change ...func(*v2beta1.SpiderIPPool)) []*v2beta1.SpiderIPPool {
	with := func(c func(*v2beta1.SpiderIPPool)) []func(*v2beta1.SpiderIPPool) {
		return append([]func(*v2beta1.SpiderIPPool){c}, change...)
	}
	return []*v2beta1.SpiderIPPool{
		pool("v4-a-none", change...),
		pool("v4-b-network", with(func(p *v2beta1.SpiderIPPool) { p.Spec.MultusName = []string{"ib"} })...),
		pool("v4-c-nslabels",
			with(func(p *v2beta1.SpiderIPPool) { p.Spec.NamespaceAffinity = selector("team", "a") })...),
		pool("v4-d-ns", with(func(p *v2beta1.SpiderIPPool) { p.Spec.NamespaceName = []string{"default"} })...),
		pool("v4-e-nodelabels", with(func(p *v2beta1.SpiderIPPool) { p.Spec.NodeAffinity = selector("rack", "1") })...),
		pool("v4-f-node", with(func(p *v2beta1.SpiderIPPool) { p.Spec.NodeName = []string{"n1"} })...),
		pool("v4-g-pod-2", with(func(p *v2beta1.SpiderIPPool) { p.Spec.PodAffinity = selector("app", "x") })...),
		pool("v4-g-pod-1", with(func(p *v2beta1.SpiderIPPool) { p.Spec.PodAffinity = selector("app", "x") })...),
	}
}

// What a user wrote is the order of trial; affinity only orders what nobody put in order.
func TestOrderOfTrial(t *testing.T) {
	const narrowestFirst = "v4-g-pod-1," +
		"v4-g-pod-2,v4-f-node,v4-e-nodelabels,v4-d-ns,v4-c-nslabels,v4-b-network,v4-a-none"
	quoted := func(names string) string { return `["` + strings.ReplaceAll(names, ",", `","`) + `"]` }
	const broadestFirst = "v4-a-none,v4-b-network,v4-c-nslabels,v4-d-ns,v4-e-nodelabels,v4-f-node,v4-g-pod-2,v4-g-pod-1"
	tests := []struct {
		name    string
		request Request
		pools   []*v2beta1.SpiderIPPool
		change  func(*Request, *Facts)
		want    string
	}{
		{"named by the pod", request(AnnotationPool, `{"ipv4":`+quoted(broadestFirst)+`}`), everyAffinity(), nil,
			broadestFirst},
		{"named by the pod for each interface", request(AnnotationPools, `[{"ipv4":`+quoted(broadestFirst)+`}]`),
			everyAffinity(), nil, broadestFirst},
		{"named by the namespace", request(), everyAffinity(), func(_ *Request, f *Facts) {
			f.NamespaceAnnotations = map[string]string{AnnotationNamespaceIPv4: quoted(broadestFirst)}
		}, broadestFirst},
		{"named by the network", request(), everyAffinity(),
			func(r *Request, _ *Facts) { r.DefaultIPv4 = strings.Split(broadestFirst, ",") }, broadestFirst},
		{"one wildcard", request(AnnotationPool, `{"ipv4":["v4-*"]}`), everyAffinity(), nil, narrowestFirst},
		{"wildcards in their places", request(AnnotationPool, `{"ipv4":["v4-a*","v4-[de]-*","v4-b-network","*"]}`),
			everyAffinity(), nil,
			"v4-a-none,v4-e-nodelabels,v4-d-ns,v4-b-network,v4-g-pod-1,v4-g-pod-2,v4-f-node,v4-c-nslabels"},
		{"a name behind the wildcard that stands for it", request(AnnotationPool, `{"ipv4":["v4-[ab]-*","v4-a-none"]}`),
			everyAffinity(), nil, "v4-b-network,v4-a-none"},
		{"the cluster's default pools", request(), everyAffinity(byDefault), nil, narrowestFirst},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := facts(test.pools...)
			if test.change != nil {
				test.change(&test.request, &f)
			}
			choice, err := Choose(test.request, f)
			if err != nil {
				t.Fatal(err)
			}
			if got := names(choice); got != "4:"+test.want {
				t.Errorf("\n got %s\nwant 4:%s", got, test.want)
			}
		})
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
