// SPDX-License-Identifier: Apache-2.0

package nodestate

import (
	"context"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/sriov"
)

// PlanRemoval plans what the end of all policies would do on this node: VFs that we made go, unless
// somebody has them. It is for a node whose agent does not run any more; identities come from its
// records.
func PlanRemoval(ctx context.Context, pfs func() ([]host.PF, error), identities func() ([]ledger.VF, error),
	allocated func(context.Context) (map[string]string, error)) ([]sriov.Change, error) {
	r := &reconciler{Options: Options{Kernel: onlyPFs{pfs: pfs}, Ledger: onlyVFs{vfs: identities}, Front: noFront{},
		Allocated: allocated}}
	node, err := r.observe(ctx, &v1.SriovNetworkNodeState{})
	if err != nil {
		return nil, err
	}
	spec := &v1.SriovNetworkNodeStateSpec{}
	for _, pf := range node.PFs {
		spec.Interfaces = append(spec.Interfaces, v1.Interface{PciAddress: pf.PCI})
	}
	return sriov.Plan(spec, node), nil
}

// onlyPFs is a Kernel of which nothing else is asked.
type onlyPFs struct {
	Kernel
	pfs func() ([]host.PF, error)
}

func (k onlyPFs) PFs() ([]host.PF, error) { return k.pfs() }

func (onlyPFs) VerbsNumbers() ([]int, error) { return nil, nil } // what goes needs no number

// onlyVFs is a Ledger of a node on which no pod has a network of ours.
type onlyVFs struct {
	Ledger
	vfs func() ([]ledger.VF, error)
}

func (l onlyVFs) VFs() ([]ledger.VF, error)                  { return l.vfs() }
func (onlyVFs) Verbs(string) (verbs, umad string, err error) { return "", "", nil }
func (onlyVFs) DevicesInUse() map[string]ledger.Pod          { return nil }

// noFront advertises nothing.
type noFront struct{}

func (noFront) Publish([]sriov.Pool)             {}
func (noFront) RecentlyGiven() map[string]string { return nil }
