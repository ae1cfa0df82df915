// SPDX-License-Identifier: Apache-2.0

package sriov

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

// Kind is what a change does.
type Kind string

// The kinds of change.
const (
	SetNumVFs Kind = "numVfs"      // Number VFs on the PF, going through none
	SetUp     Kind = "up"          // the PF's netdev
	SetMTU    Kind = "mtu"         // Number, of the VF's netdev, or the PF's when VF is ""
	Record    Kind = "record"      // the identity of a VF that already bears it
	SetGUID   Kind = "guid"        // record the identity, then give its GUID to the VF
	SetState  Kind = "state"       // the VF's link state becomes auto: it follows the PF's port
	Bind      Kind = "bind"        // the kernel's driver to the VF
	Unbind    Kind = "unbind"      // the driver from the VF
	Check     Kind = "requirement" // nothing: what has to be mended by a person, always blocked
)

// Change is one small step on one physical function.
type Change struct {
	Kind     Kind
	PF       string // PCI address
	VF       string // PCI address, "" for the PF itself
	Number   int
	Old      int // what Number replaces, for the reader
	Identity Identity
	// Text says what Check checks, or what an Unbind is for.
	Text string
	// Blocked says why the step cannot be taken yet and what would free it; "" when it can.
	Blocked string
	// InUse tells that it is blocked by whoever uses VFs, and goes on by itself when they are free.
	InUse bool
	// Stranger tells that a user is something that is no known pod: it does not help that pods go.
	Stranger bool
	// Pods are "namespace/name" of the users when every one is a pod and known, so that nothing
	// else is waited for.
	Pods []string
}

// Destroys tells whether the change takes VFs away from under whoever uses them.
func (c Change) Destroys() bool { return c.Kind == SetNumVFs && c.Old > 0 || c.Kind == Unbind }

// String says what the change does, for a person.
func (c Change) String() string {
	switch c.Kind {
	case SetNumVFs:
		return fmt.Sprintf("numVfs %d -> %d", c.Old, c.Number)
	case SetUp:
		return "set the PF's netdev up"
	case SetMTU:
		if c.VF == "" {
			return fmt.Sprintf("mtu %d -> %d", c.Old, c.Number)
		}
		return fmt.Sprintf("VF %s: mtu %d -> %d", c.VF, c.Old, c.Number)
	case Record:
		return fmt.Sprintf("VF %s: keep GUID %s", c.VF, c.Identity.GUID)
	case SetGUID:
		return fmt.Sprintf("VF %s: set GUID %s", c.VF, c.Identity.GUID)
	case SetState:
		return fmt.Sprintf("VF %s: set link state auto", c.VF)
	case Bind:
		return fmt.Sprintf("VF %s: bind the kernel's driver", c.VF)
	case Unbind:
		return fmt.Sprintf("VF %s: %s", c.VF, cmp.Or(c.Text, "unbind the driver"))
	}
	return c.Text
}

// Plan lists, in order, what has to be done so that the node becomes what the spec says. Changes of
// one PF depend on that PF alone. After each run of changes the caller observes again and asks
// again: VFs that do not exist yet are planned for when they do. An empty plan means that the node
// is as it shall be.
func Plan(spec *v1.SriovNetworkNodeStateSpec, n Node) []Change {
	ids := newIdentities(n)
	var out []Change
	for i := range spec.Interfaces {
		w := &spec.Interfaces[i]
		p := planner{want: w, ids: ids, useUnknown: n.UseUnknown}
		p.pf = find(n.PFs, w.PciAddress)
		p.plan()
		out = append(out, p.changes...)
	}
	if slices.ContainsFunc(out, func(c Change) bool { return c.Kind == SetNumVFs && c.Blocked == "" }) {
		return out // numbers change with what is made and removed
	}
	return append(inNumberOrder(out, &n), renumber(spec, &n)...)
}

// Planned is a plan as SriovNetworkNodeState shows it.
func Planned(plan []Change) []v1.PlannedChange {
	var out []v1.PlannedChange
	for _, c := range plan {
		out = append(out, v1.PlannedChange{PciAddress: c.PF, Change: c.String(), Blocked: c.Blocked, InUse: c.InUse &&
			!c.Stranger, WaitsFor: c.Pods})
	}
	return out
}

// planner plans for one PF.
type planner struct {
	want       *v1.Interface
	pf         *PF
	ids        *identities
	useUnknown string
	changes    []Change
}

func (p *planner) add(c Change) {
	c.PF = p.want.PciAddress
	p.changes = append(p.changes, c)
}

func (p *planner) plan() {
	if text, blocked := p.requirement(); blocked != "" {
		p.add(Change{Kind: Check, Text: text, Blocked: blocked})
		return
	}
	if problem := p.ids.problem(p.pf, p.want.NumVfs); problem != "" {
		// Before anything is made: VFs would get GUIDs that nobody wants for good. Those in service
		// stay as they are.
		p.add(Change{Kind: Check, Text: "choose GUIDs", Blocked: problem})
		return
	}
	p.planLink()
	if p.planNumVFs() {
		return // the VFs of now will be gone
	}
	for i := range p.pf.VFs {
		v := &p.pf.VFs[i]
		if g := GroupOf(p.want, v.Index); g != nil {
			p.planVF(v, g)
		}
	}
}

// requirement says what a person has to mend before anything can be done on the PF.
func (p *planner) requirement() (text, blocked string) {
	w, pf := p.want, p.pf
	if pf == nil {
		return "find the card",
			fmt.Sprintf("the node has no network card at %s: put it back, or take it out of the policy", w.PciAddress)
	}
	if w.NumVfs == 0 {
		return "", ""
	}
	switch {
	case w.LinkType != "" && !strings.EqualFold(w.LinkType, pf.LinkType):
		number := map[bool]int{true: 1, false: 2}[strings.EqualFold(w.LinkType, v1.LinkTypeIB)]
		return fmt.Sprintf("linkType %s -> %s", pf.LinkType, strings.ToUpper(w.LinkType)),
			fmt.Sprintf(
				"the link layer is a setting of the firmware: `mstconfig -d %s set LINK_TYPE_P1=%d` and reboot, or "+
					"remove linkType from the policy", pf.PCI, number)
	case pf.Driver == "":
		return "bind a driver to the PF",
			fmt.Sprintf("no driver is bound: load the card's module (`modprobe mlx5_core`) and see `dmesg | grep %s`",
				pf.PCI)
	case strings.EqualFold(w.EswitchMode, "switchdev"):
		return "eSwitchMode switchdev", "only legacy is supported: remove eSwitchMode from the policy"
	case pf.LinkType == v1.LinkTypeIB && pf.Name == "":
		return "find the PF's netdev",
			"GUIDs are given through the PF's IPoIB netdev, and it has none in the node's namespace: `modprobe " +
				"ib_ipoib`"
	case pf.LinkType == v1.LinkTypeIB && pf.RDMA == "":
		return "find the PF's RDMA device",
			"GUIDs are derived from its port's, and the node has no RDMA device for the PF: `modprobe mlx5_ib`, " +
				"then see `rdma link`"
	case pf.LinkType == v1.LinkTypeIB && !pf.GUID.Valid():
		return "find the PF's port GUID", fmt.Sprintf("it is %s, and VFs get theirs from it: see `ibstat %s`", pf.GUID,
			pf.RDMA)
	}
	return "", ""
}

func (p *planner) planLink() {
	if p.want.NumVfs == 0 || p.pf.Name == "" || p.want.ExternallyManaged {
		return
	}
	if p.want.Mtu > 0 && p.pf.MTU != p.want.Mtu {
		p.add(Change{Kind: SetMTU, Number: p.want.Mtu, Old: p.pf.MTU})
	}
	if !p.pf.Up {
		p.add(Change{Kind: SetUp}) // without it the port of the PF's netdev, and with "auto" a VF's, shows no carrier
	}
}

// planNumVFs tells whether the present VFs are going to be destroyed.
func (p *planner) planNumVFs() (going bool) {
	w, pf := p.want, p.pf
	if w.NumVfs == 0 && !p.ids.managed(pf) {
		return false // what somebody else made is not ours to remove
	}
	if pf.NumVFs == w.NumVfs || w.ExternallyManaged && pf.NumVFs > w.NumVfs {
		return false
	}
	c := Change{Kind: SetNumVFs, Number: w.NumVfs, Old: pf.NumVFs}
	switch {
	case w.ExternallyManaged:
		c.Blocked = fmt.Sprintf(
			"the policy says externallyManaged, so the VFs are made by somebody else: `echo %d > "+
				"/sys/bus/pci/devices/%s/sriov_numvfs`", w.NumVfs, pf.PCI)
	case pf.TotalVFs == 0:
		c.Blocked = fmt.Sprintf(
			"the card allows no VFs (sriov_totalvfs is 0): `mstconfig -d %s set SRIOV_EN=True NUM_OF_VFS=%d` "+
				"and reboot", pf.PCI, w.NumVfs)
	case w.NumVfs > pf.TotalVFs:
		c.Blocked = fmt.Sprintf(
			"the card supports at most %d (sriov_totalvfs): lower numVfs, or `mstconfig -d %s set SRIOV_EN=True "+
				"NUM_OF_VFS=%d` and reboot", pf.TotalVFs, pf.PCI, w.NumVfs)
	case pf.NumVFs > 0:
		p.needFree(&c, pf.VFs, "the number changes by removing all VFs")
	}
	p.add(c)
	return c.Blocked == ""
}

// needFree blocks a change while anybody holds one of the VFs.
func (p *planner) needFree(c *Change, vfs []VF, why string) {
	if p.useUnknown != "" {
		c.Blocked, c.InUse = fmt.Sprintf("%s, and it is not known which of them pods use: %s", why, p.useUnknown), true
		return
	}
	c.Blocked = Holders(vfs, why)
	c.InUse = c.Blocked != ""
	c.Pods, c.Stranger = holdingPods(vfs)
}

// Holders says who holds any of the VFs; "" when nobody does.
func Holders(vfs []VF, why string) string {
	var held []string
	for i := range vfs {
		if h := vfs[i].holder(); h != "" {
			held = append(held, fmt.Sprintf("%s by %s", vfs[i].PCI, h))
		}
	}
	if len(held) == 0 {
		return ""
	}
	return fmt.Sprintf("%s, and these are in use: %s; it goes on when these pods are deleted", why,
		strings.Join(held, ", "))
}

// holdingPods lists the pods that hold the VFs: none when not every holder is a pod that is known
// by its name (yet).
func holdingPods(vfs []VF) (pods []string, stranger bool) {
	unnamed := false
	for i := range vfs {
		v := &vfs[i]
		switch {
		case v.holder() == "":
		case v.Pod == "" || v.Driver == vfioDriver: // vfio-pci stays bound when a pod goes
			stranger = true
		case !isPodKey(v.Pod):
			unnamed = true
		case !slices.Contains(pods, v.Pod):
			pods = append(pods, v.Pod)
		}
	}
	if stranger || unnamed {
		return nil, stranger
	}
	slices.Sort(pods)
	return pods, false
}

// isPodKey tells "namespace/name" from a word for a pod whose name is not known yet.
func isPodKey(s string) bool {
	namespace, name, ok := strings.Cut(s, "/")
	return ok && namespace != "" && name != "" && !strings.ContainsAny(s, " ") && !strings.Contains(name, "/")
}

func (p *planner) planVF(v *VF, g *v1.VfGroup) {
	switch {
	case g.DeviceType == v1.DeviceTypeVfioPci:
		if v.Driver != vfioDriver {
			p.add(Change{Kind: Check, VF: v.PCI, Text: describeVF(v) + ": bind vfio-pci",
				Blocked: "deviceType vfio-pci is not supported: use netdevice"})
		}
	case v.Driver == vfioDriver:
		p.add(Change{Kind: Check, VF: v.PCI, Text: describeVF(v) + ": bind the kernel's driver",
			Blocked: fmt.Sprintf("it is bound to vfio-pci, perhaps by a virtual machine: `driverctl unset-override %s`",
				v.PCI)})
	case p.pf.LinkType == v1.LinkTypeIB:
		p.planIBVF(v, g)
	default:
		p.finish(v, g)
	}
}

// planIBVF: a VF takes the GUID that its PF was told when it is bound, and a VF without one has no
// working port; so GUID first, then link state, then the driver.
func (p *planner) planIBVF(v *VF, g *v1.VfGroup) {
	id := p.ids.choose(p.pf, v)
	if !id.GUID.Valid() {
		p.add(Change{Kind: Check, VF: v.PCI, Text: describeVF(v) + ": choose a GUID",
			Blocked: "every GUID derived from the PF's is taken on this node"})
		return
	}
	bearer := p.ids.bearer(p.pf, v)
	switch {
	case bearer != nil && v.Driver == "":
		p.waitFor(bearer, v, id)
		return
	case v.Driver == "":
		// Nobody can use it, also if a pod is said to: that is what a reboot leaves.
		if !v.reported(id.GUID) || !p.ids.recorded(p.pf, v) {
			p.add(Change{Kind: SetGUID, VF: v.PCI, Number: v.Index, Identity: id})
		}
	case !v.bears(id.GUID):
		p.replaceGUID(v, id, bearer)
		return
	case !p.ids.recorded(p.pf, v):
		p.add(Change{Kind: Record, VF: v.PCI, Identity: id})
	}
	p.finish(v, g)
}

// waitFor is for a VF whose GUID another still bears: one GUID must not be on two ports.
func (p *planner) waitFor(bearer, v *VF, id Identity) {
	c := Change{Kind: SetGUID, VF: v.PCI, Number: v.Index, Identity: id}
	p.needFree(&c, []VF{*bearer}, fmt.Sprintf("%s bears that GUID until it gets another", bearer.PCI))
	if c.Blocked == "" {
		c.Blocked = fmt.Sprintf("%s bears that GUID until it gets another, by a policy that covers it", bearer.PCI)
	}
	p.add(c)
}

// replaceGUID is for a VF that is bound under another GUID than its own, which bearer may have still.
func (p *planner) replaceGUID(v *VF, id Identity, bearer *VF) {
	unbind := Change{Kind: Unbind, VF: v.PCI}
	p.needFree(&unbind, []VF{*v}, "a VF takes another GUID only when its driver is bound anew")
	if unbind.Blocked == "" && bearer != nil {
		p.needFree(&unbind, []VF{*bearer}, fmt.Sprintf("GUID %s is another VF's still", id.GUID))
	}
	p.add(unbind)
	if unbind.Blocked != "" {
		return
	}
	if bearer != nil {
		p.waitFor(bearer, v, id)
		return
	}
	p.add(Change{Kind: SetGUID, VF: v.PCI, Number: v.Index, Identity: id})
	p.add(Change{Kind: SetState, VF: v.PCI, Number: v.Index})
	p.add(Change{Kind: Bind, VF: v.PCI})
}

// finish brings a VF into service that nobody uses.
func (p *planner) finish(v *VF, g *v1.VfGroup) {
	if v.Driver != "" && v.holder() != "" {
		return
	}
	if v.State != "auto" && v.State != "" {
		p.add(Change{Kind: SetState, VF: v.PCI, Number: v.Index})
	}
	if v.Driver == "" {
		p.add(Change{Kind: Bind, VF: v.PCI})
	} else if g.Mtu > 0 && v.Name != "" && v.MTU != g.Mtu {
		p.add(Change{Kind: SetMTU, VF: v.PCI, Number: g.Mtu, Old: v.MTU})
	}
}

// Doable tells whether a plan holds a step that can be taken.
func Doable(plan []Change) bool {
	return slices.ContainsFunc(plan, func(c Change) bool { return c.Blocked == "" })
}
