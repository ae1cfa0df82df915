// SPDX-License-Identifier: Apache-2.0

package v2beta1

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The messages that several fields share.
const (
	noAddress = "is not an IP address; want for example 192.0.2.10 or 2001:db8::10"
	noCIDR    = "is not a CIDR; want for example 192.0.2.0/24 or 2001:db8::/64"
	outside   = "lies outside the subnet 172.91.0.0/16; use addresses from 172.91.0.0 to 172.91.255.255"
	emptyMap  = "is empty and would match everything; add matchLabels or matchExpressions, or leave the field out"
	oneName   = "want one name without spaces and slashes"
	netName   = "want name or namespace/name"
)

// Every field of a pool with all that can be wrong with it, and the words in which its author is told.
func TestValidateIPPool(t *testing.T) {
	for _, group := range [][]poolCase{acceptedPools, badSubnets, noPlaces, badRanges, badGateways, badRoutes,
		badAffinities, badBesideOthers} {
		for _, test := range group {
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
}

type poolCase struct {
	name     string
	change   func(*SpiderIPPool)
	families Families
	others   []SpiderIPPool
	want     string
}

func asItIs(*SpiderIPPool) {}

func ips(texts ...string) func(*SpiderIPPool) { return func(p *SpiderIPPool) { p.Spec.IPs = texts } }
func subnet(text string) func(*SpiderIPPool)  { return func(p *SpiderIPPool) { p.Spec.Subnet = text } }
func gateway(text string) func(*SpiderIPPool) {
	return func(p *SpiderIPPool) { p.Spec.Gateway = &text }
}
func version(v int64) func(*SpiderIPPool)     { return func(p *SpiderIPPool) { p.Spec.IPVersion = &v } }
func routes(all ...Route) func(*SpiderIPPool) { return func(p *SpiderIPPool) { p.Spec.Routes = all } }
func exclude(t ...string) func(*SpiderIPPool) { return func(p *SpiderIPPool) { p.Spec.ExcludeIPs = t } }
func podLabels(s metav1.LabelSelector) func(*SpiderIPPool) {
	return func(p *SpiderIPPool) { p.Spec.PodAffinity = &s }
}

func anotherPool(name, subnet string, ips ...string) SpiderIPPool {
	return SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: IPPoolSpec{Subnet: subnet, IPs: ips}}
}

var acceptedPools = []poolCase{
	{name: "the guide's pool", change: asItIs},
	{name: "no addresses yet", change: ips()},
	{name: "everything excluded", change: exclude("172.91.0.100-172.91.0.120")},
	{name: "gateway excluded by the user", change: func(p *SpiderIPPool) {
		p.Spec.IPs, p.Spec.ExcludeIPs = []string{"172.91.0.1-172.91.0.9"}, []string{"172.91.0.1"}
	}},
	{name: "ranges that overlap and touch", change: ips("172.91.0.2-172.91.0.9", "172.91.0.5", "172.91.0.10"),
		families: Families{IPv4: true}},
	{name: "every affinity", change: func(p *SpiderIPPool) {
		all := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a",
			Operator: "Exists"}}}
		p.Spec.PodAffinity, p.Spec.NamespaceAffinity, p.Spec.NodeAffinity = all, all, all
		p.Spec.NamespaceName, p.Spec.NodeName, p.Spec.MultusName = []string{"a"}, []string{"10-20-1-10"},
			[]string{"ib-sriov", "kube-system/ipoib"}
	}},
	{name: "equal subnet, other addresses", change: asItIs,
		others: []SpiderIPPool{anotherPool("a", "172.91.0.0/16", "172.91.0.121-172.91.0.130")}},
	{name: "another pool that cannot be read", change: asItIs,
		others: []SpiderIPPool{anotherPool("a", "junk", "172.91.0.100")}},
	{name: "itself among the others", change: asItIs, others: []SpiderIPPool{*guidePool()}},
}

var badSubnets = []poolCase{
	{name: "name too long", change: func(p *SpiderIPPool) { p.Name = strings.Repeat("a", 214) },
		want: fmt.Sprintf(
			`metadata.name: Invalid value: %q: has 214 characters; use at most 213, because the names of leases hold the pool's name and an address`, strings.Repeat("a", 214))},
	{name: "no subnet", change: subnet(""), want: `spec.subnet: Invalid value: "": ` + noCIDR},
	{name: "subnet is an address", change: subnet("172.91.0.0"), want: `spec.subnet: Invalid value: "172.91.0.0": ` +
		noCIDR},
	{name: "subnet with too many bits", change: subnet("172.91.0.0/33"),
		want: `spec.subnet: Invalid value: "172.91.0.0/33": ` + noCIDR},
	{name: "host bits set", change: subnet("172.91.0.10/16"),
		want: `spec.subnet: Invalid value: "172.91.0.10/16": has host bits set; write 172.91.0.0/16`},
	{name: "host bits set, IPv6", change: subnet("fd00::1/64"),
		want: `spec.subnet: Invalid value: "fd00::1/64": has host bits set; write fd00::/64`},
	{name: "IPv4 written as IPv6", change: subnet("::ffff:172.91.0.0/112"),
		want: `spec.subnet: Invalid value: "::ffff:172.91.0.0/112": is an IPv4 network written as IPv6; write it as IPv4`},
	{name: "version against subnet", change: version(6),
		want: `spec.ipVersion: Invalid value: 6: the subnet 172.91.0.0/16 is IPv4; write 4 or leave the field out`},
	{name: "no such version", change: version(5),
		want: `spec.ipVersion: Invalid value: 5: the subnet 172.91.0.0/16 is IPv4; write 4 or leave the field out`},
	{name: "IPv4 not enabled", change: asItIs, families: Families{IPv6: true},
		want: `spec.ipVersion: Forbidden: IPv4 is not enabled; set enableIPv4: true in the product's configuration`},
	{name: "IPv6 not enabled", change: func(p *SpiderIPPool) { p.Spec = IPPoolSpec{Subnet: "fd00::/64"} },
		families: Families{IPv4: true},
		want:     `spec.ipVersion: Forbidden: IPv6 is not enabled; set enableIPv6: true in the product's configuration`},
}

var badRanges = []poolCase{
	{name: "word", change: ips("junk"), want: `spec.ips[0]: Invalid value: "junk": ` + noAddress},
	{name: "empty entry", change: ips(""), want: `spec.ips[0]: Invalid value: "": ` + noAddress},
	{name: "wildcard", change: ips("172.91.0.*"), want: `spec.ips[0]: Invalid value: "172.91.0.*": ` + noAddress},
	{name: "CIDR", change: ips("172.91.1.0/24"),
		want: `spec.ips[0]: Invalid value: "172.91.1.0/24": is a CIDR; write the range 172.91.1.0-172.91.1.255`},
	{name: "spaces", change: ips("172.91.0.1 - 172.91.0.9"),
		want: `spec.ips[0]: Invalid value: "172.91.0.1 - 172.91.0.9": is not a range: "172.91.0.1 " has spaces; remove them`},
	{name: "short form", change: ips("172.91.0.1-9"),
		want: `spec.ips[0]: Invalid value: "172.91.0.1-9": is not a range: "9" ` + noAddress},
	{name: "open range", change: ips("172.91.0.1-"),
		want: `spec.ips[0]: Invalid value: "172.91.0.1-": is not a range: "" ` + noAddress},
	{name: "backwards", change: ips("172.91.0.120-172.91.0.100"),
		want: `spec.ips[0]: Invalid value: "172.91.0.120-172.91.0.100": runs backwards; write 172.91.0.100-172.91.0.120`},
	{name: "two families", change: ips("172.91.0.1-fd00::1"),
		want: `spec.ips[0]: Invalid value: "172.91.0.1-fd00::1": mixes IPv4 and IPv6; write one range for each family`},
	{name: "outside", change: ips("172.91.0.1", "172.92.0.5"), want: `spec.ips[1]: Invalid value: "172.92.0.5": ` +
		outside},
	{name: "partly outside", change: ips("172.91.255.250-172.92.0.5"),
		want: `spec.ips[0]: Invalid value: "172.91.255.250-172.92.0.5": ` + outside},
	{name: "around the subnet", change: ips("172.90.0.0-172.92.0.0"),
		want: `spec.ips[0]: Invalid value: "172.90.0.0-172.92.0.0": ` + outside},
	{name: "the other family", change: ips("fd00::1"), want: `spec.ips[0]: Invalid value: "fd00::1": ` + outside},
	{name: "excluded, outside", change: exclude("172.91.0.1", "10.0.0.1"),
		want: `spec.excludeIPs[1]: Invalid value: "10.0.0.1": ` + outside},
	{name: "excluded, word", change: exclude("junk"), want: `spec.excludeIPs[0]: Invalid value: "junk": ` + noAddress},
	{name: "excluded, backwards", change: exclude("172.91.0.9-172.91.0.1"),
		want: `spec.excludeIPs[0]: Invalid value: "172.91.0.9-172.91.0.1": runs backwards; write 172.91.0.1-172.91.0.9`},
	{name: "several at once", change: func(p *SpiderIPPool) { ips("x")(p); exclude("y")(p); gateway("z")(p) },
		want: `[spec.ips[0]: Invalid value: "x": ` + noAddress + `, spec.excludeIPs[0]: Invalid value: "y": ` +
			noAddress + `, spec.gateway: Invalid value: "z": ` + noAddress + "]"},
}

const noRouter = "is the first or last address of the subnet 172.91.0.0/16, which no router can have; use addresses " +
	"from 172.91.0.1 to 172.91.255.254"

// at is a pool of a subnet alone.
func at(network string, ranges ...string) func(*SpiderIPPool) {
	return func(p *SpiderIPPool) { p.Spec = IPPoolSpec{Subnet: network, IPs: ranges} }
}

// Subnets of which no host can have an address.
var noPlaces = []poolCase{
	{name: "loopback", change: at("127.0.1.0/24"), want: `spec.subnet: Invalid value: "127.0.1.0/24": 127.0.0.0/8 is every host's own loopback: ` + noPod},
	{name: "multicast", change: at("239.1.0.0/16"), want: `spec.subnet: Invalid value: "239.1.0.0/16": 224.0.0.0/4 is for multicast: ` + noPod},
	{name: "this network", change: at("0.0.0.0/8"), want: `spec.subnet: Invalid value: "0.0.0.0/8": 0.0.0.0/8 means this host and network: ` + noPod},
	{name: "IPv6 multicast", change: at("ff05::/64"), want: `spec.subnet: Invalid value: "ff05::/64": ff00::/8 is for multicast: ` + noPod},
	{name: "IPv6 loopback", change: at("::/64"), want: `spec.subnet: Invalid value: "::/64": ::/127 is every host's own loopback: ` + noPod},
	{name: "link-local is only warned of", change: at("169.254.7.0/24", "169.254.7.10"), want: ""},
}

const noPod = "no pod can have an address of it; use the fabric's own network"

// What no host can have is not given out, wherever the ranges begin and end.
func TestAddressesOfNoHost(t *testing.T) {
	for _, test := range []struct {
		subnet, ips  string
		gives, takes string
	}{
		{"10.200.4.0/24", "10.200.4.0-10.200.4.255", "10.200.4.1-10.200.4.254", "10.200.4.0 10.200.4.255"},
		{"10.200.4.100/30", "10.200.4.102-10.200.4.103", "10.200.4.102", "10.200.4.103"},
		{"10.200.4.0/24", "10.200.4.128-10.200.4.200", "10.200.4.128-10.200.4.200", ""},
		{"10.200.4.0/31", "10.200.4.0-10.200.4.1", "10.200.4.0-10.200.4.1", ""},
		{"10.200.4.7/32", "10.200.4.7", "10.200.4.7", ""},
		{"10.200.0.0/16", "10.200.4.0-10.200.4.255", "10.200.4.0-10.200.4.255", ""},
		{"fd00::/120", "fd00::-fd00::ff", "fd00::1-fd00::ff", "fd00::"},
		{"fd00::/127", "fd00::-fd00::1", "fd00::-fd00::1", ""},
		{"fd00::9/128", "fd00::9", "fd00::9", ""},
	} {
		a, errs := ParseIPPoolSpec(&IPPoolSpec{Subnet: test.subnet, IPs: []string{test.ips}})
		if len(errs) > 0 {
			t.Errorf("%s: %v", test.subnet, errs)
			continue
		}
		gives, takes := strings.Join(FormatRanges(a.IPs), " "), strings.Join(FormatRanges(a.NoHost), " ")
		if gives != test.gives || takes != test.takes {
			t.Errorf("%s of %s gives %q and leaves out %q, want %q and %q", test.ips, test.subnet, gives, takes,
				test.gives, test.takes)
		}
	}
}

var badGateways = []poolCase{
	{name: "gateway is empty", change: gateway(""), want: `spec.gateway: Invalid value: "": ` + noAddress},
	{name: "gateway is a CIDR", change: gateway("172.91.0.0/16"),
		want: `spec.gateway: Invalid value: "172.91.0.0/16": ` + noAddress},
	{name: "gateway with a zone", change: gateway("fe80::1%eth0"),
		want: `spec.gateway: Invalid value: "fe80::1%eth0": has a zone; write fe80::1`},
	{name: "gateway outside", change: gateway("172.92.0.1"), want: `spec.gateway: Invalid value: "172.92.0.1": ` +
		outside},
	{name: "gateway of the other family", change: gateway("fd00::1"), want: `spec.gateway: Invalid value: "fd00::1": ` +
		outside},
	{name: "gateway is the broadcast address", change: gateway("172.91.255.255"),
		want: `spec.gateway: Invalid value: "172.91.255.255": ` + noRouter},
	{name: "gateway is the subnet", change: gateway("172.91.0.0"),
		want: `spec.gateway: Invalid value: "172.91.0.0": ` + noRouter},
	{name: "gateway among the addresses", change: gateway("172.91.0.105"),
		want: `spec.gateway: Invalid value: "172.91.0.105": is one of the addresses in spec.ips, so a pod could be given it; add 172.91.0.105 to spec.excludeIPs`},
}

var badRoutes = []poolCase{
	{name: "route without dst", change: routes(Route{Gw: "172.91.0.1"}),
		want: `spec.routes[0].dst: Invalid value: "": ` + noCIDR},
	{name: "route by the broadcast address", change: routes(Route{Dst: "10.0.0.0/8", Gw: "172.91.255.255"}),
		want: `spec.routes[0].gw: Invalid value: "172.91.255.255": ` + noRouter},
	{name: "route to an address", change: routes(Route{Dst: "10.0.0.1", Gw: "172.91.0.1"}),
		want: `spec.routes[0].dst: Invalid value: "10.0.0.1": ` + noCIDR},
	{name: "route with host bits", change: routes(Route{Dst: "10.1.2.3/16", Gw: "172.91.0.1"}),
		want: `spec.routes[0].dst: Invalid value: "10.1.2.3/16": has host bits set; write 10.1.0.0/16`},
	{name: "default route", change: routes(Route{Dst: "0.0.0.0/0", Gw: "172.91.0.1"}),
		want: `spec.routes[0].dst: Invalid value: "0.0.0.0/0": is a default route; use spec.gateway for it`},
	{name: "route of the other family", change: routes(Route{Dst: "fd00::/64", Gw: "172.91.0.1"}),
		want: `spec.routes[0].dst: Invalid value: "fd00::/64": is not of the family of the subnet 172.91.0.0/16`},
	{name: "route twice", change: routes(Route{Dst: "10.0.0.0/8", Gw: "172.91.0.1"},
		Route{Dst: "10.0.0.0/8", Gw: "172.91.0.2"}),
		want: `spec.routes[1].dst: Duplicate value: "10.0.0.0/8"`},
	{name: "route without gw", change: routes(Route{Dst: "10.0.0.0/8"}),
		want: `spec.routes[0].gw: Invalid value: "": ` + noAddress},
	{name: "route by a gateway outside", change: routes(Route{Dst: "10.0.0.0/8", Gw: "10.0.0.1"}),
		want: `spec.routes[0].gw: Invalid value: "10.0.0.1": ` + outside},
	{name: "route by a gateway of the other family", change: routes(Route{Dst: "10.0.0.0/8", Gw: "fd00::1"}),
		want: `spec.routes[0].gw: Invalid value: "fd00::1": ` + outside},
}

var badAffinities = []poolCase{
	{name: "empty podAffinity", change: podLabels(metav1.LabelSelector{}),
		want: `spec.podAffinity: Invalid value: "{}": ` + emptyMap},
	{name: "empty namespaceAffinity",
		change: func(p *SpiderIPPool) { p.Spec.NamespaceAffinity = &metav1.LabelSelector{} },
		want:   `spec.namespaceAffinity: Invalid value: "{}": ` + emptyMap},
	{name: "empty nodeAffinity", change: func(p *SpiderIPPool) { p.Spec.NodeAffinity = &metav1.LabelSelector{} },
		want: `spec.nodeAffinity: Invalid value: "{}": ` + emptyMap},
	{name: "unknown operator", change: func(p *SpiderIPPool) {
		p.Spec.NodeAffinity = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a",
			Operator: "Like"}}}
	}, want: `spec.nodeAffinity.matchExpressions[0].operator: Invalid value: "Like": not a valid selector operator`},
	{name: "In without values", change: func(p *SpiderIPPool) {
		p.Spec.NamespaceAffinity = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a",
			Operator: "In"}}}
	}, want: "spec.namespaceAffinity.matchExpressions[0].values: Required value: must be specified when `operator` " +
		"is 'In' or 'NotIn'"},
	{name: "label that cannot be", change: podLabels(metav1.LabelSelector{MatchLabels: map[string]string{"a b": "c"}}),
		want: `spec.podAffinity.matchLabels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character ` +
			`(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`},
	{name: "namespace without a name", change: func(p *SpiderIPPool) { p.Spec.NamespaceName = []string{"a", ""} },
		want: `spec.namespaceName[1]: Invalid value: "": ` + oneName},
	{name: "namespace with a slash", change: func(p *SpiderIPPool) { p.Spec.NamespaceName = []string{"a/b"} },
		want: `spec.namespaceName[0]: Invalid value: "a/b": ` + oneName},
	{name: "node without a name", change: func(p *SpiderIPPool) { p.Spec.NodeName = []string{""} },
		want: `spec.nodeName[0]: Invalid value: "": ` + oneName},
	{name: "nodes in one text", change: func(p *SpiderIPPool) { p.Spec.NodeName = []string{"a b"} },
		want: `spec.nodeName[0]: Invalid value: "a b": ` + oneName},
	{name: "network without a name", change: func(p *SpiderIPPool) { p.Spec.MultusName = []string{"a", ""} },
		want: `spec.multusName[1]: Invalid value: "": ` + netName},
	{name: "network of no namespace", change: func(p *SpiderIPPool) { p.Spec.MultusName = []string{"/b"} },
		want: `spec.multusName[0]: Invalid value: "/b": ` + netName},
	{name: "namespace of no network", change: func(p *SpiderIPPool) { p.Spec.MultusName = []string{"a/"} },
		want: `spec.multusName[0]: Invalid value: "a/": ` + netName},
	{name: "network with two slashes", change: func(p *SpiderIPPool) { p.Spec.MultusName = []string{"a/b/c"} },
		want: `spec.multusName[0]: Invalid value: "a/b/c": ` + netName},
	{name: "network with a space", change: func(p *SpiderIPPool) { p.Spec.MultusName = []string{"a, b"} },
		want: `spec.multusName[0]: Invalid value: "a, b": ` + netName},
}

var badBesideOthers = []poolCase{
	{name: "subnet around another's", change: asItIs, others: []SpiderIPPool{anotherPool("narrow", "172.91.0.0/24")},
		want: `spec.subnet: Invalid value: "172.91.0.0/16": overlaps the subnet 172.91.0.0/24 of pool narrow; use that very subnet or one apart from it`},
	{name: "subnet within another's", change: asItIs, others: []SpiderIPPool{anotherPool("wide", "172.0.0.0/8")},
		want: `spec.subnet: Invalid value: "172.91.0.0/16": overlaps the subnet 172.0.0.0/8 of pool wide; use that very subnet or one apart from it`},
	{name: "addresses of another pool", change: asItIs,
		others: []SpiderIPPool{anotherPool("a", "172.91.0.0/16", "172.91.0.110-172.91.0.130")},
		want:   `spec.ips: Forbidden: 172.91.0.110-172.91.0.120 belong to pool a already; take them out of one of the two pools`},
	{name: "many addresses of another pool", change: asItIs,
		others: []SpiderIPPool{anotherPool("a", "172.91.0.0/16", "172.91.0.100", "172.91.0.102", "172.91.0.104",
			"172.91.0.106", "172.91.0.108", "172.91.0.110")},
		want: `spec.ips: Forbidden: 172.91.0.100, 172.91.0.102, 172.91.0.104, 172.91.0.106 and 2 more ranges belong to pool a already; take them out of one of the two pools`},
}

// stock is an address that a node holds and no pod uses.
func stock(pool, ip string) SpiderIPLease {
	l := lease(pool, ip, "")
	l.Spec.Pod = nil
	return l
}

// Every edit of a pool that is refused, and those beside it that are not.
func TestValidateIPPoolUpdate(t *testing.T) {
	leases := []SpiderIPLease{lease("v4-91", "172.91.0.100", "a"), lease("v4-91", "172.91.0.101", "b"),
		stock("v4-91", "172.91.0.102")}
	outsider := append(leases, lease("v4-91", "172.91.0.200", "old"))
	many := []SpiderIPLease{}
	for i := range 6 {
		many = append(many, lease("v4-91", fmt.Sprintf("172.91.0.10%d", i), fmt.Sprint("p", i)))
	}
	const used = "spec.ips: Forbidden: addresses in use cannot be taken out of the pool: "
	const mend = "; delete their pods first, or leave the addresses in the pool and set spec.disable"
	deleted := func(p *SpiderIPPool) { p.DeletionTimestamp = new(metav1.NewTime(time.Unix(1, 0))) }
	tests := []struct {
		name     string
		old, new func(*SpiderIPPool)
		families Families
		others   []SpiderIPPool
		leases   []SpiderIPLease
		want     string
	}{
		{name: "grow", new: ips("172.91.0.100-172.91.0.130"), leases: leases},
		{name: "shrink where nothing is used", new: ips("172.91.0.100-172.91.0.101"), leases: leases},
		{name: "disable", new: func(p *SpiderIPPool) { p.Spec.Disable = new(true) }, leases: leases},
		{name: "take away what is only stock", new: exclude("172.91.0.102"), leases: leases},
		{name: "take away everything while there is only stock", new: ips(),
			leases: []SpiderIPLease{stock("v4-91", "172.91.0.100"), stock("v4-91", "172.91.0.101")}},
		{name: "shrink below what is used", new: ips("172.91.0.103-172.91.0.120"), leases: leases,
			want: used + "172.91.0.100 (pod default/a), 172.91.0.101 (pod default/b)" + mend},
		{name: "take away everything", new: ips(), leases: leases,
			want: used + "172.91.0.100 (pod default/a), 172.91.0.101 (pod default/b)" + mend},
		{name: "exclude what is used", new: exclude("172.91.0.101"), leases: leases,
			want: used + "172.91.0.101 (pod default/b)" + mend},
		{name: "exclude much of what is used", new: exclude("172.91.0.100-172.91.0.120"), leases: many,
			want: used +
				"172.91.0.100 (pod default/p0), 172.91.0.101 (pod default/p1), 172.91.0.102 (pod default/p2), " +
				"172.91.0.103 (pod default/p3) and 2 more" + mend},
		{name: "the gateway becomes an address in use",
			new: func(p *SpiderIPPool) { gateway("172.91.0.100")(p); exclude("172.91.0.100")(p) }, leases: leases,
			want: used + "172.91.0.100 (pod default/a)" + mend},
		{name: "a lease that lay outside before", new: func(p *SpiderIPPool) { p.Spec.Disable = new(true) },
			leases: outsider},
		{name: "mend a pool that could not be read", old: ips("junk"), new: ips("172.91.0.101"), leases: leases,
			want: used + "172.91.0.100 (pod default/a)" + mend},
		{name: "other subnet", new: subnet("172.92.0.0/16"),
			want: `spec.subnet: Invalid value: "172.92.0.0/16": cannot be changed from 172.91.0.0/16; create another pool`},
		{name: "wider subnet", new: subnet("172.0.0.0/8"),
			want: `spec.subnet: Invalid value: "172.0.0.0/8": cannot be changed from 172.91.0.0/16; create another pool`},
		{name: "other version", old: version(4), new: version(6),
			want: `spec.ipVersion: Invalid value: 6: cannot be changed from 4; create another pool`},
		{name: "version removed", old: version(4), new: asItIs,
			want: `spec.ipVersion: Invalid value: null: cannot be changed from 4; create another pool`},
		{name: "version written down", new: version(4)},
		{name: "bad change", new: ips("junk"), want: `spec.ips[0]: Invalid value: "junk": ` + noAddress},
		{name: "bad gateway", new: gateway("172.92.0.1"), want: `spec.gateway: Invalid value: "172.92.0.1": ` +
			outside},
		{name: "empty affinity", new: podLabels(metav1.LabelSelector{}),
			want: `spec.podAffinity: Invalid value: "{}": ` + emptyMap},
		{name: "addresses of another pool", new: ips("172.91.0.100-172.91.0.130"),
			others: []SpiderIPPool{anotherPool("a", "172.91.0.0/16", "172.91.0.130")},
			want:   `spec.ips: Forbidden: 172.91.0.130 belong to pool a already; take them out of one of the two pools`},
		{name: "change of a family that is off", new: ips("172.91.0.100"), families: Families{IPv6: true},
			want: `spec.ipVersion: Forbidden: IPv4 is not enabled; set enableIPv4: true in the product's configuration`},
		{name: "change while being deleted", new: func(p *SpiderIPPool) { deleted(p); p.Spec.Disable = new(true) },
			want: `spec: Forbidden: the pool is being deleted and cannot be changed; wait until its addresses are given back, then create it again`},
		{name: "finalizer removed while being deleted", new: func(p *SpiderIPPool) { deleted(p); p.Finalizers = nil }},
		{name: "stored before a rule existed", old: ips("junk"),
			new: func(p *SpiderIPPool) { ips("junk")(p); p.Labels = map[string]string{"a": "b"} }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			old, families := guidePool(), test.families
			if test.old != nil {
				test.old(old)
			}
			if families == (Families{}) {
				families = both
			}
			if got := text(ValidateIPPoolUpdate(old, guidePool(test.new), families, append(test.others, *old),
				test.leases)); got != test.want {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
		})
	}
}

func reserved(version *int64, ips ...string) *SpiderReservedIP {
	return &SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: ReservedIPSpec{IPVersion: version,
		IPs: ips}}
}

func TestDefaultReservedIP(t *testing.T) {
	r := reserved(nil, "fd00::5", "fd00::1-fd00::4")
	DefaultReservedIP(r)
	if diff := cmp.Diff(ReservedIPSpec{IPVersion: new(int64(6)), IPs: []string{"fd00::1-fd00::5"}},
		r.Spec); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

// Every field and edit of reserved addresses.
func TestValidateReservedIP(t *testing.T) {
	v4, v6 := new(int64(4)), new(int64(6))
	tests := []struct {
		name     string
		old      *SpiderReservedIP // nil: create
		in       *SpiderReservedIP
		families Families
		want     string
	}{
		{name: "good", in: reserved(v6, "fd00::1-fd00::5")},
		{name: "no version", in: reserved(nil, "10.0.0.1")},
		{name: "a family without addresses", in: reserved(v4)},
		{name: "nothing", in: reserved(nil),
			want: "spec.ips: Required value: name at least one address, or give spec.ipVersion"},
		{name: "no such version", in: reserved(new(int64(5)), "10.0.0.1"),
			want: `spec.ipVersion: Invalid value: 5: is no IP version; write 4 or 6, or leave the field out`},
		{name: "two families", in: reserved(v4, "10.0.0.1", "fd00::1"),
			want: `spec.ips[1]: Invalid value: "fd00::1": is IPv6, but spec.ipVersion is 4; use one object for each family`},
		{name: "two families, no version", in: reserved(nil, "10.0.0.1", "fd00::1"),
			want: `spec.ips[1]: Invalid value: "fd00::1": is IPv6, but the version of spec.ips[0] is 4; use one object for each family`},
		{name: "CIDR", in: reserved(v4, "10.0.0.0/8"),
			want: `spec.ips[0]: Invalid value: "10.0.0.0/8": is a CIDR; write the range 10.0.0.0-10.255.255.255`},
		{name: "word", in: reserved(nil, "junk"), want: `spec.ips[0]: Invalid value: "junk": ` + noAddress},
		{name: "backwards", in: reserved(nil, "10.0.0.1", "10.0.0.9-10.0.0.2"),
			want: `spec.ips[1]: Invalid value: "10.0.0.9-10.0.0.2": runs backwards; write 10.0.0.2-10.0.0.9`},
		{name: "mixed range", in: reserved(v4, "10.0.0.1-fd00::1"),
			want: `spec.ips[0]: Invalid value: "10.0.0.1-fd00::1": mixes IPv4 and IPv6; write one range for each family`},
		{name: "family not enabled", in: reserved(v6, "fd00::1"), families: Families{IPv4: true},
			want: `spec.ipVersion: Forbidden: IPv6 is not enabled; set enableIPv6: true in the product's configuration`},
		{name: "family not enabled, no version", in: reserved(nil, "10.0.0.1"), families: Families{IPv6: true},
			want: `spec.ipVersion: Forbidden: IPv4 is not enabled; set enableIPv4: true in the product's configuration`},
		{name: "one more address", old: reserved(v6, "fd00::1"), in: reserved(v6, "fd00::1", "fd00::9")},
		{name: "all addresses removed", old: reserved(v6, "fd00::1"), in: reserved(v6)},
		{name: "version changed", old: reserved(v6, "fd00::1"), in: reserved(v4, "10.0.0.1"),
			want: `spec.ipVersion: Invalid value: 4: cannot be changed from 6; create another object`},
		{name: "version removed", old: reserved(v6, "fd00::1"), in: reserved(nil, "fd00::1", "fd00::2"),
			want: `spec.ipVersion: Invalid value: null: cannot be changed from 6; create another object`},
		{name: "bad change", old: reserved(v6, "fd00::1"), in: reserved(v6, "junk"),
			want: `spec.ips[0]: Invalid value: "junk": ` + noAddress},
		{name: "stored before a rule existed", old: reserved(v6, "junk"), in: reserved(v6, "junk")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			families := test.families
			if families == (Families{}) {
				families = both
			}
			errs := ValidateReservedIP(test.in, families)
			if test.old != nil {
				errs = ValidateReservedIPUpdate(test.old, test.in, families)
			}
			if got := text(errs); got != test.want {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
		})
	}
}
