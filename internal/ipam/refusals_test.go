// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// Everything that keeps a pool from serving, and the words in which people are told.
func TestDropReasons(t *testing.T) {
	type change = func(*v2beta1.SpiderIPPool)
	tests := []struct {
		name    string
		change  change
		request func(*Request)
		want    string
	}{
		{name: "invalid", change: func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = []string{"x"} },
			want: `is not valid: spec.ips[0]: Invalid value: "x": is not an IP address; want for example 192.0.2.10 or 2001:db8::10`},
		{name: "invalid selector", change: func(p *v2beta1.SpiderIPPool) {
			p.Spec.PodAffinity = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a",
				Operator: "Like"}}}
		}, want: `is not valid: spec.podAffinity: "Like" is not a valid label selector operator`},
		{name: "terminating", change: func(p *v2beta1.SpiderIPPool) { p.DeletionTimestamp = new(metav1.Now()) },
			want: "is being deleted"},
		{name: "disabled", change: disabled, want: "is disabled; set its spec.disable to false, or name another pool"},
		{name: "version", change: func(p *v2beta1.SpiderIPPool) { p.Spec = pool("v6").Spec },
			want: "is IPv6, but is named among the IPv4 pools"},
		{name: "node name overrides labels", change: func(p *v2beta1.SpiderIPPool) {
			p.Spec.NodeName, p.Spec.NodeAffinity = []string{"n2", "n3"}, selector("rack", "1")
		}, want: "does not serve node n1 (spec.nodeName: n2, n3)"},
		{name: "node labels", change: func(p *v2beta1.SpiderIPPool) { p.Spec.NodeAffinity = selector("rack", "2") },
			want: "does not serve node n1, whose labels do not match (spec.nodeAffinity: rack=2)"},
		{name: "namespace name overrides labels", change: func(p *v2beta1.SpiderIPPool) {
			p.Spec.NamespaceName, p.Spec.NamespaceAffinity = []string{"other"}, selector("team", "a")
		}, want: "does not serve namespace default (spec.namespaceName: other)"},
		{name: "namespace labels", change: func(p *v2beta1.SpiderIPPool) {
			p.Spec.NamespaceAffinity = selector("team",
				"b")
		},
			want: "does not serve namespace default, whose labels do not match (spec.namespaceAffinity: team=b)"},
		{name: "pod labels", change: func(p *v2beta1.SpiderIPPool) { p.Spec.PodAffinity = selector("app", "y") },
			want: "does not serve this pod, whose labels do not match (spec.podAffinity: app=y)"},
		{name: "network", change: func(p *v2beta1.SpiderIPPool) { p.Spec.MultusName = []string{"ipoib", "a/b"} },
			want: "does not serve network kube-system/ib (spec.multusName: ipoib, a/b)"},
		{name: "network without a name", change: func(p *v2beta1.SpiderIPPool) { p.Spec.MultusName = []string{"ib"} },
			request: func(r *Request) { r.Network = "" },
			want:    "does not serve network without a name (spec.multusName: ib)"},
		{name: "master subnet", change: func(*v2beta1.SpiderIPPool) {}, request: func(r *Request) {
			r.MatchMasterSubnet, r.MasterAddresses = true, []netip.Addr{netip.MustParseAddr("10.0.0.1"),
				netip.MustParseAddr("fe80::1")}
		}, want: "has subnet 192.0.2.0/24, which holds none of the physical interface's addresses (10.0.0.1, " +
			"fe80::1), and the network asks for match_master_subnet"},
		{name: "master without addresses", change: func(*v2beta1.SpiderIPPool) {},
			request: func(r *Request) { r.MatchMasterSubnet = true },
			want: "has subnet 192.0.2.0/24, which holds none of the physical interface's addresses (it has " +
				"none), and the network asks for match_master_subnet"},
		{name: "master unknown", change: func(*v2beta1.SpiderIPPool) {}, request: func(r *Request) {
			r.MatchMasterSubnet, r.MasterUnknown = true, "the network's configuration has no deviceID"
		}, want: "has subnet 192.0.2.0/24, and the network asks for match_master_subnet, but the physical interface " +
			"is not known: the network's configuration has no deviceID"},
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
			want := []Family{{Version: 4, Source: "annotation ipam.spidernet.io/ippool",
				Dropped: []Drop{{Pool: "v4", Reason: test.want}}}}
			if diff := cmp.Diff(want, choice.Families, cmpopts.IgnoreUnexported(Family{})); diff != "" {
				t.Fatalf("families (-want +got):\n%s", diff)
			}
			var refusal *Refusal
			full := "no IPv4 address from annotation ipam.spidernet.io/ippool: pool v4 " + test.want
			if err := Refuse(choice.Families); !errors.As(err, &refusal) || err.Error() != full {
				t.Errorf("\n got %v\nwant %s", err, full)
			}
		})
	}
}

// refusals are cases of Choose that end in an error, with the exact message.
type refusals []struct {
	name    string
	request Request
	change  func(*Request, *Facts)
	want    string
}

func (list refusals) run(t *testing.T, pools ...*v2beta1.SpiderIPPool) {
	t.Helper()
	for _, test := range list {
		t.Run(test.name, func(t *testing.T) {
			f := facts(pools...)
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

func noIPv6(_ *Request, f *Facts) { f.Families.IPv6 = false }

func TestPoolAnnotationRefusals(t *testing.T) {
	const annotation = "annotation ipam.spidernet.io/ippool: "
	const want = `; want for example {"ipv4":["pool"],"ipv6":["pool"]}`
	refusals{
		{name: "a string for a list", request: request(AnnotationPool, `{"ipv4":"v4-a"}`),
			want: annotation + `does not parse: ipv4 has a string: {"ipv4":"v4-a"}` + want},
		{name: "a number in the list", request: request(AnnotationPool, `{"ipv4":[4]}`),
			want: annotation + `does not parse: ipv4 has a number: {"ipv4":[4]}` + want},
		{name: "a list", request: request(AnnotationPool, `["v4-a"]`),
			want: annotation + `does not parse: the whole is a list: ["v4-a"]` + want},
		{name: "a bare name", request: request(AnnotationPool, `v4-a`),
			want: annotation + `does not parse: line 1, column 1: invalid character 'v' looking for beginning of value: v4-a` + want},
		{name: "cut off", request: request(AnnotationPool, `{"ipv4":["v4-a"]`),
			want: annotation + `does not parse: it ends too early: {"ipv4":["v4-a"]` + want},
		{name: "empty", request: request(AnnotationPool, ``), want: annotation + `the text is empty` + want},
		{name: "two values", request: request(AnnotationPool, `{"ipv4":["v4-a"]} {}`),
			want: annotation + `does not parse: something follows the first value: {"ipv4":["v4-a"]} {}` + want},
		{name: "unknown key", request: request(AnnotationPool, `{"ip4":["v4-a"]}`),
			want: annotation + `does not parse: unknown key "ip4": {"ip4":["v4-a"]}` + want},
		{name: "nothing named", request: request(AnnotationPool, `{}`), want: annotation + `{} names no pool` + want},
		{name: "null", request: request(AnnotationPool, `null`), want: annotation + `null names no pool` + want},
		{name: "empty lists", request: request(AnnotationPool, `{"ipv4":[],"ipv6":[]}`),
			want: annotation + `{"ipv4":[],"ipv6":[]} names no pool` + want},
		{name: "empty name", request: request(AnnotationPool, `{"ipv6":[""]}`),
			want: annotation + "an IPv6 pool has an empty name; write the name of a pool, or remove the entry"},
		{name: "listed twice", request: request(AnnotationPool, `{"ipv4":["v4-a","v4-a"]}`),
			want: annotation + `pool "v4-a" is listed twice`},
		{name: "missing and listed twice", request: request(AnnotationPool, `{"ipv4":["v4-x","v4-x"]}`),
			want: annotation + `pool "v4-x" is listed twice`},
		{name: "malformed pattern", request: request(AnnotationPool, `{"ipv4":["v4-["]}`),
			want: annotation + `pool pattern "v4-[" is malformed; close its brackets`},
		{name: "only a family that is off", request: request(AnnotationPool, `{"ipv6":["v6-a"]}`), change: noIPv6,
			want: annotation +
				"only pools of a family that is not enabled are named (IPv4 enabled: true, IPv6 enabled: false)"},
		{name: "pools on demand", request: request("ipam.spidernet.io/subnet", `{"ipv4":["s"]}`),
			want: "annotation ipam.spidernet.io/subnet asks for pools made on demand, which this product does not " +
				"make; name pools with ipam.spidernet.io/ippool"},
		{name: "pools on demand by interface", request: request("ipam.spidernet.io/subnets",
			`[{"interface":"eth0","ipv4":["s"]}]`),
			want: "annotation ipam.spidernet.io/subnets asks for pools made on demand, which this product does not " +
				"make; name pools with ipam.spidernet.io/ippool"},
	}.run(t, pool("v4-a"), pool("v6-a"))
}

func TestPoolsAnnotationRefusals(t *testing.T) {
	const annotation = "annotation ipam.spidernet.io/ippools: "
	const want = `; want for example [{"interface":"eth0","ipv4":["pool"],"ipv6":["pool"]}]`
	const byPlace = `[{"ipv4":["v4-a"]}]`
	net1 := func(r *Request, _ *Facts) { r.Interface = "net1" }
	refusals{
		{name: "an object", request: request(AnnotationPools, `{"ipv4":["v4-a"]}`),
			want: annotation + `does not parse: the whole is an object: {"ipv4":["v4-a"]}` + want},
		{name: "cut off", request: request(AnnotationPools, `[{"ipv4":["v4-a"]}`),
			want: annotation + `does not parse: it ends too early: [{"ipv4":["v4-a"]}` + want},
		{name: "unknown key", request: request(AnnotationPools, `[{"nic":"eth0","ipv4":["v4-a"]}]`),
			want: annotation + `does not parse: unknown key "nic": [{"nic":"eth0","ipv4":["v4-a"]}]` + want},
		{name: "cleangateway is no bool", request: request(AnnotationPools, `[{"ipv4":["v4-a"],"cleangateway":"yes"}]`),
			want: annotation + `does not parse: cleangateway has a string: [{"ipv4":["v4-a"],"cleangateway":"yes"}]` +
				want},
		{name: "an empty list", request: request(AnnotationPools, `[]`), want: annotation + `[] has no entry` + want},
		{name: "null", request: request(AnnotationPools, `null`), want: annotation + `null has no entry` + want},
		{name: "an entry without pools", request: request(AnnotationPools, `[{"interface":"eth0"}]`),
			want: annotation + `entry 0 (interface eth0) names no pool; add "ipv4" or "ipv6"`},
		{name: "interface not listed", request: request(AnnotationPools,
			`[{"interface":"net1","ipv4":["v4-a"]},{"interface":"net2","ipv4":["v4-a"]}]`),
			want: annotation + "interface eth0 is not listed (found net1, net2); add an entry for it"},
		{name: "interface listed twice", request: request(AnnotationPools,
			`[{"interface":"net1","ipv4":["v4-a"]},{"interface":"net1","ipv4":["v4-a"]}]`),
			want: annotation + `entry 1 (interface net1) is the second one for that interface; leave one`},
		{name: "some entries without interface", request: request(AnnotationPools,
			`[{"interface":"net1","ipv4":["v4-a"]},{"ipv4":["v4-a"]}]`),
			want: annotation + "entry 1: name the interface in every entry or in none"},
		{name: "too few entries", request: request(AnnotationPools, byPlace), change: net1,
			want: annotation + "has 1 entries, and interface net1 is number 2; add an entry for it"},
		{name: "place unknown", request: request(AnnotationPools, byPlace),
			change: func(r *Request, _ *Facts) { r.Interface = "ib0" },
			want:   annotation + "cannot tell which entry is for interface ib0; name the interface in every entry"},
		{name: "listed twice", request: request(AnnotationPools, `[{"ipv4":["v4-a","v4-a"]}]`),
			want: `annotation ipam.spidernet.io/ippools, entry 0: pool "v4-a" is listed twice`},
		{name: "listed twice for another interface", request: request(AnnotationPools,
			`[{"interface":"eth0","ipv4":["v4-a"]},{"interface":"net1","ipv4":["v4-b","v4-b"]}]`),
			want: `annotation ipam.spidernet.io/ippools, entry 1 (interface net1): pool "v4-b" is listed twice`},
		{name: "malformed pattern", request: request(AnnotationPools, `[{"interface":"eth0","ipv4":["["]}]`),
			want: `annotation ipam.spidernet.io/ippools, entry 0 (interface eth0): pool pattern "[" is malformed; close its brackets`},
		{name: "only a family that is off", request: request(AnnotationPools, `[{"interface":"eth0","ipv6":["v6-a"]}]`),
			change: noIPv6,
			want: "annotation ipam.spidernet.io/ippools, entry 0 (interface eth0): only pools of a family that is " +
				"not enabled are named (IPv4 enabled: true, IPv6 enabled: false)"},
	}.run(t, pool("v4-a"), pool("v6-a"))
}

func TestRoutesAnnotationRefusals(t *testing.T) {
	routes := func(text string) Request { return request(AnnotationPool, `{"ipv4":["v4-a"]}`, AnnotationRoutes, text) }
	const annotation = "annotation ipam.spidernet.io/routes: "
	const want = `; want for example [{"dst":"10.0.0.0/8","gw":"192.0.2.1"}]`
	refusals{
		{name: "an object", request: routes(`{"dst":"10.0.0.0/8","gw":"192.0.2.1"}`),
			want: annotation + `does not parse: the whole is an object: {"dst":"10.0.0.0/8","gw":"192.0.2.1"}` + want},
		{name: "unknown key", request: routes(`[{"dst":"10.0.0.0/8","via":"192.0.2.1"}]`),
			want: annotation + `does not parse: unknown key "via": [{"dst":"10.0.0.0/8","via":"192.0.2.1"}]` + want},
		{name: "host bits", request: routes(`[{"dst":"10.0.0.1/8","gw":"192.0.2.1"}]`),
			want: annotation + `entry 0: dst "10.0.0.1/8" has host bits set; write 10.0.0.0/8`},
		{name: "dst is an address", request: routes(`[{"dst":"10.0.0.1","gw":"192.0.2.1"}]`),
			want: annotation + `entry 0: dst "10.0.0.1" is not a CIDR; want for example 192.0.2.0/24 or 2001:db8::/64`},
		{name: "no gw", request: routes(`[{"dst":"10.0.0.0/8","gw":"192.0.2.1"},{"dst":"10.0.0.0/8"}]`),
			want: annotation + `entry 1: gw "" is not an IP address; want for example 192.0.2.10 or 2001:db8::10`},
		{name: "two families", request: routes(`[{"dst":"fd00::/64","gw":"192.0.2.1"}]`),
			want: annotation + `entry 0: dst fd00::/64 and gw 192.0.2.1 are of different families`},
	}.run(t, pool("v4-a"))
}

func TestOtherSourcesRefusals(t *testing.T) {
	namespace := func(key, text string) func(*Request, *Facts) {
		return func(_ *Request, f *Facts) { f.NamespaceAnnotations = map[string]string{key: text} }
	}
	config := func(names ...string) func(*Request, *Facts) {
		return func(r *Request, _ *Facts) { r.DefaultIPv4 = names }
	}
	const ipv4 = "annotation ipam.spidernet.io/default-ipv4-ippool of namespace default: "
	const ipv6 = "annotation ipam.spidernet.io/default-ipv6-ippool of namespace default: "
	refusals{
		{name: "namespace, a bare name", request: request(), change: namespace(AnnotationNamespaceIPv4, `v4-a`),
			want: ipv4 +
				`does not parse: line 1, column 1: invalid character 'v' looking for beginning of value: v4-a; want for example ["pool"]`},
		{name: "namespace, a string", request: request(), change: namespace(AnnotationNamespaceIPv6, `"v6-a"`),
			want: ipv6 + `does not parse: the whole is a string: "v6-a"; want for example ["pool"]`},
		{name: "namespace, an empty list", request: request(), change: namespace(AnnotationNamespaceIPv4, `[]`),
			want: ipv4 + `[] names no pool; want for example ["pool"], or remove the annotation`},
		{name: "namespace, empty", request: request(), change: namespace(AnnotationNamespaceIPv4, ``),
			want: ipv4 + `the text is empty; want for example ["pool"]`},
		{name: "namespace, listed twice", request: request(), change: namespace(AnnotationNamespaceIPv4,
			`["v4-a","v4-a"]`),
			want: `the annotations of namespace default: pool "v4-a" is listed twice`},
		{name: "network, listed twice", request: request(), change: config("v4-a", "v4-a"),
			want: `the network's configuration: pool "v4-a" is listed twice`},
		{name: "network, empty name", request: request(), change: config(""),
			want: "the network's configuration: an IPv4 pool has an empty name; write the name of a pool, or remove " +
				"the entry"},
		{name: "network, malformed pattern", request: request(), change: config("a["),
			want: `the network's configuration: pool pattern "a[" is malformed; close its brackets`},
		{name: "no default pool", request: request(),
			want: "the cluster's default pools: no pool has spec.default: true, and nothing else names a pool; " +
				"annotate the pod with ipam.spidernet.io/ippool, " +
				"make a pool the default, or set disableIPAM: true in the network's SpiderMultusConfig for an " +
				"interface without an address"},
	}.run(t, pool("v4-a"), pool("v6-a"))
}

// A pool that is missing refuses the request, and the message says of every pool beside it what is
// the matter with it.
func TestMissingPools(t *testing.T) {
	const beside = " would be tried, but nothing is given out while a pool named beside it is missing"
	const missing = " does not exist; see kubectl get spiderippools"
	const off = " is disabled; set its spec.disable to false, or name another pool"
	tests := refusals{
		{name: "alone", request: request(AnnotationPool, `{"ipv4":["v4-x"]}`),
			want: "no IPv4 address from annotation ipam.spidernet.io/ippool: pool v4-x" + missing},
		{name: "among others", request: request(AnnotationPool, `{"ipv4":["v4-a","v4-off","v4-x","v6-a","v4-node"]}`),
			want: "no IPv4 address from annotation ipam.spidernet.io/ippool: pool v4-a" + beside + "; pool v4-off" +
				off + "; pool v4-x" + missing +
				"; pool v6-a is IPv6, but is named among the IPv4 pools; pool v4-node does not serve node n1 " +
				"(spec.nodeName: n2)"},
		{name: "two of them", request: request(AnnotationPool, `{"ipv4":["v4-x","v4-y"]}`),
			want: "no IPv4 address from annotation ipam.spidernet.io/ippool: pool v4-x" + missing + "; pool v4-y" +
				missing},
		{name: "the other family can be served", request: request(AnnotationPool, `{"ipv4":["v4-x"],"ipv6":["v6-a"]}`),
			want: "no IPv4 address from annotation ipam.spidernet.io/ippool: pool v4-x" + missing},
		{name: "the other family cannot be served either", request: request(AnnotationPool,
			`{"ipv4":["v4-x"],"ipv6":["v6-off"]}`),
			want: "no IPv4 address from annotation ipam.spidernet.io/ippool: pool v4-x" + missing +
				". no IPv6 address from annotation ipam.spidernet.io/ippool: pool v6-off" + off},
		{name: "a pattern that stands for nothing", request: request(AnnotationPool,
			`{"ipv4":["v4-a"],"ipv6":["v4-*","v6-a"]}`),
			want: "no IPv6 address from annotation ipam.spidernet.io/ippool: pool v4-* stands for no IPv6 pool; see " +
				"kubectl get spiderippools; pool v6-a" + beside},
		{name: "named by the namespace", request: request(), change: func(_ *Request, f *Facts) {
			f.NamespaceAnnotations = map[string]string{AnnotationNamespaceIPv4: `["v4-a","v4-x"]`}
		}, want: "no IPv4 address from the annotations of namespace default: pool v4-a" + beside + "; pool v4-x" +
			missing},
		{name: "named by the network", request: request(),
			change: func(r *Request, _ *Facts) { r.DefaultIPv4 = []string{"v4-x"} },
			want:   "no IPv4 address from the network's configuration: pool v4-x" + missing},
		{name: "for this interface", request: request(AnnotationPools,
			`[{"interface":"net1","ipv4":["v4-a"]},{"interface":"eth0","ipv4":["v4-x"]}]`),
			want: "no IPv4 address from annotation ipam.spidernet.io/ippools, entry 1 (interface eth0): pool v4-x" +
				missing},
		{name: "for another interface", request: request(AnnotationPools,
			`[{"interface":"eth0","ipv4":["v4-a"]},{"interface":"net1","ipv4":["v4-ib","v4-node","v4-x"]}]`),
			want: "no IPv4 address from annotation ipam.spidernet.io/ippools, entry 1 (interface net1): pool v4-ib" +
				beside +
				"; pool v4-node does not serve node n1 (spec.nodeName: n2); pool v4-x" + missing},
		{name: "for two interfaces, by place", request: request(AnnotationPools,
			`[{"ipv4":["v4-x"]},{"ipv4":["v4-a"]},{"ipv6":["v6-x"]}]`),
			want: "no IPv4 address from annotation ipam.spidernet.io/ippools, entry 0: pool v4-x" + missing +
				". no IPv6 address from annotation ipam.spidernet.io/ippools, entry 2: pool v6-x" + missing},
	}
	pools := []*v2beta1.SpiderIPPool{
		pool("v4-a"), pool("v4-off", disabled),
		pool("v4-node", func(p *v2beta1.SpiderIPPool) { p.Spec.NodeName = []string{"n2"} }),
		pool("v4-ib", func(p *v2beta1.SpiderIPPool) { p.Spec.MultusName = []string{"other"} }), pool("v6-a"),
		pool("v6-off", disabled),
	}
	tests.run(t, pools...)
	for _, test := range tests {
		f := facts(pools...)
		if test.change != nil {
			test.change(&test.request, &f)
		}
		var refusal *Refusal
		if _, err := Choose(test.request, f); !errors.As(err, &refusal) {
			t.Errorf("%s: %T is not a refusal", test.name, err)
		}
	}
}

// What belongs to a family that is off is left out, missing or not.
func TestMissingPoolOfAFamilyThatIsOff(t *testing.T) {
	f := facts(pool("v4-a"))
	noIPv6(nil, &f)
	for _, r := range []Request{
		request(AnnotationPool, `{"ipv4":["v4-a"],"ipv6":["v6-x"]}`),
		request(AnnotationPools, `[{"ipv4":["v4-a"]},{"ipv4":["v4-a"],"ipv6":["v6-x"]}]`),
	} {
		if choice, err := Choose(r, f); err != nil || names(choice) != "4:v4-a" {
			t.Errorf("got %s, %v; want the IPv4 pool", names(choice), err)
		}
	}
}

// A pool that cannot be read is of no known family, and is named among the reasons all the same.
func TestUnreadablePoolIsNamed(t *testing.T) {
	f := facts(pool("v4-bad", byDefault, func(p *v2beta1.SpiderIPPool) { p.Spec.Subnet = "x" }))
	noIPv6(nil, &f)
	for source, r := range map[string]Request{"the cluster's default pools": request(),
		"annotation ipam.spidernet.io/ippool": request(AnnotationPool, `{"ipv4":["v4-*"]}`)} {
		choice, err := Choose(r, f)
		if err != nil {
			t.Fatal(err)
		}
		want := "no IPv4 address from " + source +
			`: pool v4-bad is not valid: spec.subnet: Invalid value: "x": is not a CIDR; want for example 192.0.2.0/24 or 2001:db8::/64`
		if err := Refuse(choice.Families); err == nil || err.Error() != want {
			t.Errorf("\n got %v\nwant %s", err, want)
		}
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
		"pool v4-a is disabled; set its spec.disable to false, or name another pool; pool v4-b does not serve node " +
		"n1 (spec.nodeName: n2)"
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
