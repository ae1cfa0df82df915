// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
)

type elements = []cncfv1.NetworkSelectionElement

func TestSelections(t *testing.T) {
	for _, tt := range []struct {
		name, def, networks string
		want                Selected
		err                 string
	}{
		{name: "none"},
		{name: "blank", def: " ", networks: "\n"},
		{name: "the guide's", def: "kube-system/ib-sriov",
			want: Selected{Default: &cncfv1.NetworkSelectionElement{Namespace: "kube-system", Name: "ib-sriov"}}},
		{name: "default without namespace", def: "ipoib",
			want: Selected{Default: &cncfv1.NetworkSelectionElement{Namespace: "system", Name: "ipoib"}}},
		{
			name: "short", networks: " a , ns/b@ib1,c@net7 ",
			want: Selected{Networks: elements{{Namespace: "app", Name: "a"},
				{Namespace: "ns", Name: "b", InterfaceRequest: "ib1"}, {Namespace: "app", Name: "c",
					InterfaceRequest: "net7"}}},
		},
		{
			name: "json",
			networks: `[{"name":"a.b","namespace":"ns","interfaceRequest":"ib0","ips":["10.0.0.1/16","fd00::1"],"mac":"02:00:5e:10:00:01",
				"infiniband-guid":"02:00:5e:00:53:00:00:01","cni-args":{"guid":"x"},"default-route":["10.0.0.254"],"deviceID":"0000:86:00.1","unknown":{"kept":"aside"}}]`,
			want: Selected{Networks: elements{{
				Name: "a.b", Namespace: "ns", InterfaceRequest: "ib0", IPRequest: []string{"10.0.0.1/16", "fd00::1"},
				MacRequest:            "02:00:5e:10:00:01",
				InfinibandGUIDRequest: "02:00:5e:00:53:00:00:01",
				CNIArgs:               &runtime.RawExtension{Raw: []byte(`{"guid":"x"}`)},
				GatewayRequest:        []string{"10.0.0.254"}, DeviceID: "0000:86:00.1",
			}}},
		},
		{name: "default in JSON", def: `[{"name":"a","namespace":"b"}]`,
			want: Selected{Default: &cncfv1.NetworkSelectionElement{Name: "a", Namespace: "b"}}},
		{name: "empty list", networks: "[]", want: Selected{Networks: elements{}}},

		{name: "two defaults", def: "a,b",
			err: "annotation v1.multus-cni.io/default-network names 2 networks: want exactly one; further networks " +
				"belong into annotation k8s.v1.cni.cncf.io/networks"},
		{name: "no default", def: "[]",
			err: "annotation v1.multus-cni.io/default-network is an empty list: want exactly one network"},
		{name: "trailing comma", networks: "a,",
			err: "annotation k8s.v1.cni.cncf.io/networks: network 2: is empty: want [namespace/]name[@interface]"},
		{name: "upper case", networks: "a,IB",
			err: `annotation k8s.v1.cni.cncf.io/networks: network 2: "IB": name "IB": want lower-case letters`},
		{name: "dot", networks: "a.b", err: `"a.b": a name with a dot needs the JSON form: [{"name":"a.b"}]`},
		{name: "two slashes", networks: "a/b/c", err: `name "b/c": want lower-case`},
		{name: "no namespace", networks: "/b", err: `namespace "": want lower-case`},
		{name: "no interface", networks: "b@", err: "no interface name after '@'"},
		{name: "long interface", networks: "b@abcdefghijklmnop",
			err: `network 1: interface "abcdefghijklmnop": want at most 15 printable characters`},
		{name: "interface with a space", networks: "b@a b", err: `interface "a b": want at most 15`},
		{name: "loopback", networks: "b@lo", err: `interface "lo": the name is taken in every pod`},
		{name: "the coordinator's", networks: "b@veth0", err: `interface "veth0": the name is taken in every pod`},
		{name: "bare object", networks: `{"name":"a"}`,
			err: "annotation k8s.v1.cni.cncf.io/networks: is a JSON object: want a list, put it into [ ]"},
		{name: "broken JSON", networks: `[{"name":"a"`, err: "want a JSON list such as"},
		{name: "syntax error in a long text",
			networks: "[\n  { \"name\": \"ipo\",\n    \"ips\": [ \"172.92.1.50/16\" ]\n]\n",
			err: "annotation k8s.v1.cni.cncf.io/networks: line 4, column 1: invalid character ']' after object " +
				"key:value pair: want a JSON list such as [{\"name\":\"ib-sriov\"}], or a comma-separated list; " +
				"found " +
				`[ { "name": "ipo", "ips": [ "172.92.1.50/16" ] ]`},
		{name: "broken JSON of 60 kB", networks: "[" + strings.Repeat(" ", 60_000) + "}",
			err: "line 1, column 60002: invalid character '}' looking for beginning of value: want a JSON list"},
		{name: "too long", networks: "[" + strings.Repeat(" ", 200_000) + "]",
			err: "annotation k8s.v1.cni.cncf.io/networks has 200002 octets: must have at most 65536"},
		{name: "too many", networks: strings.Repeat("a,", 100) + "a",
			err: "annotation k8s.v1.cni.cncf.io/networks: names 101 networks: must name at most 100"},
		{name: "too many in JSON", networks: "[" + strings.Repeat(`{"name":"a"},`, 1000) + `{"name":"a"}]`,
			err: "names 1001 networks: must name at most 100"},
		{name: "too many ips", networks: `[{"name":"a","ips":["10.0.0.1"` + strings.Repeat(`,"10.0.0.1"`, 5000) + `]}]`,
			err: "network 1: ips: 5001 addresses are asked for: must be at most 32"},
		{name: "too many gateways", networks: `[{"name":"a","default-route":[""` + strings.Repeat(`,""`, 5000) + `]}]`,
			err: "default-route: 5001 gateways: must be at most one of each family"},
		{name: "too many ports", networks: `[{"name":"a","portMappings":[{}` + strings.Repeat(`,{}`, 5000) + `]}]`,
			err: "portMappings: 5001 are asked for: must be at most 256"},
		{name: "namespace in the name", networks: `[{"name":"field/ipo"}]`,
			err: `network 1: name "field/ipo" contains a namespace: must be the name alone in the JSON form; write ` +
				`"namespace": "field", "name": "ipo"`},
		{name: "namespace in the default's name", def: `[{"name":"field/ipo","namespace":"x"}]`,
			err: `default-network, network 1: name "field/ipo" contains a namespace`},
		{name: "interface in the name", networks: `[{"name":"ipo@ib7"}]`,
			err: `name "ipo@ib7" contains an interface: must be the name alone in the JSON form; write "name": "ipo", ` +
				`"interface": "ib7"`},
		{name: "both in the name", networks: `[{"name":"field/ipo@ib7"}]`, err: `"namespace": "field", "name": "ipo"`},
		{name: "quoted", networks: `"a"`, err: "want a JSON list such as"},
		{name: "string in list", networks: `[{"name":"a"},"b"]`, err: `network 2: found "b": want a JSON object`},
		{name: "null in list", networks: `[null]`, err: "network 1: found null: want a JSON object"},
		{name: "no name", networks: `[{}]`, err: `network 1: no name: want {"name": …}`},
		{name: "wrong kind", networks: `[{"name":7}]`, err: `network 1: key "name" has a number: want a string`},
		{name: "wrong kind of ips", networks: `[{"name":"a","ips":"10.0.0.1"}]`,
			err: `network 1: key "ips" has a string: want a list of strings`},
		{name: "guid of 6", networks: `[{"name":"a","infiniband-guid":"02:00:5e:10:00:01"}]`,
			err: `network 1: infiniband-guid: GUID "02:00:5e:10:00:01": want eight octets such as`},
		{name: "guid of 20",
			networks: `[{"name":"a","infiniband-guid":"00:00:10:49:fe:80:00:00:00:00:00:00:e8:eb:d3:03:00:93:ae:10"}]`,
			err:      "want eight octets"},
		{name: "guid zero", networks: `[{"name":"a","infiniband-guid":"00:00:00:00:00:00:00:00"}]`,
			err: "all zeros and all ones are no GUIDs"},
		{name: "mac", networks: `[{"name":"a","mac":"zz"}]`, err: `mac "zz": want a hardware address`},
		{name: "ip", networks: `[{"name":"a","ips":["10.0.0.1","10.0.0.300"]}]`,
			err: `ips: "10.0.0.300": want an address`},
		{name: "route", networks: `[{"name":"a","default-route":["x"]}]`,
			err: `default-route: "x": want the address of a gateway`},
		{name: "device", networks: `[{"name":"a","deviceID":"../x"}]`, err: `deviceID "../x": want the ID of a device`},
		{name: "args", networks: `[{"name":"a","cni-args":[1]}]`, err: "cni-args: found [1]: want a JSON object"},
		{name: "port", networks: `[{"name":"a","portMappings":[{"hostPort":0,"containerPort":80}]}]`,
			err: "portMappings 1: hostPort 0, containerPort 80: want 1 to 65535"},
		{name: "namespace", networks: `[{"name":"a","namespace":"A"}]`, err: `namespace "A" of network "a"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			annotations := map[string]string{cncfv1.AnnotationDefaultNetwork: tt.def,
				cncfv1.AnnotationNetworks: tt.networks}
			got, err := Selections(annotations, "app", "system")
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v\nwant  %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Whatever a pod's annotation holds, the refusal stays short, is of one line, and begins with the reason.
func TestSelectionsQuoteLittle(t *testing.T) {
	const many = 50_000
	long := strings.Repeat("x", many)
	for _, networks := range []string{long, long + "/b", "A" + long, "b@" + long, "b." + long + ".", "[" + long,
		`["` + long + `"]`, `[` + strings.Repeat("1", many) + `]`, `[{"name":` + strings.Repeat("1", many) + `}]`,
		`[{"name":"` + long + `"}]`, `[{"name":"a/` + long + `"}]`, `[{"name":"a@` + long + `"}]`,
		`[{"name":"a","namespace":"` + long + `"}]`, `[{"name":"a","interface":"` + long + `"}]`,
		`[{"name":"a","mac":"` + long + `"}]`, `[{"name":"a","infiniband-guid":"` + long + `"}]`,
		`[{"name":"a","deviceID":"` + long + `"}]`, `[{"name":"a","ips":["` + long + `"]}]`,
		`[{"name":"a","default-route":["` + long + `"]}]`, `[{"name":"a","cni-args":["` + long + `"]}]`,
		`[{"name":"a","cni-args":` + strings.Repeat("[", many) + `}]`, strings.Repeat("[", many),
		"[" + strings.Repeat("\n", many) + "x]", strings.Repeat("\\", many) + `"`,
	} {
		_, err := Selections(map[string]string{cncfv1.AnnotationNetworks: networks}, "app", "system")
		if err == nil {
			t.Errorf("%.40s: not refused", networks)
			continue
		}
		if got := err.Error(); len(got) > 1024 || strings.Contains(got, "\n") {
			t.Errorf("%.40s: a refusal of %d octets: %.300s", networks, len(got), got)
		}
	}
}

func TestNameInterfaces(t *testing.T) {
	for _, tt := range []struct {
		name, def, networks, want, err string
	}{
		{name: "by position", def: "d", networks: "a,b", want: "eth0 net1 net2"},
		{name: "cluster's default", networks: "a,b@ib7,c", want: "net1 ib7 net3"},
		{name: "asked for eth0", def: "d@eth0", want: "eth0"},
		{name: "default elsewhere", def: "d@ib0",
			err: `interface "ib0": the container runtime wants the default network on eth0: leave the interface out`},
		{name: "asked twice", networks: "a@x,b@x",
			err: "network 1 (app/a) and network 2 (app/b) would both be interface x"},
		{name: "asked and by position", networks: "a@net2,b",
			err: "network 1 (app/a) and network 2 (app/b) would both be interface net2: give one of them another " +
				"name, as in app/b@name"},
		{name: "against the default", networks: "a@eth0",
			err: "the default network and network 1 (app/a) would both be interface eth0"},
	} {
		s, err := Selections(map[string]string{cncfv1.AnnotationDefaultNetwork: tt.def,
			cncfv1.AnnotationNetworks: tt.networks}, "app", "system")
		if err != nil {
			t.Fatal(err)
		}
		err = s.NameInterfaces("eth0")
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
			}
			continue
		}
		var names []string
		if s.Default != nil {
			names = append(names, s.Default.InterfaceRequest)
		}
		for _, n := range s.Networks {
			names = append(names, n.InterfaceRequest)
		}
		if got := strings.Join(names, " "); err != nil || got != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
}

// FuzzSelections wants no panic, and of what is accepted, that writing it as JSON and reading it
// again gives the same.
func FuzzSelections(f *testing.F) {
	for _, s := range []string{"kube-system/ib-sriov", "a,b@x, c/d",
		`[{"name":"a","ips":["10.0.0.1"],"infiniband-guid":"02:00:5e:00:53:00:00:01"}]`,
		`[{"name":"a","cni-args":{"x":[1]}}]`, `{"`, "[null]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 { // so that what is written again is no longer than may be
			return
		}
		got, err := Selections(map[string]string{cncfv1.AnnotationNetworks: text}, "app", "system")
		if err != nil {
			return
		}
		for _, e := range got.Networks {
			if e.Name == "" || e.Namespace == "" || len(e.InterfaceRequest) > maxInterfaceName ||
				strings.ContainsAny(e.InterfaceRequest, "/ \n") {
				t.Errorf("%q gave %+v", text, e)
			}
		}
		if len(got.Networks) == 0 {
			return
		}
		again, err := json.Marshal(got.Networks)
		if err != nil {
			t.Fatal(err)
		}
		second, err := Selections(map[string]string{cncfv1.AnnotationNetworks: string(again)}, "app", "system")
		if err != nil {
			t.Fatalf("%q became %s, which is refused: %v", text, again, err)
		}
		third, err := json.Marshal(second.Networks)
		if err != nil || string(third) != string(again) {
			t.Errorf("%q: %s became %s", text, again, third)
		}
	})
}
