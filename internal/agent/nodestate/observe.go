// SPDX-License-Identifier: Apache-2.0

package nodestate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/sriov"
)

// observe reads the node, the ledger and who has been promised what; the object says whether the
// node is being drained.
func (r *reconciler) observe(ctx context.Context, state *v1.SriovNetworkNodeState) (sriov.Node, error) {
	n := sriov.Node{Draining: state.Draining()}
	pfs, err := r.Kernel.PFs()
	if err != nil {
		return n, fmt.Errorf("read the network cards: %w", err)
	}
	identities, err := r.Ledger.VFs()
	if err != nil {
		return n, fmt.Errorf("read the identities of VFs: %w", err)
	}
	for _, id := range identities {
		n.Identities = append(n.Identities, identityOf(id))
	}
	held, err := r.holders(ctx)
	if err != nil {
		n.UseUnknown = err.Error()
	}
	for _, pf := range pfs {
		n.PFs = append(n.PFs, pfOf(pf, held))
	}
	if n.VerbsNumbers, err = r.Kernel.VerbsNumbers(); err != nil {
		return n, fmt.Errorf("read the verbs devices: %w", err)
	}
	if n.GivenVerbs, err = r.givenVerbs(pfs); err != nil {
		return n, err
	}
	n.GUIDs = readGUIDs(r.Root)
	return n, nil
}

// guidPath is the administrator's choice of GUIDs on the node, as upstream's operator reads it.
const guidPath = "/etc/sriov-operator/infiniband/guids"

// maxGUIDFile bounds what is read.
const maxGUIDFile = 4 << 20

// readGUIDs reads the file anew at each look: it is changed by hand.
func readGUIDs(root string) *sriov.GUIDFile {
	f, err := os.Open(filepath.Join(root, guidPath))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return sriov.UnreadableGUIDs(guidPath, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxGUIDFile+1))
	if err == nil && len(text) > maxGUIDFile {
		err = fmt.Errorf("it has more than %d octets", maxGUIDFile)
	}
	if err != nil {
		return sriov.UnreadableGUIDs(guidPath, err)
	}
	return sriov.ParseGUIDs(guidPath, text)
}

// givenVerbs reads which verbs devices containers were given.
func (r *reconciler) givenVerbs(pfs []host.PF) (map[string]int, error) {
	out := map[string]int{}
	for _, pf := range pfs {
		for _, vf := range pf.VFs {
			name, _, err := r.Ledger.Verbs(vf.PCI)
			if err != nil {
				return nil, fmt.Errorf("read which verbs device was given with VF %s: %w", vf.PCI, err)
			}
			if n, ok := host.VerbsNumber(name); ok {
				out[vf.PCI] = n
			}
		}
	}
	return out, nil
}

// holders maps PCI addresses to the pods that have them or have been promised them. With an error,
// the map holds what is known.
func (r *reconciler) holders(ctx context.Context) (map[string]string, error) {
	held := map[string]string{}
	for pci, pod := range r.Ledger.DevicesInUse() {
		held[strings.ToLower(pci)] = pod.Namespace + "/" + pod.Name
	}
	learn := func(more map[string]string) {
		for pci, pod := range more {
			if held[strings.ToLower(pci)] == "" {
				held[strings.ToLower(pci)] = pod
			}
		}
	}
	var err error
	if r.Allocated != nil {
		var promised map[string]string
		promised, err = r.Allocated(ctx)
		learn(promised)
	}
	learn(r.Front.RecentlyGiven())
	return held, err
}

func linkType(l host.LinkLayer) string {
	if l == host.InfiniBand {
		return v1.LinkTypeIB
	}
	return v1.LinkTypeETH
}

func pfOf(p host.PF, held map[string]string) sriov.PF {
	out := sriov.PF{
		PCI: p.PCI, Vendor: p.Vendor, Device: p.Device, Driver: p.Driver, TotalVFs: p.TotalVFs, NumVFs: p.NumVFs,
		NUMANode: p.NUMANode,
		LinkType: linkType(p.LinkLayer),
	}
	if l := p.Link; l != nil {
		out.Name, out.AltNames, out.MAC, out.MTU, out.Up, out.Carrier = l.Name, l.AltNames, l.HardwareAddr.String(),
			l.MTU, l.Up, l.Carrier
	}
	if d := p.RDMA; d != nil {
		out.RDMA, out.GUID, out.PortState = d.Name, d.PortGUID, d.State
	}
	for _, v := range p.VFs {
		out.VFs = append(out.VFs, vfOf(v, held))
	}
	return out
}

func vfOf(v host.VF, held map[string]string) sriov.VF {
	out := sriov.VF{
		PCI: v.PCI, Index: v.Index, Vendor: v.Vendor, Device: v.Device, Driver: v.Driver,
		NodeGUID: v.NodeGUID, PortGUID: v.PortGUID, State: string(v.State), Pod: held[strings.ToLower(v.PCI)],
	}
	out.VerbsNumber, out.Verbs = host.VerbsNumber(v.Uverbs)
	if l := v.Link; l != nil {
		out.Name, out.MAC, out.MTU = l.Name, l.HardwareAddr.String(), l.MTU
	}
	if d := v.RDMA; d != nil {
		out.RDMA, out.DeviceNodeGUID, out.DevicePortGUID, out.PortState = d.Name, d.NodeGUID, d.PortGUID, d.State
	}
	return out
}

func identityOf(v ledger.VF) sriov.Identity {
	return sriov.Identity{PCI: v.PCI, PF: v.PF, PFGUID: v.PFGUID, Index: v.Index, GUID: v.GUID, Adopted: v.Adopted}
}

func recordOf(id sriov.Identity) ledger.VF {
	return ledger.VF{PCI: id.PCI, PF: id.PF, PFGUID: id.PFGUID, Index: id.Index, GUID: id.GUID, Adopted: id.Adopted}
}
