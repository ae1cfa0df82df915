// SPDX-License-Identifier: Apache-2.0

package nad

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// IgnoredKeys are keys of plugins' configurations that users of Spiderpool know and our plugins do
// not read, by the plugin's type; the value says what happens instead. Other keys that no plugin of
// ours knows are left alone: the runtime, libcni and other products add their own ("runtimeConfig",
// "prevResult", "pciBusID", "args", …), so an unknown key is no sign of a mistake. A key that would
// isolate the pod is refused by its plugin instead.
var IgnoredKeys = map[string]map[string]string{
	TypeCoordinator: {
		"detectGateway":    "the agent's setting enableGatewayDetection counts",
		"detectIPConflict": "the agent's setting enableIPConflictDetection counts",
		"detectOptions":    "the agent chooses tries and times itself",
		"hostRPFilter":     "rp_filter of the node stays as it is",
		"logOptions":       "the agent's log has what the plugin did",
		"multusNicPrefix":  "interfaces are known by their networks",
		"podDefaultCniNic": "the pod's first interface is the runtime's",
		"overlayPodCIDR":   "the status of the SpiderCoordinator counts",
		"serviceCIDR":      "the status of the SpiderCoordinator counts",
	},
	TypeIPAM: {
		"ipam_unix_socket_path": "the plugin is a part of the agent",
		"log_level":             "the agent's log has what the plugin did",
		"log_file_path":         "the agent's log has what the plugin did",
		"log_file_max_size":     "the agent's log has what the plugin did",
		"log_file_max_age":      "the agent's log has what the plugin did",
		"log_file_max_count":    "the agent's log has what the plugin did",
	},
}

// Ignored lists the keys of one plugin's configuration that have no effect, and what happens instead.
func Ignored(plugin []byte) []string {
	var conf map[string]json.RawMessage
	if json.Unmarshal(plugin, &conf) != nil {
		return nil
	}
	messages := ignoredOf(conf)
	var ipam map[string]json.RawMessage
	if json.Unmarshal(conf["ipam"], &ipam) == nil {
		messages = append(messages, ignoredOf(ipam)...)
	}
	return messages
}

func ignoredOf(conf map[string]json.RawMessage) []string {
	var messages []string
	var kind string
	_ = json.Unmarshal(conf["type"], &kind) // one that is no text has no keys of ours
	for _, key := range slices.Sorted(maps.Keys(IgnoredKeys[kind])) {
		if _, ok := conf[key]; ok {
			messages = append(messages, fmt.Sprintf("key %q of plugin %s has no effect: %s", key, kind,
				IgnoredKeys[kind][key]))
		}
	}
	return messages
}
