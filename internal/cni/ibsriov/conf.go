// SPDX-License-Identifier: Apache-2.0

package ibsriov

import (
	"encoding/json"
	"fmt"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ib"
)

// conf is the configuration object of type "ib-sriov".
type conf struct {
	DeviceID  string `json:"deviceID"`
	LinkState string `json:"link_state"`
	// RDMAIsolation: nil means where the node allows it.
	RDMAIsolation *bool           `json:"rdmaIsolation"`
	IBKubernetes  bool            `json:"ibKubernetesEnabled"`
	PKey          json.RawMessage `json:"pkey"`
	VFIOPCIMode   bool            `json:"vfioPciMode"`
	// AcceptRA: take addresses and routes from the fabric's IPv6 routers, too.
	AcceptRA bool `json:"acceptRA"`
	IPAM     struct {
		Type string `json:"type"`
	} `json:"ipam"`
	RuntimeConfig struct {
		GUID     string `json:"infinibandGUID"`
		DeviceID string `json:"deviceID"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI map[string]json.RawMessage `json:"cni"`
	} `json:"args"`
}

// request is a conf whose values have been checked.
type request struct {
	pci       string
	linkState host.VFState // "" leaves it
	isolate   *bool
	guid      ib.GUID // zero: none asked for
	acceptRA  bool
}

func parse(r *cni.Request) (request, error) {
	var c conf
	if err := r.ParseConf(&c); err != nil {
		return request{}, err
	}
	out := request{isolate: c.RDMAIsolation, acceptRA: c.AcceptRA}
	err := cni.RefusePKey(c.PKey)
	if err != nil {
		return request{}, err
	}
	if out.pci, err = deviceID(c); err != nil {
		return request{}, err
	}
	switch s := host.VFState(c.LinkState); s {
	case "", host.VFAuto, host.VFEnable, host.VFDisable:
		out.linkState = s
	default:
		return request{}, cni.Errorf(cni.CodeInvalidConfig, "set it to auto, enable or disable", "link_state is %q",
			c.LinkState)
	}
	if c.VFIOPCIMode {
		return request{}, cni.Errorf(cni.CodeInvalidConfig, "remove it",
			"vfioPciMode is true: virtual functions bound to vfio-pci are not supported")
	}
	if c.IPAM.Type == "dhcp" {
		return request{}, cni.Errorf(cni.CodeInvalidConfig, "use spiderpool, host-local or static",
			"ipam type dhcp does not work on InfiniBand")
	}
	if c.IBKubernetes && text(c.Args.CNI["mellanox.infiniband.app"]) != "configured" {
		return request{}, cni.Errorf(cni.CodeTryAgainLater,
			"see ib-kubernetes' log, or set enableIbKubernetes to false",
			"ib-kubernetes has not marked this pod's network as configured yet")
	}
	out.guid, err = wantedGUID(c)
	return out, err
}

func deviceID(c conf) (string, error) {
	id := c.DeviceID
	if id == "" {
		id = c.RuntimeConfig.DeviceID
	}
	if id == "" {
		return "", cni.Errorf(cni.CodeInvalidConfig,
			"request the network's resource in the pod's resources.limits, such as spidernet.io/mellanoxibsriov: 1; "+
				"the resource is named by the k8s.v1.cni.cncf.io/resourceName annotation of the "+
				"NetworkAttachmentDefinition",
			"no device was given to this attachment (deviceID is empty)")
	}
	pci, err := ib.ParsePCIAddress(id)
	if err != nil {
		return "", cni.Errorf(cni.CodeInvalidConfig, "", "deviceID %q: %w", id, err)
	}
	return pci, nil
}

// wantedGUID: the runtime's wins over that of the pod's cni-args.
func wantedGUID(c conf) (ib.GUID, error) {
	field, s := "runtimeConfig.infinibandGUID", c.RuntimeConfig.GUID
	if s == "" {
		field, s = "args.cni.guid", text(c.Args.CNI["guid"])
	}
	if s == "" {
		if c.IBKubernetes {
			return ib.GUID{}, cni.Errorf(cni.CodeTryAgainLater, "see ib-kubernetes' log",
				"ib-kubernetes has not given this attachment a GUID yet")
		}
		return ib.GUID{}, nil
	}
	guid, err := ib.ParseGUID(s)
	if err == nil && !guid.Valid() {
		err = fmt.Errorf("GUID %s: zero and all ones are not GUIDs", guid)
	}
	if err != nil {
		return ib.GUID{}, cni.Errorf(cni.CodeInvalidConfig, "", "%s: %w", field, err)
	}
	return guid, nil
}

// text reads a JSON string, or takes any other value as it is written: a number there must not
// break the attachment.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}
