// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os"
	"testing"
)

// Kernels before 5.14 leave only ethtool to ask for a netdev's PCI function.
func TestBusInfoAgreesWithParentDevice(t *testing.T) {
	pf := os.Getenv("HOSTTEST_IB_PF")
	if pf == "" {
		t.Skip("needs an InfiniBand card: run it in the lab's virtual machine with HOSTTEST_IB_PF")
	}
	h, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	links, err := h.rawLinks(NodeNS)
	if err != nil {
		t.Fatal(err)
	}
	asked := make([]rawLink, len(links))
	for i, l := range links {
		l.PCI = ""
		asked[i] = l
	}
	h.askBusInfo(NodeNS, asked)
	found := false
	for i, l := range links {
		if l.LinkLayer == InfiniBand && asked[i].PCI != l.PCI {
			t.Errorf("link %s: ethtool says %q, rtnetlink %q", l.Name, asked[i].PCI, l.PCI)
		}
		found = found || l.PCI == pf
	}
	if !found {
		t.Errorf("no link of %s among %+v", pf, links)
	}
}
