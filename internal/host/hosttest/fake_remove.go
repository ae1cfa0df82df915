// SPDX-License-Identifier: Apache-2.0

package hosttest

import "slices"

// RemovePF takes a card out of the node, as a fault of the bus does: its VFs, netdevs and RDMA
// devices are gone.
func (f *Fake) RemovePF(pci string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	pf := f.function(pci)
	if pf == nil {
		return
	}
	f.removeVFs(pf)
	f.unbind(pf)
	f.funcs = slices.DeleteFunc(f.funcs, func(x *function) bool { return x == pf })
}
