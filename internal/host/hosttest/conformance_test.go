// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"fmt"
	"testing"

	"spidernet.io/spiderpool/internal/host"
)

func TestFakeConformance(t *testing.T) {
	for _, o := range []Options{{}, {Naming: GuideNaming}, {FollowRDMA: true},
		{FollowRDMA: true, Naming: GuideNaming}} {
		t.Run(fmt.Sprintf("follow=%t,udev=%t", o.FollowRDMA, o.Naming != nil), func(t *testing.T) {
			Run(t, func(*testing.T) (API, Env) {
				f := GuideNodeWith(o)
				return f, fakeEnv(f)
			})
		})
	}
}

// fakeEnv is what the conformance suite needs of the guide's node.
func fakeEnv(f *Fake) Env {
	n := 0
	return Env{
		IBPF:     GuidePF,
		SetCable: func(_ *testing.T, plugged bool) { f.SetCable(GuidePF, plugged) },
		NewNS: func(*testing.T) host.NS {
			n++
			ns := host.NS(fmt.Sprintf("/var/run/netns/test%d", n))
			f.AddNS(ns)
			return ns
		},
		DeleteNS:    func(_ *testing.T, ns host.NS) { f.DeleteNS(ns) },
		AddAltName:  func(t *testing.T, ns host.NS, index int, name string) { ok(t, f.AddAltName(ns, index, name)) },
		NameRDMA:    func(t *testing.T, ns host.NS, index int, name string) { ok(t, f.NameRDMA(ns, index, name)) },
		AppendRoute: func(t *testing.T, ns host.NS, r host.Route) { ok(t, f.AppendRoute(ns, r)) },
	}
}
