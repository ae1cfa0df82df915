// SPDX-License-Identifier: Apache-2.0

package nodestate

import (
	"slices"
	"testing"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// A card that vanishes while it is being configured, at whatever step, is said to be missing; the
// other card is made all the same. When it is back, its VFs are made under the GUIDs that they had.
func TestCardVanishesAtEveryStep(t *testing.T) {
	const card = "0000:87:00.0"
	kernel, spec := twoCards()
	clean := newRig(t, kernel)
	clean.want(spec)
	clean.run()
	want, steps := clean.picture(), kernel.Steps()
	for k := 1; k <= steps; k++ {
		kernel, spec := twoCards()
		r := newRig(t, kernel)
		r.want(spec)
		kernel.Before(k, func() { kernel.RemovePF(card) })
		r.run()
		state, _ := r.run() // by now whatever failed on the way has been looked at once more
		wantCondition(t, state, v1.SyncStatusFailed, "Blocked", "the node has no network card at "+card)
		if pools := r.front.pools["mellanoxibsriov"]; len(pools) != 3 {
			t.Fatalf("step %d: the other card's VFs are offered: %v, want 3", k, pools)
		}
		guid := hosttest.GuidePFGUID
		guid[7]++
		kernel.AddPF(host.PF{PCI: card, Vendor: "15b3", Device: "1017", Driver: "mlx5_core", LinkLayer: host.InfiniBand,
			TotalVFs: 16,
			Link:     &host.Link{Name: "ibs6f0"}}, guid)
		state, _ = r.run()
		wantCondition(t, state, v1.SyncStatusSucceeded, "Configured", "6 VFs ready")
		if got := r.picture(); !slices.Equal(got, want) {
			t.Fatalf("step %d: after its return\n%q, want\n%q", k, got, want)
		}
	}
}
