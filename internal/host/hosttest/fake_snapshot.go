// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"fmt"
	"slices"

	"spidernet.io/spiderpool/internal/host"
)

// Snapshot is all that callers can leave behind on a node, without the numbers that change by themselves
// (link and RDMA indexes, QPNs, uverbs and umad numbers). Compare two with go-cmp.
type Snapshot struct {
	RDMAMode   host.RDMAMode
	Functions  map[string]FunctionState // by PCI address
	Namespaces map[host.NS]NamespaceState
}

// FunctionState is a PCI function: where its netdev and RDMA device are ("namespace name"), "" when
// it has none.
type FunctionState struct {
	Driver     string
	GUID       string // as the PF reports it
	State      host.VFState
	Link, RDMA string
}

// NamespaceState is a network namespace; routes name links, not indexes.
type NamespaceState struct {
	Links         map[string]LinkState
	Routes, Rules []string
	Sysctls       map[string]string
	MarkedReplies map[string]uint32
}

// LinkState is a network interface.
type LinkState struct {
	AltNames             []string
	Kind                 string
	MTU                  int
	TxQueueLen           int    `json:",omitempty"`
	Alias                string `json:",omitempty"`
	Up                   bool
	Addresses, Neighbors []string
}

// Snapshot takes one.
func (f *Fake) Snapshot() Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := Snapshot{RDMAMode: f.mode, Functions: map[string]FunctionState{}, Namespaces: map[host.NS]NamespaceState{}}
	for _, fn := range f.funcs {
		s.Functions[fn.pci] = fn.snapshot()
	}
	for name, n := range f.ns {
		s.Namespaces[name] = n.snapshot()
	}
	return s
}

func (fn *function) snapshot() FunctionState {
	st := FunctionState{Driver: fn.boundDriver(), GUID: fn.guid.String(), State: fn.state}
	if fn.link != nil {
		st.Link = fmt.Sprintf("%s %s", where(fn.link.NS), fn.link.Name)
	}
	if fn.rdma != nil {
		st.RDMA = fmt.Sprintf("%s %s", where(fn.rdma.NS), fn.rdma.Name)
	}
	return st
}

func (n *namespace) snapshot() NamespaceState {
	st := NamespaceState{Links: map[string]LinkState{}, Sysctls: map[string]string{},
		MarkedReplies: map[string]uint32{}}
	names := map[int]string{}
	for _, l := range n.links {
		names[l.Index] = l.Name
		st.Links[l.Name] = l.snapshot()
	}
	for _, r := range n.routes {
		st.Routes = append(st.Routes, fmt.Sprintf("%s via %s dev %s src %s table %d", r.Dst, r.Gateway, names[r.Index],
			r.Src, r.Table))
	}
	for _, r := range n.rules {
		st.Rules = append(st.Rules, fmt.Sprintf("%+v", r))
	}
	slices.Sort(st.Routes)
	slices.Sort(st.Rules)
	for k, v := range n.sysctls {
		st.Sysctls[k] = v
	}
	for k, v := range n.marks {
		st.MarkedReplies[k] = v
	}
	return st
}

func (l *link) snapshot() LinkState {
	st := LinkState{AltNames: slices.Clone(l.AltNames), Kind: l.Kind, MTU: l.MTU, TxQueueLen: l.TxQueueLen,
		Alias: l.Alias, Up: l.Up}
	for _, p := range l.addresses {
		st.Addresses = append(st.Addresses, p.String())
	}
	for _, nb := range l.neighbors {
		st.Neighbors = append(st.Neighbors, fmt.Sprintf("%s %s", nb.IP, nb.HardwareAddr))
	}
	slices.Sort(st.AltNames)
	slices.Sort(st.Addresses)
	slices.Sort(st.Neighbors)
	return st
}
