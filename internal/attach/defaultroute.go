// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	corev1 "k8s.io/api/core/v1"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cni/coordinator"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/text"
)

// carriesDefault tells whether a network is to carry the pod's default route.
func (p *planned) carriesDefault() bool {
	return p.selection != nil && len(p.selection.GatewayRequest) > 0
}

// gateways are those of a network that is to carry the pod's default route, as its element of the
// annotation has them ("default-route").
func (p *planned) gateways() ([]netip.Addr, error) {
	if !p.carriesDefault() {
		return nil, nil
	}
	var out []netip.Addr
	for _, text := range p.selection.GatewayRequest {
		gateway, err := netip.ParseAddr(text)
		if err != nil {
			return nil, cni.Errorf(cni.CodeInvalidConfig, "", "network %s: default-route: %w", p.title(), err)
		}
		out = append(out, gateway.Unmap())
	}
	return out, nil
}

// checkDefaultRoute refuses what has no one answer: two gateways of a family, or two interfaces.
func checkDefaultRoute(pod *corev1.Pod, list []planned) error {
	taken := map[bool]string{}
	for i := range list {
		p := &list[i]
		gateways, err := p.gateways()
		if err != nil {
			return err
		}
		for _, gateway := range gateways {
			if other, ok := taken[gateway.Is6()]; ok {
				return cni.Errorf(cni.CodeInvalidConfig, "leave one of them",
					"default-route: %s asks for %s, and %s for another one of the same family", p.title(), gateway,
					other)
			}
			taken[gateway.Is6()] = p.title()
		}
		if nic := pod.Annotations[coordinator.AnnotationDefaultRouteNIC]; nic != "" && nic != p.ifname &&
			len(gateways) > 0 {
			return cni.Errorf(cni.CodeInvalidConfig, "leave one of them",
				"annotation %s is %s, and network %s asks for the default route on %s",
				coordinator.AnnotationDefaultRouteNIC, text.Quote(nic), p.title(), p.ifname)
		}
	}
	return nil
}

// defaultRoute makes the networks that asked for it carry the pod's default routes, now that all
// are attached, and has every result say so.
func (s *Service) defaultRoute(ctx context.Context, c *call, g gathered, results []*types100.Result) error {
	changed := false
	for i := range g.list {
		p := &g.list[i]
		gateways, err := p.gateways() // checked before
		if err != nil || len(gateways) == 0 {
			continue
		}
		router, ok := s.runner.Plugins[coordinator.Type].(cni.DefaultRouter)
		if !ok {
			return errors.New("default-route: nothing here sets routes in a pod")
		}
		end := c.phases.Start(cni.PhaseCoordinator)
		err = router.SetDefaultRoutes(ctx, c.netns, p.ifname, gateways)
		end()
		if err != nil {
			return fmt.Errorf("attach network %s as %s: %w", p.title(), p.ifname, err)
		}
		for j, res := range results {
			carryDefault(res, gateways, i == j)
		}
		changed = true
	}
	if !changed {
		return nil
	}
	defer c.phases.Start(cni.PhaseRecord)()
	if err := s.recordDefault(c, g, results); err != nil {
		return fmt.Errorf("record the pod's default route: %w", err)
	}
	return nil
}

// carryDefault takes the default routes of the gateways' families out of a result and, in that of
// the network which carries them, puts them in.
func carryDefault(res *types100.Result, gateways []netip.Addr, carries bool) {
	for _, gateway := range gateways {
		everything := net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
		if gateway.Is6() {
			everything = net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		}
		res.Routes = slices.DeleteFunc(slices.Clone(res.Routes),
			func(r *types.Route) bool { return r.Dst.String() == everything.String() })
		if carries {
			res.Routes = append(res.Routes, &types.Route{Dst: everything, GW: gateway.AsSlice()})
		}
	}
}

// recordDefault has the changed results on disk, and with them that the pod is attached: until then
// an ADD that was interrupted counts as half-done.
func (s *Service) recordDefault(c *call, g gathered, results []*types100.Result) error {
	return c.draft.write(func(sb *ledger.Sandbox) error {
		for i := range g.list {
			p := &g.list[i]
			a := sb.Attachment(p.list.Name, p.ifname)
			if a == nil {
				return fmt.Errorf("the record of %s has gone", describe(p.list.Name, p.ifname))
			}
			raw, err := json.Marshal(results[i])
			if err != nil {
				return fmt.Errorf("encode the result of %s: %w", describe(p.list.Name, p.ifname), err)
			}
			a.Phase, a.Result, a.DefaultRoute = ledger.Done, raw, p.carriesDefault()
		}
		return nil
	})
}
