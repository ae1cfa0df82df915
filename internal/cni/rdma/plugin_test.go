// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
)

const (
	pod = host.NS("/ns")
	pci = "0000:01:00.2"
)

// kernel is a node with one Ethernet VF whose netdev is in the pod already.
type kernel struct {
	mode  host.RDMAMode
	layer host.LinkLayer
	at    host.NS
	dead  bool
	name  string   // what a pod has made of mlx5_7; "" before that
	taken []string // names of other devices
	late  int      // how often the device is looked for on the node before the kernel has returned it
}

func (k *kernel) called() string { return cmp.Or(k.name, "mlx5_7") }

func (k *kernel) RDMAMode() (host.RDMAMode, error) { return k.mode, nil }

func (k *kernel) RDMAByPCI(ns host.NS, of string) (host.RDMADevice, error) {
	switch {
	case ns == pod && k.dead:
		return host.RDMADevice{}, host.ErrNSGone
	case ns != k.at || of != pci:
		return host.RDMADevice{}, host.ErrNotFound
	}
	if k.dead && k.late > 0 {
		k.late--
		return host.RDMADevice{}, host.ErrNotFound
	}
	return host.RDMADevice{Name: k.called(), PCI: pci, LinkLayer: k.layer, Index: 7}, nil
}

func (k *kernel) MoveRDMA(from host.NS, name string, to host.NS) error {
	if from != k.at || name != k.called() {
		return fmt.Errorf("%s: %w", name, host.ErrNotFound)
	}
	k.at = to
	return nil
}

func (k *kernel) RenameRDMA(ns host.NS, index int, name string) error {
	switch {
	case ns != k.at || index != 7:
		return host.ErrNotFound
	case slices.Contains(k.taken, name):
		return host.ErrExists
	}
	k.name = name
	return nil
}

func (k *kernel) Links(host.NS) ([]host.Link, error) {
	return []host.Link{{Name: "lo"}, {Name: "eth0", PCI: pci, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}, nil
}

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

func call(conf string) *cni.Request {
	return &cni.Request{ContainerID: "c", NetNS: pod, IfName: "eth0", Network: "net", Conf: []byte(conf),
		State: &memory{},
		Prev: &types100.Result{Interfaces: []*types100.Interface{{Name: "eth0", Mac: "02:00:00:00:00:01",
			Sandbox: string(pod)}}}}
}

func TestMovesAndReturns(t *testing.T) {
	for _, conf := range []string{`{"deviceID":"` + pci + `"}`, `{}`} {
		for _, dead := range []bool{false, true} {
			k := &kernel{mode: host.RDMAExclusive, layer: host.Ethernet}
			p := &Plugin{Kernel: k}
			r := call(conf)
			res, err := p.Add(context.Background(), r)
			if err != nil || res != r.Prev || k.at != pod {
				t.Fatalf("%s: %v, device in %q", conf, err, k.at)
			}
			if err := p.Check(context.Background(), r); err != nil {
				t.Error(err)
			}
			if dead {
				k.dead, k.at = true, host.NodeNS
			}
			for range 2 {
				if err := p.Del(context.Background(), r); err != nil || k.at != host.NodeNS {
					t.Errorf("Del: %v, device in %q", err, k.at)
				}
			}
		}
	}
}

// TestRenamed has a pod give its device another name, as CAP_NET_ADMIN in its namespace allows.
func TestRenamed(t *testing.T) {
	for name, test := range map[string]struct {
		now   string
		taken []string
		want  string
	}{
		"any":               {"x", nil, "mlx5_7"},
		"no part of a path": {"..", nil, "mlx5_7"},
		"a path":            {"../x", nil, "mlx5_7"},
		"taken meanwhile":   {"..", []string{"mlx5_7"}, "pci_0000_01_00_2"},
		"exchanged":         {"mlx5_8", []string{"mlx5_7"}, "pci_0000_01_00_2"},
		"both taken":        {"x", []string{"mlx5_7", "pci_0000_01_00_2"}, "pci_0000_01_00_2_0"},
	} {
		for _, late := range []int{-1, 0, 3} { // -1: the pod lives
			k := &kernel{mode: host.RDMAExclusive, layer: host.Ethernet}
			p := &Plugin{Kernel: k}
			r := call(`{}`)
			if _, err := p.Add(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			k.name, k.taken = test.now, test.taken
			if late >= 0 {
				k.dead, k.at, k.late = true, host.NodeNS, late
			}
			for range 2 {
				if err := p.Del(t.Context(), r); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if k.at != host.NodeNS || k.name != test.want {
				t.Errorf("%s, %d: the device is called %q in %q; want %q on the node", name, late, k.name, k.at,
					test.want)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		kernel kernel
		conf   string
		change func(*cni.Request)
		says   string
	}{
		"not chained": {kernel{mode: host.RDMAExclusive}, `{}`, func(r *cni.Request) { r.Prev = nil }, "not chained"},
		"shared mode": {kernel{mode: host.RDMAShared}, `{}`, nil, "shared mode"},
		"no device":   {kernel{mode: host.RDMAExclusive}, `{"deviceID":"0000:02:00.1"}`, nil, "has no RDMA device"},
		"no function": {kernel{mode: host.RDMAExclusive}, `{}`,
			func(r *cni.Request) { r.Prev.Interfaces[0].Name = "net9" }, "belongs to a PCI function"},
		"is InfiniBand": {kernel{mode: host.RDMAExclusive, layer: host.InfiniBand}, `{}`, nil, "use type ib-sriov"},
	} {
		r := call(test.conf)
		if test.change != nil {
			test.change(r)
		}
		_, err := (&Plugin{Kernel: &test.kernel}).Add(context.Background(), r)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", name, err, test.says)
		}
		if test.kernel.at != host.NodeNS {
			t.Errorf("%s: the device was moved", name)
		}
	}
}
