// SPDX-License-Identifier: Apache-2.0

// Package spiderpool is the IPAM plugin "spiderpool": it turns a CNI call into
// an address request and an allocation into a CNI result. Which address that is,
// and the API server, are the business of what it is given.
package spiderpool

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/ipam"
)

// Type is the plugin's name in configurations.
const Type = "spiderpool"

// Addresses gives addresses. Allocate is idempotent for a pod's UID and interface.
type Addresses interface {
	Allocate(ctx context.Context, r ipam.Request) (ipam.Allocation, error)
	// Release gives an address back at once. It is idempotent.
	Release(ctx context.Context, podUID, sandbox, ifname string) error
	// Avoid has an address that somebody was found to use not be given out here for a while.
	Avoid(ip netip.Addr)
}

// Plugin is the plugin.
type Plugin struct {
	Addresses Addresses
	// Release has an address given back: durably noted when it returns, done soon after. So DEL
	// neither waits for the API server nor fails without it. It succeeds when nothing is held.
	Release func(podUID, sandbox, ifname string) error
	// Masters finds the addresses of the physical function to which a device belongs, for
	// match_master_subnet. Nil: nobody can tell.
	Masters func(deviceID string) ([]netip.Addr, error)
	Detect  Detection
}

// conf is the part of the configuration that is read: our own section, and the device of the plugin
// that calls us.
type conf struct {
	IPAM struct {
		IPv4              []string `json:"default_ipv4_ippool"`
		IPv6              []string `json:"default_ipv6_ippool"`
		CleanGateway      bool     `json:"clean_gateway"`
		MatchMasterSubnet bool     `json:"match_master_subnet"`
	} `json:"ipam"`
	DeviceID      string `json:"deviceID"`
	RuntimeConfig struct {
		DeviceID string   `json:"deviceID"`
		IPs      []string `json:"ips"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
		} `json:"cni"`
	} `json:"args"`
}

// state is what Del needs.
type state struct {
	PodUID string `json:"podUID"`
}

// RunsBeside implements cni.Beside: a pod's address requests wait for each other where they have to.
func (p *Plugin) RunsBeside() {}

// Add implements cni.Plugin.
func (p *Plugin) Add(ctx context.Context, r *cni.Request) (*types100.Result, error) {
	defer r.Phases.Start(cni.PhaseAddress)()
	var c conf
	if err := r.ParseConf(&c); err != nil {
		return nil, err
	}
	if r.Pod.UID == "" {
		return nil, cni.Errorf(cni.CodeInvalidEnv,
			"the container runtime passes K8S_POD_NAMESPACE, K8S_POD_NAME and K8S_POD_UID; use ipam host-local "+
				"without Kubernetes",
			"ipam spiderpool gives addresses to pods, and CNI_ARGS names none")
	}
	wanted, err := c.wanted(r.Args["IP"])
	if err != nil {
		return nil, cni.Errorf(cni.CodeInvalidConfig, "mend \"ips\" in the pod's annotation", "%w", err)
	}
	// A hand-out is recorded by itself, for the pod and its sandbox: nothing is lost when this is
	// not written any more.
	if err := r.State.Note(state{PodUID: r.Pod.UID}); err != nil {
		return nil, fmt.Errorf("record the address request: %w", err)
	}
	request := p.request(r, c)
	request.Wanted = wanted
	got, err := p.allocate(ctx, r, request)
	if err != nil {
		return nil, err // a refusal is for people and says everything
	}
	return result(got), nil
}

// wanted are the addresses that the pod asks for: the capability "ips", else IP of CNI_ARGS,
// with commas in between, else the argument "ips" (CNI conventions, "capabilities", "CNI_ARGS" and
// "args").
func (c conf) wanted(variable string) ([]netip.Prefix, error) {
	switch {
	case len(c.RuntimeConfig.IPs) > 0:
		return ipam.ParseWanted(c.RuntimeConfig.IPs)
	case variable != "":
		return ipam.ParseWanted(strings.Split(variable, ","))
	}
	return ipam.ParseWanted(c.Args.CNI.IPs)
}

func (p *Plugin) request(r *cni.Request, c conf) ipam.Request {
	out := ipam.Request{Pod: r.Pod, Interface: r.IfName, Interfaces: r.Interfaces, Sandbox: r.ContainerID,
		Network:     r.NAD,
		DefaultIPv4: c.IPAM.IPv4, DefaultIPv6: c.IPAM.IPv6, CleanGateway: c.IPAM.CleanGateway,
		MatchMasterSubnet: c.IPAM.MatchMasterSubnet}
	if out.MatchMasterSubnet {
		out.MasterAddresses, out.MasterUnknown = p.master(cmp.Or(c.DeviceID, c.RuntimeConfig.DeviceID))
	}
	return out
}

// master finds the addresses of the physical function of a device, or says why they are not known:
// then no pool may serve, and the refusal passes it on beside what else keeps pools from serving.
func (p *Plugin) master(deviceID string) (addresses []netip.Addr, unknown string) {
	if deviceID == "" {
		return nil,
			"the configuration has no deviceID; match_master_subnet is for networks whose pods get a virtual " +
				"function, such as sriov and ib-sriov"
	}
	if p.Masters == nil {
		return nil, "nothing here can tell which one " + deviceID + " belongs to"
	}
	addresses, err := p.Masters(deviceID)
	if err != nil {
		return nil, err.Error()
	}
	return addresses, ""
}

func result(a ipam.Allocation) *types100.Result {
	res := &types100.Result{CNIVersion: types100.ImplementedSpecVersion}
	for _, addr := range a.Addresses {
		res.IPs = append(res.IPs, &types100.IPConfig{Address: ipNet(addr.IP), Gateway: ip(addr.Gateway)})
	}
	for _, route := range a.Routes {
		res.Routes = append(res.Routes, &types.Route{Dst: ipNet(route.Dst), GW: ip(route.Gateway)})
	}
	return res
}

func ip(a netip.Addr) net.IP {
	if !a.IsValid() {
		return nil
	}
	return a.AsSlice()
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: ip(p.Addr()), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Del implements cni.Plugin.
func (p *Plugin) Del(_ context.Context, r *cni.Request) error {
	defer r.Phases.Start(cni.PhaseAddress)()
	var st state
	ok, err := r.State.Load(&st)
	if err != nil || !ok {
		return err
	}
	if err := p.Release(st.PodUID, r.ContainerID, r.IfName); err != nil {
		return fmt.Errorf("note the release of the address of %s: %w", r.IfName, err)
	}
	return nil
}

// Check implements cni.Plugin: an address taken stays taken.
func (p *Plugin) Check(context.Context, *cni.Request) error { return nil }
