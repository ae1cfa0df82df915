// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// eventsOf are the events so far that have a reason.
func (n *node) eventsOf(reason string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(n.events),
		func(e string) bool { return !strings.Contains(e, " "+reason+" ") })
}

// What a running pod has lost is told at it, once, and again when it is something else; what it has
// not lost is not touched.
func TestVerify(t *testing.T) {
	for name, c := range map[string]struct {
		network string
		lose    func(*node)
		want    string
	}{
		"RDMA device": {"ib-sriov", func(n *node) { must(t, n.fake.MoveRDMA(podNS, "mlx5_1", host.NodeNS)) },
			"VF " + vf0},
		"child": {"ipoib", func(n *node) {
			l, err := n.fake.LinkByName(podNS, "eth0")
			must(t, err)
			must(t, n.fake.DeleteLink(podNS, l.Index))
		}, "look for eth0 in the pod"},
		"pair": {"ipoib", func(n *node) {
			l, err := n.fake.LinkByName(podNS, "veth0")
			must(t, err)
			must(t, n.fake.DeleteLink(podNS, l.Index))
		}, "plugin coordinator"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			n.pod("p", annotations(c.network))
			n.mustCall("ADD", "p")
			whole := n.snapshot()
			n.service.verify(t.Context())
			n.same(whole, "after a look at a whole attachment")
			if got := n.eventsOf(ReasonBroken); len(got) > 0 {
				t.Errorf("events of a whole attachment: %q", got)
			}
			c.lose(n)
			lost := n.snapshot()
			for range 2 {
				n.service.verify(t.Context())
			}
			n.same(lost, "after two looks at a broken attachment")
			got := n.eventsOf(ReasonBroken)
			if len(got) != 1 || !strings.Contains(got[0], c.want) || !strings.Contains(got[0], "kube-system/"+c.network+
				" as eth0") {
				t.Errorf("events %q; want one with %q", got, c.want)
			}
			n.mustCall("DEL", "p")
		})
	}
}

// unknown is a pod source whose cache is not filled yet, for a number of looks.
type unknown struct {
	*node
	left *atomic.Int32
}

func (u unknown) Cached(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	if u.left.Add(-1) >= 0 {
		return nil, errors.New("the cache is not started, can not read objects")
	}
	return u.node.Cached(ctx, namespace, name)
}

// An agent that does not know its node's pods yet looks at their attachments again as soon as it does,
// not with its next round.
func TestVerifyBeforeThePodsAreKnown(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", annotations("ib-sriov"))
	n.mustCall("ADD", "p")
	must(t, n.fake.MoveRDMA(podNS, "mlx5_1", host.NodeNS))
	var left atomic.Int32
	left.Store(3)
	n.service.Pods = unknown{n, &left}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), n.service.CollectEvery)
		defer cancel()
		n.service.verifyLoop(ctx)
	})
	if got := n.eventsOf(ReasonBroken); len(got) != 1 {
		t.Errorf("events %q %s after the agent's start; want one of what the pod has lost", got, n.service.CollectEvery)
	}
	n.mustCall("DEL", "p")
}

// brittle is a plugin whose work something else undoes.
type brittle struct {
	cni.Plugin
	broken, mends int
}

func (p *brittle) Check(context.Context, *cni.Request) error {
	if p.broken > 0 {
		return cni.Errorf(cni.CodeFailed, "", "broken")
	}
	return nil
}

func (p *brittle) Mend(context.Context, *cni.Request) error {
	p.broken--
	p.mends++
	return nil
}

// What a plugin can mend is mended and not told; what is broken still afterwards is.
func TestVerifyMends(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", annotations("ipoib"))
	n.mustCall("ADD", "p")
	p := &brittle{Plugin: n.service.runner.Plugins["ipoib"]}
	n.service.runner.Plugins["ipoib"] = p
	for i, c := range []struct{ broken, mends, events int }{{0, 0, 0}, {1, 1, 0}, {2, 2, 1}} {
		p.broken = c.broken
		n.service.verify(t.Context())
		if got := len(n.eventsOf(ReasonBroken)); p.mends != c.mends || got != c.events {
			t.Errorf("look %d: mended %d times and told %d times, want %d and %d", i, p.mends, got, c.mends, c.events)
		}
		p.broken, p.mends = 0, c.mends
	}
}

// A VF that came home under its pod's name, with nothing recorded of it, gets a name of the node's;
// a PF keeps whatever it has.
func TestStrayVF(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	before, err := n.fake.LinkByPCI(host.NodeNS, vf0)
	must(t, err)
	pf, err := n.fake.LinkByPCI(host.NodeNS, hosttest.GuidePF)
	must(t, err)
	for _, l := range []host.Link{before, pf} {
		must(t, n.fake.RenameLink(host.NodeNS, l.Index, map[bool]string{true: "net1", false: "net2"}[l.PCI == vf0]))
	}
	n.pod("p", annotations("ib-sriov")) // of another sandbox, which has another VF
	n.devices[resource] = slices.Clone(n.devices[resource])[1:]
	n.mustCall("ADD", "p")
	must(t, n.service.sweep())
	if now, err := n.fake.LinkByPCI(host.NodeNS, vf0); err != nil || now.Name != fmt.Sprint("ibvf", before.Index) {
		t.Errorf("the VF: %+v, %v", now, err)
	}
	if now, err := n.fake.LinkByPCI(host.NodeNS, hosttest.GuidePF); err != nil || now.Name != "net2" {
		t.Errorf("the PF: %+v, %v", now, err)
	}
}

// A VF that some attachment has is left to that.
func TestStrayVFThatIsRecorded(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", annotations("ib-sriov"))
	n.mustCall("ADD", "p")
	must(t, n.fake.MoveRDMA(podNS, "mlx5_1", host.NodeNS))
	l, err := n.fake.LinkByPCI(host.NodeNS, vf0)
	if err != nil { // it stays in the pod with kernels that do not take it along
		l, err = n.fake.LinkByPCI(podNS, vf0)
		must(t, err)
		l, err = n.fake.MoveLink(podNS, l.Index, host.NodeNS, "net1")
	} else {
		must(t, n.fake.RenameLink(host.NodeNS, l.Index, "net1"))
	}
	must(t, err)
	must(t, n.service.sweep())
	if now, err := n.fake.LinkByPCI(host.NodeNS, vf0); err != nil || now.Name != "net1" {
		t.Errorf("the VF: %+v, %v", now, err)
	}
}

// Whatever a pod asks for of its routes, and however the node shares its RDMA devices, what came of
// it is not called broken.
func TestVerifyIsSilent(t *testing.T) {
	both := map[string]string{cncfv1.AnnotationDefaultNetwork: "kube-system/ib-sriov",
		cncfv1.AnnotationNetworks: "kube-system/ib-sriov,kube-system/ipoib"}
	for name, c := range map[string]struct {
		annotations map[string]string
		prepare     func(*node)
	}{
		"default-route":     {several(), nil},
		"default-route-nic": {merged(both, "ipam.spidernet.io/default-route-nic", "net2"), nil},
		"three networks":    {both, nil},
		"shared RDMA mode": {annotations("ib-sriov"), func(n *node) {
			n.fake.ForceRDMAMode(host.RDMAShared)
			n.network("kube-system", "ib-sriov", strings.Replace(confIBSRIOV, `"rdmaIsolation":true,`, "", 1), resource)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			if c.prepare != nil {
				c.prepare(n)
			}
			n.pod("p", c.annotations)
			n.mustCall("ADD", "p")
			n.service.verify(t.Context())
			if told := n.eventsOf(ReasonBroken); len(told) > 0 {
				t.Errorf("told %q", told)
			}
		})
	}
}

func merged(m map[string]string, key, value string) map[string]string {
	out := maps.Clone(m)
	out[key] = value
	return out
}

// What cannot be looked at is not called broken, and neither is what the network's owner does not
// want checked.
func TestVerifyTellsOnlyWhatItSaw(t *testing.T) {
	for name, c := range map[string]struct {
		check  error
		config string
		want   int
	}{
		"no descriptors": {syscall.EMFILE, confIPoIB, 0},
		"seen":           {cni.Errorf(cni.CodeFailed, "", "it is gone"), confIPoIB, 1},
		"disableCheck": {cni.Errorf(cni.CodeFailed, "", "it is gone"), strings.Replace(confIPoIB, "{",
			`{"disableCheck":true,`, 1), 0},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			n.network("kube-system", "ipoib", c.config, "")
			n.pod("p", annotations("ipoib"))
			n.mustCall("ADD", "p")
			n.service.runner.Plugins["ipoib"] = failing{n.service.runner.Plugins["ipoib"], c.check}
			n.service.verify(t.Context())
			if told := n.eventsOf(ReasonBroken); len(told) != c.want {
				t.Errorf("told %q, want %d events", told, c.want)
			}
		})
	}
}

// failing is a plugin whose Check ends so.
type failing struct {
	cni.Plugin
	err error
}

func (p failing) Check(context.Context, *cni.Request) error { return p.err }
