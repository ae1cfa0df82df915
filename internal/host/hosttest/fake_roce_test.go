// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// The RDMA device of an Ethernet VF goes and comes without its netdev, which is the driver's own
// and no client of it.
func TestFakeRoCE(t *testing.T) {
	for name, back := range map[string]func(*Fake, host.RDMADevice){
		"moved back":         func(f *Fake, d host.RDMADevice) { ok(t, f.MoveRDMA(pod, d.Name, host.NodeNS)) },
		"the namespace dies": func(f *Fake, _ host.RDMADevice) { f.DeleteNS(pod); f.AddNS(pod) },
	} {
		t.Run(name, func(t *testing.T) {
			const card, vf = "0000:3b:00.0", "0000:3b:00.1"
			f := GuideNode()
			f.AddPF(host.PF{PCI: card, Driver: "mlx5_core", Device: "1017", LinkLayer: host.Ethernet, TotalVFs: 2,
				RDMA: &host.RDMADevice{}}, ib.GUID{})
			ok(t, f.SetNumVFs(card, 1))
			ok(t, f.BindVF(vf))
			f.AddNS(pod)
			before := f.Snapshot()
			link, err := f.LinkByPCI(host.NodeNS, vf)
			ok(t, err)
			d, err := f.RDMAByPCI(host.NodeNS, vf)
			ok(t, err)
			if d.LinkLayer != host.Ethernet || d.State != "ACTIVE" || d.LID != 0 {
				t.Errorf("the VF's RDMA device is %+v", d)
			}
			ok(t, f.MoveRDMA(host.NodeNS, d.Name, pod))
			if _, err := f.RDMAByPCI(pod, vf); err != nil {
				t.Error(err)
			}
			if after, err := f.LinkByPCI(host.NodeNS, vf); err != nil || after.Index != link.Index {
				t.Errorf("the netdev was %+v, and is %+v, %v", link, after, err)
			}
			back(f, d)
			if diff := cmp.Diff(before, f.Snapshot()); diff != "" {
				t.Errorf("left behind (-before +after):\n%s", diff)
			}
		})
	}
}
