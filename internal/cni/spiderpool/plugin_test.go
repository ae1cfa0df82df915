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

const guide = `{"ipam":{"type":"spiderpool","default_ipv4_ippool":["v4-91"],"clean_gateway":true}}`

func TestAddAndDel(t *testing.T) {
	a := &addresses{}
	var released []string
	p := &Plugin{Addresses: a, Release: func(uid, sandbox, ifname string) error {
		released = append(released, uid+" "+sandbox+" "+ifname)
		return nil
	}}
	r := &cni.Request{ContainerID: "c", IfName: "net1", Interfaces: []string{"eth0", "net1"}, NAD: "ns/n", Conf: []byte(guide), Pod: ipam.Pod{UID: "u"}, State: &memory{}}
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
	asked := ipam.Request{Pod: ipam.Pod{UID: "u"}, Interface: "net1", Interfaces: []string{"eth0", "net1"}, Sandbox: "c", Network: "ns/n",
		DefaultIPv4: []string{"v4-91"}, CleanGateway: true}
	if diff := cmp.Diff(asked, a.asked); diff != "" {
		t.Error(diff)
	}
	if err := p.Del(context.Background(), r); err != nil || !cmp.Equal(released, []string{"u c net1"}) {
		t.Errorf("Del: %v, released %v", err, released)
	}
}

func TestRefusals(t *testing.T) {
	exhausted := errors.New("pool v4-91: no free address")
	for name, test := range map[string]struct {
		request cni.Request
		err     error
		says    string
	}{
		"no pod":    {cni.Request{Conf: []byte(guide)}, nil, "CNI_ARGS names none"},
		"bad conf":  {cni.Request{Conf: []byte(`{"ipam":{"default_ipv4_ippool":"v4"}}`), Pod: ipam.Pod{UID: "u"}}, nil, "does not parse"},
		"exhausted": {cni.Request{Conf: []byte(guide), Pod: ipam.Pod{UID: "u"}}, exhausted, "no free address"},
	} {
		test.request.State = &memory{}
		_, err := (&Plugin{Addresses: &addresses{err: test.err}}).Add(context.Background(), &test.request)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", name, err, test.says)
		}
	}
}
