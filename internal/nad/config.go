// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// object is a JSON object whose unknown keys and number formats survive.
type object = map[string]json.RawMessage

// Configure turns the configuration of a network, a single plugin's or a list,
// into the list that one pod's attachment runs: name is put in where it has
// none; deviceID, when there is one, becomes "deviceID" and "pciBusID" of
// every plugin; the selection's cni-args are merged into "args"."cni" of every
// plugin and win there. It is the same for the default network and for others.
func Configure(config []byte, name string, selection *cncfv1.NetworkSelectionElement, deviceID string) ([]byte, error) {
	list, err := asList(config)
	if err != nil {
		return nil, fmt.Errorf("CNI configuration of network %s: %w", name, err)
	}
	if isBlank(list["name"]) {
		list["name"] = mustMarshal(name)
	}
	plugins, err := pluginsOf(list)
	if err != nil {
		return nil, fmt.Errorf("CNI configuration of network %s: %w", name, err)
	}
	for i, p := range plugins {
		if err := configurePlugin(p, selection, deviceID); err != nil {
			return nil, fmt.Errorf("CNI configuration of network %s, plugin %d: %w", name, i+1, err)
		}
	}
	list["plugins"] = mustMarshal(plugins)
	return json.Marshal(list)
}

// asList wraps a single plugin's configuration; name and cniVersion move up.
func asList(config []byte) (object, error) {
	var conf object
	if err := json.Unmarshal(config, &conf); err != nil {
		return nil, fmt.Errorf("want a JSON object: %w", err)
	}
	if _, isList := conf["plugins"]; isList {
		return conf, nil
	}
	if isBlank(conf["type"]) {
		return nil, errors.New(`it has neither "type" nor "plugins"`)
	}
	list := object{}
	for _, key := range []string{"cniVersion", "name"} {
		if v, ok := conf[key]; ok {
			list[key] = v
		}
	}
	list["plugins"] = mustMarshal([]object{conf})
	return list, nil
}

func pluginsOf(list object) ([]object, error) {
	var plugins []object
	if err := json.Unmarshal(list["plugins"], &plugins); err != nil {
		return nil, fmt.Errorf(`"plugins": want a list of JSON objects: %w`, err)
	}
	if len(plugins) == 0 {
		return nil, errors.New(`"plugins" is empty: want at least one`)
	}
	for i, p := range plugins {
		if isBlank(p["type"]) {
			return nil, fmt.Errorf(`plugin %d has no "type"`, i+1)
		}
	}
	return plugins, nil
}

func configurePlugin(p object, selection *cncfv1.NetworkSelectionElement, deviceID string) error {
	if deviceID != "" {
		p["deviceID"], p["pciBusID"] = mustMarshal(deviceID), mustMarshal(deviceID)
	}
	if selection == nil || selection.CNIArgs == nil {
		return nil
	}
	args, err := member(p, "args")
	if err != nil {
		return err
	}
	cni, err := member(args, "cni")
	if err != nil {
		return fmt.Errorf(`"args": %w`, err)
	}
	wanted := object{}
	if err := json.Unmarshal(selection.CNIArgs.Raw, &wanted); err != nil {
		return fmt.Errorf("cni-args of the pod: want a JSON object: %w", err)
	}
	maps.Copy(cni, wanted)
	args["cni"] = mustMarshal(cni)
	p["args"] = mustMarshal(args)
	return nil
}

// member is the object under a key, empty when the key is absent.
func member(o object, key string) (object, error) {
	m := object{}
	raw, ok := o[key]
	if !ok || string(raw) == "null" {
		return m, nil
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%q: want a JSON object: %w", key, err)
	}
	return m, nil
}

// CapabilityArgs is what a pod asks of the plugins of one network, under the
// keys by which plugins declare that they take it ("capabilities"). Whoever
// runs the plugins gives each only what it declares; libcni does so. base is
// what the container runtime itself passed, for the default network alone;
// the selection wins over it.
func CapabilityArgs(base map[string]any, selection *cncfv1.NetworkSelectionElement, deviceID,
	deviceInfoFile string) map[string]any {
	args := map[string]any{}
	maps.Copy(args, base)
	if deviceID != "" {
		args["deviceID"] = deviceID
	}
	if deviceInfoFile != "" {
		args["CNIDeviceInfoFile"] = deviceInfoFile
	}
	if selection == nil {
		return args
	}
	if len(selection.IPRequest) > 0 {
		args["ips"] = selection.IPRequest
	}
	if selection.MacRequest != "" {
		args["mac"] = selection.MacRequest
	}
	if selection.InfinibandGUIDRequest != "" {
		args["infinibandGUID"] = selection.InfinibandGUIDRequest
	}
	if len(selection.PortMappingsRequest) > 0 {
		args["portMappings"] = selection.PortMappingsRequest
	}
	if selection.BandwidthRequest != nil {
		args["bandwidth"] = selection.BandwidthRequest
	}
	return args
}

// CheckDeliverable refuses a pod's wish that no plugin of the network would
// ever see: a GUID, address or hardware address that the pod asked for and
// silently does not get is worse than a pod that does not start. config is
// what Configure returned.
func CheckDeliverable(config []byte, selection *cncfv1.NetworkSelectionElement) error {
	if selection == nil {
		return nil
	}
	takes, err := takenBy(config)
	if err != nil {
		return err
	}
	keys := map[string]string{"ips": "ips", "mac": "mac", "infinibandGUID": "infiniband-guid",
		"portMappings": "portMappings", "bandwidth": "bandwidth"}
	wanted := CapabilityArgs(nil, selection, "", "")
	for _, capability := range slices.Sorted(maps.Keys(wanted)) {
		if !takes.capabilities[capability] && !takes.variable(capability) {
			return fmt.Errorf(
				`the pod asks network %s for %q, which none of the network's plugins takes: drop it from the annotation, or declare "capabilities": {%q: true} in the NetworkAttachmentDefinition's plugin that takes it`,
				selection.Key(), keys[capability], capability)
		}
	}
	return nil
}

// Arguments are the CNI_ARGS of one network: those of the runtime and, as Multus passes them, the
// addresses and the hardware address that the pod asks for, unless a plugin takes them as a
// capability. Plugins such as static, host-local, macvlan and bridge read them there.
func Arguments(base string, config []byte, selection *cncfv1.NetworkSelectionElement) (string, error) {
	if selection == nil {
		return base, nil
	}
	takes, err := takenBy(config)
	if err != nil {
		return "", err
	}
	var more []string
	if selection.MacRequest != "" && !takes.capabilities["mac"] && takes.variable("mac") {
		more = append(more, "MAC="+selection.MacRequest)
	}
	if len(selection.IPRequest) > 0 && !takes.capabilities["ips"] && takes.variable("ips") {
		more = append(more, "IP="+strings.Join(selection.IPRequest, ","))
	}
	if len(more) == 0 {
		return base, nil
	}
	pairs := slices.DeleteFunc(strings.Split(base, ";"), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		return pair == "" || slices.ContainsFunc(more, func(m string) bool { return strings.HasPrefix(m, name+"=") })
	})
	// plugins refuse a variable that they do not know
	if !slices.ContainsFunc(pairs, func(pair string) bool { return strings.HasPrefix(pair, "IgnoreUnknown=") }) {
		more = append([]string{"IgnoreUnknown=1"}, more...)
	}
	return strings.Join(append(pairs, more...), ";"), nil
}

// taken is what the plugins of a network take from a pod.
type taken struct {
	capabilities map[string]bool
	// addresses: something gives addresses. foreign: a plugin is none of ours.
	addresses, foreign bool
}

// variable reports whether a plugin may take a wish as a variable in CNI_ARGS. Ours give no
// hardware addresses, and without address management no addresses.
func (t taken) variable(capability string) bool {
	switch capability {
	case "ips":
		return t.addresses || t.foreign
	case "mac":
		return t.foreign
	}
	return false
}

// ourTypes are the plugins of this product.
var ourTypes = []string{v2beta1.IBSriovCNI, v2beta1.IPoIBCNI, TypeRDMA, TypeCoordinator, TypeIPAM}

func takenBy(config []byte) (taken, error) {
	var list struct {
		Plugins []struct {
			Type         string          `json:"type"`
			Capabilities map[string]bool `json:"capabilities"`
			IPAM         struct {
				Type string `json:"type"`
			} `json:"ipam"`
		} `json:"plugins"`
	}
	if err := json.Unmarshal(config, &list); err != nil {
		return taken{}, fmt.Errorf("reading the capabilities of the plugins: %w", err)
	}
	t := taken{capabilities: map[string]bool{}}
	for _, p := range list.Plugins {
		for name, on := range p.Capabilities {
			t.capabilities[name] = t.capabilities[name] || on
		}
		t.addresses = t.addresses || p.IPAM.Type != ""
		t.foreign = t.foreign || !slices.Contains(ourTypes, p.Type)
	}
	return t, nil
}

func isBlank(raw json.RawMessage) bool {
	var text string
	return json.Unmarshal(raw, &text) != nil || text == ""
}

// mustMarshal is for values that were JSON before or are plain text.
func mustMarshal(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshalling %T: %v", v, err))
	}
	return raw
}
