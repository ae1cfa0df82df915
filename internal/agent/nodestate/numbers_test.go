// SPDX-License-Identifier: Apache-2.0

package nodestate

import (
	"slices"
	"testing"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// The VFs of the first card go, and leave low verbs numbers free: the second card's free VFs take
// those, so that each keeps its number when it moves into a pod. One in a pod stays as it is, and
// is offered again only under such a number when it is home.
func TestVerbsNumbersAreClosed(t *testing.T) {
	kernel, spec := twoCards()
	r := newRig(t, kernel)
	r.want(spec)
	r.run()
	const inPod = "0000:87:00.2"
	r.attach(inPod, "a")
	before, err := kernel.VF(inPod)
	must(t, err)

	spec.Interfaces[0].NumVfs, spec.Interfaces[0].VfGroups = 0, nil
	r.want(spec)
	state, _ := r.run()
	wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "mellanoxibsriov: 3 VFs ready")
	if now, err := kernel.VF(inPod); err != nil || now.Uverbs != before.Uverbs {
		t.Errorf("the VF in a pod had %s, has %s, %v", before.Uverbs, now.Uverbs, err)
	}
	keepsItsNumber(t, r, "0000:87:00.1")

	r.detach("a")
	r.run()
	kernel.AddNS(podNS)
	keepsItsNumber(t, r, inPod)
	if got := r.front.pools["mellanoxibsriov"]; len(got) != 3 {
		t.Errorf("offered %v", got)
	}
}

// The second card got its VFs before the first. After a reboot they are made in another order, and
// those that containers were given have their numbers all the same.
func TestVerbsNumbersComeBackAfterAReboot(t *testing.T) {
	kernel, both := twoCards()
	r := newRig(t, kernel)
	second := v1.SriovNetworkNodeStateSpec{Interfaces: both.Interfaces[1:]}
	r.want(second)
	r.run()
	r.want(both)
	r.run()
	given := map[string]string{}
	for _, pci := range []string{"0000:87:00.1", "0000:87:00.3", "0000:86:00.2"} {
		vf, err := kernel.VF(pci)
		must(t, err)
		given[pci] = vf.Uverbs
		must(t, r.book.PutVerbs(pci, vf.Uverbs, ""))
	}
	rebooted, _ := twoCards()
	after := newRig(t, rebooted)
	after.reconciler.Ledger = r.book
	after.want(both)
	after.run()
	for pci, want := range given {
		if vf, err := rebooted.VF(pci); err != nil || vf.Uverbs != want {
			t.Errorf("%s has %s, its container %s; %v", pci, vf.Uverbs, want, err)
		}
	}
}

// brokenVF is a kernel that cannot bind one VF.
type brokenVF struct {
	*hosttest.Fake
	pci string
}

func (k brokenVF) BindVF(pci string) error {
	if pci == k.pci {
		return host.ErrBusy
	}
	return k.Fake.BindVF(pci)
}

// A VF that cannot be bound leaves a low number free for good: the others take it and are offered.
func TestBrokenVFHoldsUpNoOther(t *testing.T) {
	r := newRig(t, hosttest.GuideNode())
	r.want(guideSpec(4))
	r.run()
	must(t, r.kernel.UnbindVF("0000:86:00.2"))
	r.Kernel = brokenVF{r.kernel, "0000:86:00.2"}
	r.run()
	state, _ := r.run()
	wantCondition(t, state, v1.SyncStatusFailed, "Failed", "0000:86:00.2")
	if got := r.front.pools["mellanoxibsriov"]; len(got) != 3 {
		t.Fatalf("offered %v, want the other three", got)
	}
	r.kernel.AddNS(podNS)
	for _, pci := range slices.Clone(r.front.pools["mellanoxibsriov"]) {
		keepsItsNumber(t, r, pci)
	}
}

// keepsItsNumber moves an offered VF into a pod and home again.
func keepsItsNumber(t *testing.T, r *rig, pci string) {
	t.Helper()
	if !slices.Contains(r.front.pools["mellanoxibsriov"], pci) {
		t.Fatalf("%s is not offered", pci)
	}
	was, err := r.kernel.VF(pci)
	must(t, err)
	must(t, r.kernel.MoveRDMA(host.NodeNS, was.RDMA.Name, podNS))
	is, err := r.kernel.VF(pci)
	must(t, err)
	must(t, r.kernel.MoveRDMA(podNS, was.RDMA.Name, host.NodeNS))
	if is.Uverbs != was.Uverbs {
		t.Errorf("%s was %s on the node and is %s in the pod", pci, was.Uverbs, is.Uverbs)
	}
}
