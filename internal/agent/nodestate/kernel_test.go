// SPDX-License-Identifier: Apache-2.0

package nodestate

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ib"
	"spidernet.io/spiderpool/internal/ledger"
)

// TestOnKernel makes, keeps and removes VFs on a real kernel, with the card that HOSTTEST_IB_PF
// names. It destroys all VFs of that card.
func TestOnKernel(t *testing.T) {
	card := os.Getenv("HOSTTEST_IB_PF")
	if card == "" {
		t.Skip("needs an InfiniBand card: run it in the lab's virtual machine with HOSTTEST_IB_PF")
	}
	kernel, err := host.New(host.Options{})
	must(t, err)
	defer kernel.Close()
	must(t, kernel.SetNumVFs(card, 0))
	r := newRig(t, hosttest.GuideNode())
	r.reconciler.Kernel = kernel
	spec := func(n int) v1.SriovNetworkNodeStateSpec {
		s := guideSpec(n)
		s.Interfaces[0].PciAddress = card
		return s
	}

	r.want(spec(12))
	state, result := r.run()
	for i := 0; i < 10 && result.RequeueAfter < r.Interval; i++ { // ports on their way to ACTIVE
		time.Sleep(200 * time.Millisecond)
		state, result = r.run()
	}
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "mellanoxibsriov: 12 VFs ready")
	pf := observedCard(t, state, card)
	parent, err := ib.ParseGUID(pf.Guid)
	must(t, err)
	for i, vf := range pf.VFs {
		if vf.GUID != ib.VFGUID(parent, i).String() || vf.PortState != "ACTIVE" || vf.RdmaDevice == "" ||
			vf.Name == "" {
			t.Errorf("VF %d: %+v", i, vf)
		}
	}

	// one VF goes into a pod: it stays counted, and the card is not reset
	const ns = "nodestate-test"
	command(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
	must(t, r.book.UpdateSandbox("a", func(s *ledger.Sandbox) error {
		s.Pod = ledger.Pod{Namespace: "default", Name: "a", UID: "a"}
		s.Attachments = []ledger.Attachment{{Network: "ib-sriov", IfName: "eth0", DeviceID: pf.VFs[3].PciAddress,
			Phase: ledger.Done}}
		return nil
	}))
	must(t, kernel.MoveRDMA(host.NodeNS, pf.VFs[3].RdmaDevice, host.NS("/var/run/netns/"+ns)))
	state, _ = r.run()
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "mellanoxibsriov: 12 VFs ready")
	r.want(spec(4))
	state, _ = r.run()
	wantCondition(t, state, v1.SyncStatusInProgress, "WaitingForPods", "numVfs 12 -> 4", pf.VFs[3].PciAddress+
		" by default/a")

	// the pod goes: the rest happens, with the same GUIDs
	command(t, "ip", "netns", "del", ns)
	must(t, r.book.UpdateSandbox("a", func(s *ledger.Sandbox) error { s.Attachments = nil; return nil }))
	for i := 0; i < 50; i++ { // the kernel gives the device back a little later
		time.Sleep(100 * time.Millisecond)
		if state, _ = r.run(); state.Status.SyncStatus == v1.SyncStatusSucceeded &&
			observedCard(t, state, card).NumVfs == 4 {
			break
		}
	}
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "mellanoxibsriov: 4 VFs ready")
	for i, vf := range observedCard(t, state, card).VFs {
		if vf.GUID != ib.VFGUID(parent, i).String() {
			t.Errorf("VF %d has GUID %s", i, vf.GUID)
		}
	}

	// the policy goes; then somebody makes a VF and binds it without a GUID, which is mended
	none := v1.SriovNetworkNodeStateSpec{Interfaces: v1.Interfaces{{PciAddress: card}}}
	r.want(none)
	state, _ = r.run()
	if left := observedCard(t, state, card); left.NumVfs != 0 || left.Managed {
		t.Fatalf("VFs are left: %+v", left)
	}
	must(t, kernel.SetNumVFs(card, 1))
	must(t, kernel.BindVF(pf.VFs[0].PciAddress))
	r.want(spec(1))
	state, _ = r.run()
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "mellanoxibsriov: 1 VFs ready")
	if got := observedCard(t, state, card).VFs[0].GUID; got != ib.VFGUID(parent, 0).String() {
		t.Errorf("GUID %s", got)
	}
	must(t, kernel.SetNumVFs(card, 0))
}

func observedCard(t *testing.T, state *v1.SriovNetworkNodeState, pci string) v1.InterfaceExt {
	t.Helper()
	for _, pf := range state.Status.Interfaces {
		if pf.PciAddress == pci {
			return pf
		}
	}
	t.Fatalf("no card %s among %+v", pci, state.Status.Interfaces)
	return v1.InterfaceExt{}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("%s %v: %w: %s", name, args, err, out))
	}
}
