// SPDX-License-Identifier: Apache-2.0

package rdma

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
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
}

func (k *kernel) RDMAMode() (host.RDMAMode, error) { return k.mode, nil }

func (k *kernel) RDMAByPCI(ns host.NS, of string) (host.RDMADevice, error) {
	switch {
	case ns == pod && k.dead:
		return host.RDMADevice{}, host.ErrNSGone
	case ns != k.at || of != pci:
		return host.RDMADevice{}, host.ErrNotFound
	}
	return host.RDMADevice{Name: "mlx5_7", PCI: pci, LinkLayer: k.layer}, nil
}

func (k *kernel) MoveRDMA(from host.NS, name string, to host.NS) error {
	if from != k.at || name != "mlx5_7" {
		return fmt.Errorf("%s: %w", name, host.ErrNotFound)
	}
	k.at = to
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
