// SPDX-License-Identifier: Apache-2.0

package spiderpool

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/ipam"
)

// memory is a cni.State.
type memory struct{ raw []byte }

func (m *memory) Load(into any) (bool, error) {
	if m.raw == nil {
		return false, nil
	}
	return true, json.Unmarshal(m.raw, into)
}

func (m *memory) Save(v any) (err error) {
	m.raw, err = json.Marshal(v)
	return err
}

// Note implements cni.State.
func (m *memory) Note(v any) error { return m.Save(v) }

// addresses answers every request alike and remembers it.
type addresses struct {
	asked ipam.Request
	err   error
}

func (a *addresses) Allocate(_ context.Context, r ipam.Request) (ipam.Allocation, error) {
	a.asked = r
	return ipam.Allocation{
		Addresses: []ipam.Address{
			{IP: netip.MustParsePrefix("172.91.0.100/16"), Gateway: netip.MustParseAddr("172.91.0.1")},
			{IP: netip.MustParsePrefix("fd00:91::64/64")},
		},
		Routes: []ipam.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("172.91.0.1")}},
	}, a.err
}

func (a *addresses) Release(context.Context, string, string, string) error { return nil }
func (a *addresses) Avoid(netip.Addr)                                      {}

const guide = `{"ipam":{"type":"spiderpool","default_ipv4_ippool":["v4-91"],"clean_gateway":true}}`

func TestAddAndDel(t *testing.T) {
	a := &addresses{}
	var released []string
	p := &Plugin{Addresses: a, Release: func(uid, sandbox, ifname string) error {
		released = append(released, uid+" "+sandbox+" "+ifname)
		return nil
	}}
	r := &cni.Request{ContainerID: "c", IfName: "net1", Interfaces: []string{"eth0", "net1"}, NAD: "ns/n",
		Conf: []byte(guide), Pod: ipam.Pod{UID: "u"}, State: &memory{}}
	if err := p.Del(context.Background(), r); err != nil || released != nil {
		t.Errorf("Del before Add: %v, released %v", err, released)
	}
	res, err := p.Add(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	text, err := cni.Encode(res, "1.0.0")
	if err != nil {
		t.Fatal(err)
	}
	want := `{"cniVersion":"1.0.0","ips":[{"address":"172.91.0.100/16","gateway":"172.91.0.1"},{"address":"fd00:91::64/64"}],"routes":[{"dst":"0.0.0.0/0","gw":"172.91.0.1"}]}`
	if string(text) != want {
		t.Errorf("result\n%s, want\n%s", text, want)
	}
	asked := ipam.Request{Pod: ipam.Pod{UID: "u"}, Interface: "net1", Interfaces: []string{"eth0", "net1"},
		Sandbox: "c", Network: "ns/n",
		DefaultIPv4: []string{"v4-91"}, CleanGateway: true}
	if diff := cmp.Diff(asked, a.asked); diff != "" {
		t.Error(diff)
	}
	if err := p.Del(context.Background(), r); err != nil || !cmp.Equal(released, []string{"u c net1"}) {
		t.Errorf("Del: %v, released %v", err, released)
	}
}

// The addresses of the physical function are asked for only where the network wants them, and when
// nobody knows them, the request says why.
func TestMasters(t *testing.T) {
	here := []netip.Addr{netip.MustParseAddr("172.91.0.10")}
	masters := func(deviceID string) ([]netip.Addr, error) {
		if deviceID != "0000:86:00.1" {
			return nil, errors.New("deviceID " + deviceID + " is not a virtual function of this node")
		}
		return here, nil
	}
	for name, test := range map[string]struct {
		conf    string
		masters func(string) ([]netip.Addr, error)
		want    ipam.Request
	}{
		"not wanted": {`{"deviceID":"0000:86:00.1","ipam":{}}`, masters, ipam.Request{}},
		"device": {`{"deviceID":"0000:86:00.1","ipam":{"match_master_subnet":true}}`, masters,
			ipam.Request{MasterAddresses: here}},
		"runtime's device": {`{"runtimeConfig":{"deviceID":"0000:86:00.1"},"ipam":{"match_master_subnet":true}}`,
			masters, ipam.Request{MasterAddresses: here}},
		"no device": {`{"ipam":{"match_master_subnet":true}}`, masters,
			ipam.Request{
				MasterUnknown: "the configuration has no deviceID; match_master_subnet is for networks whose pods " +
					"get a virtual function, such as sriov and ib-sriov"}},
		"other device": {`{"deviceID":"0000:01:00.0","ipam":{"match_master_subnet":true}}`, masters,
			ipam.Request{MasterUnknown: "deviceID 0000:01:00.0 is not a virtual function of this node"}},
		"nobody knows": {`{"deviceID":"0000:86:00.1","ipam":{"match_master_subnet":true}}`, nil,
			ipam.Request{MasterUnknown: "nothing here can tell which one 0000:86:00.1 belongs to"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := &addresses{}
			if _, err := (&Plugin{Addresses: a, Masters: test.masters}).Add(context.Background(),
				&cni.Request{Conf: []byte(test.conf), Pod: ipam.Pod{UID: "u"}, State: &memory{}}); err != nil {
				t.Fatal(err)
			}
			test.want.Pod, test.want.MatchMasterSubnet = ipam.Pod{UID: "u"}, name != "not wanted"
			if diff := cmp.Diff(test.want, a.asked, cmp.Comparer(func(x,
				y netip.Addr) bool {
				return x == y
			})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzConf: whatever the configuration, Add asks for an address or says what is wrong with it, and
// with match_master_subnet it never asks without addresses to compare or a reason why there are
// none.
func FuzzConf(f *testing.F) {
	for _, seed := range []string{guide, `{}`, `null`, `[]`, `{"ipam":[]}`,
		`{"ipam":{"match_master_subnet":true},"deviceID":"0000:86:00.1"}`,
		`{"ipam":{"match_master_subnet":true},"deviceID":7}`,
		`{"ipam":{"default_ipv4_ippool":[null,""],"default_ipv6_ippool":["v6"]},"runtimeConfig":{"deviceID":"x"}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		a := &addresses{}
		p := &Plugin{Addresses: a, Masters: func(string) ([]netip.Addr,
			error) {
			return []netip.Addr{netip.MustParseAddr("172.91.0.10")}, nil
		}}
		_, err := p.Add(context.Background(), &cni.Request{Conf: text, Pod: ipam.Pod{UID: "u"}, State: &memory{}})
		if err != nil {
			if !strings.Contains(err.Error(), "the configuration does not parse: ") {
				t.Fatalf("the refusal %q does not say what is wrong", err)
			}
			return
		}
		if known := len(a.asked.MasterAddresses) > 0; a.asked.MatchMasterSubnet != (known ||
			a.asked.MasterUnknown != "") || known && a.asked.MasterUnknown != "" {
			t.Fatalf("asked with match %t for the subnets of %v (%s)", a.asked.MatchMasterSubnet,
				a.asked.MasterAddresses, a.asked.MasterUnknown)
		}
		again, err := json.Marshal(map[string]any{"ipam": map[string]any{"default_ipv4_ippool": a.asked.DefaultIPv4,
			"default_ipv6_ippool": a.asked.DefaultIPv6,
			"clean_gateway":       a.asked.CleanGateway, "match_master_subnet": a.asked.MatchMasterSubnet}})
		if err != nil {
			t.Fatal(err)
		}
		first := a.asked
		if _, err := p.Add(context.Background(), &cni.Request{Conf: again, Pod: ipam.Pod{UID: "u"},
			State: &memory{}}); err != nil {
			t.Fatal(err)
		}
		first.MasterAddresses, first.MasterUnknown, a.asked.MasterAddresses, a.asked.MasterUnknown = nil, "", nil, ""
		if diff := cmp.Diff(first, a.asked); diff != "" {
			t.Fatalf("%s is read as another request:\n%s", again, diff)
		}
	})
}

func TestRefusals(t *testing.T) {
	exhausted := errors.New("pool v4-91: no free address")
	for name, test := range map[string]struct {
		request cni.Request
		err     error
		says    string
	}{
		"no pod": {cni.Request{Conf: []byte(guide)}, nil, "CNI_ARGS names none"},
		"bad conf": {cni.Request{Conf: []byte(`{"ipam":{"default_ipv4_ippool":"v4"}}`), Pod: ipam.Pod{UID: "u"}}, nil,
			"does not parse"},
		"exhausted": {cni.Request{Conf: []byte(guide), Pod: ipam.Pod{UID: "u"}}, exhausted, "no free address"},
	} {
		test.request.State = &memory{}
		_, err := (&Plugin{Addresses: &addresses{err: test.err}}).Add(context.Background(), &test.request)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", name, err, test.says)
		}
	}
}

// The addresses that a pod asks for reach the request: as a capability, or as an argument. What is
// none is refused.
func TestWanted(t *testing.T) {
	for name, c := range map[string]struct {
		conf, err string
		variable  string
		want      []netip.Prefix
	}{
		"none": {conf: guide},
		"capability": {conf: `{"runtimeConfig":{"ips":["172.91.0.105/16"]},"args":{"cni":{"ips":["172.91.0.1"]}}}`,
			want: []netip.Prefix{netip.MustParsePrefix("172.91.0.105/16")}},
		"argument": {conf: `{"args":{"cni":{"ips":["172.91.0.105","fd00::5"]}}}`,
			want: []netip.Prefix{netip.MustParsePrefix("172.91.0.105/32"), netip.MustParsePrefix("fd00::5/128")}},
		"variable": {conf: `{"args":{"cni":{"ips":["172.91.0.1"]}}}`, variable: "172.91.0.105/16,fd00::5",
			want: []netip.Prefix{netip.MustParsePrefix("172.91.0.105/16"), netip.MustParsePrefix("fd00::5/128")}},
		"capability and variable": {conf: `{"runtimeConfig":{"ips":["172.91.0.105/16"]}}`, variable: "172.91.0.1",
			want: []netip.Prefix{netip.MustParsePrefix("172.91.0.105/16")}},
		"bad variable": {conf: guide, variable: "172.91.0.105,,", err: `wanted address ""`},
		"two":          {conf: `{"runtimeConfig":{"ips":["172.91.0.105","172.91.0.106"]}}`, err: "more than one of IPv4"},
		"no address":   {conf: `{"runtimeConfig":{"ips":["ib0"]}}`, err: `wanted address "ib0"`},
	} {
		t.Run(name, func(t *testing.T) {
			a := &addresses{}
			_, err := (&Plugin{Addresses: a}).Add(t.Context(), &cni.Request{Conf: []byte(c.conf),
				Pod: ipam.Pod{UID: "u"}, State: &memory{}, Args: map[string]string{"IP": c.variable}})
			if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Fatalf("error %v, want %q", err, c.err)
			}
			if diff := cmp.Diff(c.want, a.asked.Wanted,
				cmp.Comparer(func(x, y netip.Prefix) bool { return x == y })); diff != "" {
				t.Error(diff)
			}
		})
	}
}
