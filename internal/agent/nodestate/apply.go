// SPDX-License-Identifier: Apache-2.0

package nodestate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/controller-runtime/pkg/log"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/sriov"
)

// outcome is what one pass over the node came to.
type outcome struct {
	node *sriov.Node // nil when it could not be observed
	plan []sriov.Change
	errs []failure
	err  error // of the whole pass
}

// failure is a step that did not succeed. pci is the function that gets no further steps in this pass.
type failure struct {
	pci string
	err error
}

func (o *outcome) failed() bool { return o.err != nil || len(o.errs) > 0 }

// restless tells whether a free VF's port is not ACTIVE (yet): a subnet manager takes a moment.
func (o *outcome) restless() bool {
	return o.node != nil && slices.ContainsFunc(o.node.PFs, func(p sriov.PF) bool {
		return p.LinkType == v1.LinkTypeIB && slices.ContainsFunc(p.VFs, func(v sriov.VF) bool {
			return v.RDMA != "" && v.Pod == "" && v.PortState != "ACTIVE"
		})
	})
}

// ports pictures the cards' own ports.
func (o *outcome) ports() string {
	if o.node == nil {
		return ""
	}
	var b strings.Builder
	for _, pf := range o.node.PFs {
		fmt.Fprintf(&b, "%s %s\n", pf.PCI, pf.PortState)
	}
	return b.String()
}

// maxRounds bounds one pass: VFs are made, configured and found to be right; each takes one round,
// and a VF of a PF whose other changes come first one more.
const maxRounds = 6

// converge takes steps until none is left that can be taken. Every step is taken once: one that has
// no effect is an error, and what fails on one function does not hold up the others.
func (r *reconciler) converge(ctx context.Context, state *v1.SriovNetworkNodeState) (out outcome) {
	taken := map[string]bool{}
	for range maxRounds {
		node, err := r.observe(ctx, state)
		if err != nil {
			out.err = err
			return out
		}
		out.node, out.plan = &node, sriov.Plan(&state.Spec, node)
		todo := slices.DeleteFunc(slices.Clone(out.plan), func(c sriov.Change) bool {
			return c.Blocked != "" ||
				out.stopped(c)
		})
		if len(todo) == 0 || ctx.Err() != nil {
			return out
		}
		if !slices.ContainsFunc(todo, sriov.Change.Destroys) { // else VFs would be offered for a moment
			// After a start nothing is offered yet, and steps may take long: what is ready does not
			// wait for what is not.
			r.Front.Publish(sriov.Pools(&state.Spec, node))
		}
		r.announce(ctx, state, out)
		for _, c := range todo {
			if ctx.Err() != nil || out.stopped(c) {
				continue
			}
			r.take(ctx, state, c, taken, &out)
		}
	}
	return out
}

// stopped tells whether an earlier failure in this pass holds up a change.
func (o *outcome) stopped(c sriov.Change) bool {
	return slices.ContainsFunc(o.errs, func(f failure) bool { return f.pci == c.PF || f.pci == c.VF && c.VF != "" })
}

// errNowInUse: somebody got a VF between the plan and the step; the next plan says who.
var errNowInUse = errors.New("in use by now")

func (r *reconciler) take(ctx context.Context, state *v1.SriovNetworkNodeState, c sriov.Change, taken map[string]bool,
	out *outcome) {
	pci := c.VF
	if pci == "" {
		pci = c.PF
	}
	logger := log.FromContext(ctx).WithValues("pci", pci)
	key := c.PF + " " + c.String()
	if taken[key] {
		out.errs = append(out.errs,
			failure{pci, fmt.Errorf("%s on %s: the kernel took it without a complaint and without effect", c, c.PF)})
		return
	}
	taken[key] = true
	err := r.apply(ctx, state, c)
	switch {
	case errors.Is(err, errNowInUse):
		delete(taken, key)
		logger.Info("a step has to wait", "change", c.String())
	case err != nil:
		out.errs = append(out.errs, failure{pci, fmt.Errorf("%s on %s: %w", c, c.PF, err)})
	default:
		logger.Info("took a step", "change", c.String())
	}
}

// apply takes one step.
func (r *reconciler) apply(ctx context.Context, state *v1.SriovNetworkNodeState, c sriov.Change) error {
	if c.Destroys() {
		if err := r.withdraw(ctx, state, c); err != nil {
			return err
		}
	}
	switch c.Kind {
	case sriov.SetNumVFs:
		return r.Kernel.SetNumVFs(c.PF, c.Number)
	case sriov.SetUp:
		return r.onLink(c, func(index int) error { return r.Kernel.SetLinkUp(host.NodeNS, index) })
	case sriov.SetMTU:
		return r.onLink(c, func(index int) error { return r.Kernel.SetLinkMTU(host.NodeNS, index, c.Number) })
	case sriov.Record:
		return r.Ledger.PutVF(recordOf(c.Identity))
	case sriov.SetGUID:
		// The record comes first: a GUID that a VF may bear is never forgotten.
		if err := r.Ledger.PutVF(recordOf(c.Identity)); err != nil {
			return err
		}
		return r.Kernel.SetVFGUID(c.PF, c.Number, c.Identity.GUID)
	case sriov.SetState:
		return r.Kernel.SetVFState(c.PF, c.Number, host.VFAuto)
	case sriov.Bind:
		return r.Kernel.BindVF(c.VF)
	case sriov.Unbind:
		return r.Kernel.UnbindVF(c.VF)
	}
	return fmt.Errorf("no way is known to do it")
}

// onLink runs a call on the netdev of a change's function.
func (r *reconciler) onLink(c sriov.Change, do func(index int) error) error {
	link, err := r.Kernel.LinkByPCI(host.NodeNS, cmp.Or(c.VF, c.PF))
	if errors.Is(err, host.ErrNotFound) {
		return fmt.Errorf("its netdev is not in the node's namespace any more: %w", host.ErrNotFound)
	}
	if err != nil {
		return err
	}
	return do(link.Index)
}

// withdraw takes the VFs that a change destroys off the offer, and then makes sure once more that
// nobody has got one: what was offered until now may have been given away since the plan was made.
func (r *reconciler) withdraw(ctx context.Context, state *v1.SriovNetworkNodeState, c sriov.Change) error {
	node, err := r.observe(ctx, state)
	if err != nil {
		return err
	}
	pools := sriov.Pools(&state.Spec, node)
	for i := range pools {
		pools[i].Devices = slices.DeleteFunc(pools[i].Devices, func(d sriov.Device) bool {
			return d.PCI == c.VF || c.VF == "" && d.PF == c.PF
		})
	}
	r.Front.Publish(pools)
	if node, err = r.observe(ctx, state); err != nil {
		return err
	}
	still := slices.ContainsFunc(sriov.Plan(&state.Spec, node), func(o sriov.Change) bool {
		return o.Kind == c.Kind && o.PF == c.PF && o.VF == c.VF && o.Number == c.Number && o.Blocked == ""
	})
	if !still {
		return errNowInUse
	}
	return nil
}
