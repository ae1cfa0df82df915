// SPDX-License-Identifier: Apache-2.0

package ibsriov

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ib"
)

const (
	vf0 = "0000:86:00.1"
	pod = host.NS("/var/run/netns/pod")
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

func guideNode(t *testing.T) *hosttest.Fake {
	t.Helper()
	return guideNodeWith(t, hosttest.Options{Naming: hosttest.GuideNaming})
}

func guideNodeWith(t *testing.T, o hosttest.Options) *hosttest.Fake {
	t.Helper()
	f := hosttest.GuideNodeWith(o)
	must(t, f.SetNumVFs(hosttest.GuidePF, 3))
	for i, pci := range []string{vf0, "0000:86:00.2", "0000:86:00.3"} {
		must(t, f.SetVFGUID(hosttest.GuidePF, i, ib.VFGUID(hosttest.GuidePFGUID, i)))
		must(t, f.BindVF(pci))
	}
	f.AddNS(pod)
	f.Revive()
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func call(conf string) *cni.Request {
	return &cni.Request{ContainerID: "c", NetNS: pod, IfName: "eth0", Network: "net", CNIVersion: "1.0.0",
		Conf: []byte(conf), State: &memory{}}
}

func TestParse(t *testing.T) {
	for name, test := range map[string]struct {
		conf string
		want parsed
		says string // of the error
	}{
		"least":            {`{"deviceID":"0000:86:00.1"}`, parsed{PCI: vf0}, ""},
		"upper case":       {`{"deviceID":"0000:AF:00.1"}`, parsed{PCI: "0000:af:00.1"}, ""},
		"from the runtime": {`{"runtimeConfig":{"deviceID":"0000:86:00.1"}}`, parsed{PCI: vf0}, ""},
		"link state": {`{"deviceID":"0000:86:00.1","link_state":"enable"}`,
			parsed{PCI: vf0, LinkState: host.VFEnable}, ""},
		"GUID of the pod": {`{"deviceID":"0000:86:00.1","args":{"cni":{"guid":"02:00:00:00:00:00:00:09","n":1}}}`,
			parsed{PCI: vf0, GUID: "02:00:00:00:00:00:00:09"}, ""},
		"runtime's GUID": {
			`{"deviceID":"0000:86:00.1","runtimeConfig":{"infinibandGUID":"02:00:00:00:00:00:00:08"},"args":{"cni":{"guid":"x"}}}`, parsed{PCI: vf0, GUID: "02:00:00:00:00:00:00:08"}, ""},
		"no device":  {`{}`, parsed{}, "resources.limits"},
		"bad device": {`{"deviceID":"mlx5_0"}`, parsed{}, "want a PCI address"},
		"pkey": {`{"deviceID":"0000:86:00.1","pkey":"0x8001"}`, parsed{},
			`pkey is "0x8001": partitions are not implemented, and the pod would be in the default partition; remove "pkey" from the network's configuration`},
		"pkey as a number": {`{"deviceID":"0000:86:00.1","pkey":1}`, parsed{},
			"pkey is 1: partitions are not implemented"},
		"no domain":        {`{"deviceID":"86:00.1"}`, parsed{}, "the PCI domain is missing"},
		"device beyond 1f": {`{"deviceID":"0000:86:20.1"}`, parsed{}, "want a PCI address"},
		"vfio": {`{"deviceID":"0000:86:00.1","vfioPciMode":true}`, parsed{},
			"vfioPciMode is true: virtual functions bound to vfio-pci are not supported; remove it"},
		"bad link state": {`{"deviceID":"0000:86:00.1","link_state":"up"}`, parsed{}, "auto, enable or disable"},
		"dhcp": {`{"deviceID":"0000:86:00.1","ipam":{"type":"dhcp"}}`, parsed{},
			"does not work on InfiniBand"},
		"GUID of six octets": {`{"deviceID":"0000:86:00.1","args":{"cni":{"guid":"02:00:00:00:00:09"}}}`, parsed{},
			"args.cni.guid"},
		"GUID of ones": {
			`{"deviceID":"0000:86:00.1","runtimeConfig":{"infinibandGUID":"ff:ff:ff:ff:ff:ff:ff:ff"}}`, parsed{},
			"not GUIDs"},
		"ib-kubernetes late": {`{"deviceID":"0000:86:00.1","ibKubernetesEnabled":true}`, parsed{}, "ib-kubernetes"},
		"wrong type":         {`{"deviceID":7}`, parsed{}, "does not parse"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse(call(test.conf))
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("err = %v, want %q", err, test.says)
				}
				return
			}
			must(t, err)
			shown := parsed{PCI: got.pci, LinkState: got.linkState}
			if !got.guid.IsZero() {
				shown.GUID = got.guid.String()
			}
			if diff := cmp.Diff(test.want, shown); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// parsed is request for comparison.
type parsed struct {
	PCI       string
	LinkState host.VFState
	GUID      string
}

func TestDecide(t *testing.T) {
	guid := ib.GUIDFromUint64(0x0200000000000001)
	addr := append(make([]byte, 12), guid[:]...)
	home := host.VFDevices{PF: hosttest.GuidePF, Index: 0, Driver: "mlx5_core", Uverbs: "uverbs1",
		Link: &host.Link{Name: "ibs5f0v0", LinkLayer: host.InfiniBand, HardwareAddr: addr}, RDMA: "mlx5_1"}
	with := func(change func(*host.VFDevices)) host.VFDevices {
		vf := home
		change(&vf)
		return vf
	}
	yes, no := true, false
	for name, test := range map[string]struct {
		mode    host.RDMAMode
		isolate *bool
		link    host.VFState
		guid    ib.GUID
		vf      host.VFDevices
		moves   string // RDMA device that goes along
		sets    host.VFState
		says    string
	}{
		"exclusive, unset": {mode: host.RDMAExclusive, vf: home, moves: "mlx5_1"},
		"shared, unset":    {mode: host.RDMAShared, vf: home},
		"exclusive, false": {mode: host.RDMAExclusive, isolate: &no, vf: home},
		"shared, true":     {mode: host.RDMAShared, isolate: &yes, vf: home, says: "shared mode"},
		"link state":       {mode: host.RDMAShared, link: host.VFEnable, vf: home, sets: host.VFEnable},
		"link state as is": {mode: host.RDMAShared, link: host.VFAuto, vf: home},
		"own GUID asked":   {mode: host.RDMAShared, guid: guid, vf: home},
		"other GUID asked": {mode: host.RDMAShared, guid: ib.GUID{2, 7}, vf: home, says: "keeps its GUID for good"},
		"no GUID": {mode: host.RDMAShared,
			vf:   with(func(v *host.VFDevices) { l := *v.Link; l.HardwareAddr = make([]byte, 20); v.Link = &l }),
			says: "has no GUID"},
		"Ethernet": {mode: host.RDMAShared,
			vf:   with(func(v *host.VFDevices) { l := *v.Link; l.LinkLayer = host.Ethernet; v.Link = &l }),
			says: "not InfiniBand"},
		"unbound": {mode: host.RDMAShared, vf: with(func(v *host.VFDevices) { v.Driver = "" }),
			says: "has no driver"},
		"vfio": {mode: host.RDMAShared, vf: with(func(v *host.VFDevices) { v.Driver = "vfio-pci" }),
			says: "vfio-pci"},
		"netdev elsewhere": {mode: host.RDMAShared, vf: with(func(v *host.VFDevices) { v.Link = nil }),
			says: "another pod"},
		"device elsewhere": {mode: host.RDMAExclusive, vf: with(func(v *host.VFDevices) { v.RDMA = "" }),
			says: "another pod"},
		"no device, shared": {mode: host.RDMAShared, vf: with(func(v *host.VFDevices) { v.RDMA = "" })},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decide(call(`{}`), request{pci: vf0, linkState: test.link, isolate: test.isolate,
				guid: test.guid}, observed{mode: test.mode, vf: test.vf, state: host.VFAuto, given: "uverbs1"})
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), test.says) {
					t.Errorf("err = %v, want %q", err, test.says)
				}
				return
			}
			must(t, err)
			if got.state.RDMA != test.moves || got.setState != test.sets || got.uverbs != "uverbs1" ||
				(got.state.VFState != "") != (test.sets != "") {
				t.Errorf("plan %+v", got)
			}
		})
	}
}

// The container has another verbs device than the VF: both are named, and Del returns all. Without
// a pod nothing was given.
func TestOtherVerbsDevice(t *testing.T) {
	for _, test := range []struct {
		mode        host.RDMAMode
		verbs, umad string
		want        [2]string
	}{
		{host.RDMAExclusive, "uverbs9", "", [2]string{"/dev/infiniband/uverbs9", "now has uverbs1"}},
		{host.RDMAShared, "uverbs9", "", [2]string{"/dev/infiniband/uverbs9", "now has uverbs1"}},
		{host.RDMAExclusive, "uverbs1", "umad9", [2]string{"/dev/infiniband/umad9", "now has umad1"}},
	} {
		f := guideNode(t)
		f.ForceRDMAMode(test.mode)
		before := f.Snapshot()
		p := &Plugin{Kernel: f, Given: func(string) (string, string, error) { return test.verbs, test.umad, nil }}
		r := call(`{"deviceID":"` + vf0 + `"}`)
		r.Pod.UID = "uid"
		_, err := p.Add(context.Background(), r)
		if err == nil || !strings.Contains(err.Error(), test.want[0]) || !strings.Contains(err.Error(), test.want[1]) {
			t.Errorf("err = %v", err)
		}
		must(t, p.Del(context.Background(), r))
		if diff := cmp.Diff(before, f.Snapshot()); diff != "" {
			t.Error(diff)
		}
		_, err = p.Add(context.Background(), call(`{"deviceID":"`+vf0+`"}`))
		must(t, err)
	}
}

// Something else took the VF's name meanwhile: the VF comes back under a free one, never under the pod's.
func TestNameTakenOnTheNode(t *testing.T) {
	f := guideNode(t)
	f.ForceRDMAMode(host.RDMAShared)
	p := &Plugin{Kernel: f}
	for _, dead := range []bool{false, true} {
		r := call(`{"deviceID":"` + vf0 + `"}`)
		_, err := p.Add(context.Background(), r)
		must(t, err)
		other, err := f.LinkByName(host.NodeNS, "eno1")
		must(t, err)
		must(t, f.RenameLink(host.NodeNS, other.Index, "ibs5f0v0"))
		if dead {
			f.DeleteNS(pod)
		}
		must(t, p.Del(context.Background(), r))
		l, err := f.LinkByPCI(host.NodeNS, vf0)
		must(t, err)
		if l.Name == "eth0" || l.Name == "ibs5f0v0" || l.Up {
			t.Errorf("link %+v", l)
		}
		must(t, f.RenameLink(host.NodeNS, other.Index, "eno1"))
		must(t, f.RenameLink(host.NodeNS, l.Index, "ibs5f0v0"))
	}
}

// The VF was removed with its card while a pod had it: there is nothing to return.
func TestVFRemoved(t *testing.T) {
	f := guideNode(t)
	p := &Plugin{Kernel: f}
	r := call(`{"deviceID":"` + vf0 + `"}`)
	_, err := p.Add(context.Background(), r)
	must(t, err)
	must(t, f.SetNumVFs(hosttest.GuidePF, 0))
	must(t, p.Del(context.Background(), r))
}

func TestCheck(t *testing.T) {
	f := guideNode(t)
	p := &Plugin{Kernel: f}
	r := call(`{"deviceID":"` + vf0 + `"}`)
	if err := p.Check(context.Background(), r); err == nil {
		t.Error("checked what was never added")
	}
	_, err := p.Add(context.Background(), r)
	must(t, err)
	must(t, p.Check(context.Background(), r))
	must(t, f.MoveRDMA(pod, "mlx5_1", host.NodeNS))
	if err := p.Check(context.Background(), r); err == nil {
		t.Error("the RDMA device is gone and CHECK is content")
	}
}
