// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/ledger"
	"spidernet.io/spiderpool/internal/text"
)

// call is one request of the shim, checked.
type call struct {
	plugin, command     string
	containerID, ifname string
	netns               host.NS
	argsText            string
	args                map[string]string
	binDirs             []string
	stdin               []byte
	conf                metaConf
	phases              *cni.Phases
	draft               *draft
	networkType         string // of the default attachment, for the metric
}

// metaConf is what is read of standard input: the configuration of our meta plugin, or, for a
// single plugin, what all have.
type metaConf struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	// DeviceID of a single plugin.
	DeviceID string `json:"deviceID"`

	ClusterNetwork string `json:"clusterNetwork"`
	BinDir         string `json:"binDir"`
	// ConfDir holds files of networks without a configuration of their own, beside those in multusConfDir.
	ConfDir   string `json:"confDir"`
	Namespace string `json:"multusNamespace"`
	// DefaultNetworks are further networks of all pods but those in SystemNamespaces.
	DefaultNetworks  []string `json:"defaultNetworks"`
	SystemNamespaces []string `json:"systemNamespaces"`
	// ReadinessFile is on the node when pods can be attached; "" asks for none.
	ReadinessFile string `json:"readinessindicatorfile"`
	// Delegates are networks written out in full, as clusterNetwork names one. They are refused.
	Delegates          []json.RawMessage `json:"delegates"`
	NamespaceIsolation bool              `json:"namespaceIsolation"`
	GlobalNamespaces   textList          `json:"globalNamespaces"`

	RuntimeConfig map[string]any `json:"runtimeConfig"`
	// ValidAttachments is nil when the key is not there.
	ValidAttachments json.RawMessage `json:"cni.dev/valid-attachments"`
}

// valid are the attachments that GC is to leave. A list that is missing is refused: taken for an
// empty one, it would cost every pod its networks.
func (c *metaConf) valid() ([]types.GCAttachment, error) {
	var list []types.GCAttachment
	if c.ValidAttachments == nil {
		return nil, cni.Errorf(cni.CodeInvalidConfig, "give the list, which may be empty",
			"GC without cni.dev/valid-attachments")
	}
	if err := json.Unmarshal(c.ValidAttachments, &list); err != nil {
		return nil, cni.Errorf(cni.CodeDecode, "want a list of objects with containerID and ifname",
			"cni.dev/valid-attachments: %w", err)
	}
	return list, nil
}

// textList is names with commas between them, as the configuration has it.
type textList []string

// UnmarshalJSON implements json.Unmarshaler.
func (l *textList) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	for name := range strings.SplitSeq(text, ",") {
		if name = strings.TrimSpace(name); name != "" {
			*l = append(*l, name)
		}
	}
	return nil
}

// parseCall checks what the runtime passed, as the specification has it.
func parseCall(req cnisock.Request) (*call, error) {
	c := &call{plugin: req.Plugin, command: req.Env["CNI_COMMAND"], containerID: req.Env["CNI_CONTAINERID"],
		ifname: req.Env["CNI_IFNAME"],
		netns:  host.NS(req.Env["CNI_NETNS"]), argsText: req.Env["CNI_ARGS"], stdin: req.Stdin, phases: &cni.Phases{}}
	switch c.command {
	case "ADD", "DEL", "CHECK", "STATUS", "GC":
	default:
		return nil, cni.Errorf(cni.CodeInvalidEnv, "want ADD, DEL, CHECK, STATUS, GC or VERSION", "CNI_COMMAND is %s",
			text.Quote(c.command))
	}
	if err := json.Unmarshal(req.Stdin, &c.conf); err != nil {
		return nil, cni.Errorf(cni.CodeDecode, "it is the JSON that the runtime passes on standard input",
			"the network configuration does not parse: %w", err)
	}
	if err := c.checkVersion(); err != nil {
		return nil, err
	}
	if err := c.checkEnv(); err != nil {
		return nil, err
	}
	if req.Env["CNI_PATH"] != "" {
		c.binDirs = filepath.SplitList(req.Env["CNI_PATH"])
	}
	if c.conf.BinDir != "" {
		c.binDirs = append([]string{c.conf.BinDir}, c.binDirs...)
	}
	return c, c.parseArgs()
}

// checkVersion refuses a version in which the result cannot be told. What takes down has none.
func (c *call) checkVersion() error {
	known := version.All.SupportedVersions()
	if c.command == "DEL" || c.command == "GC" || c.conf.CNIVersion == "" || slices.Contains(known, c.conf.CNIVersion) {
		return nil
	}
	return cni.Errorf(cni.CodeIncompatibleVersion, "want one of "+strings.Join(known, ", "),
		"cniVersion %s of the network configuration is not supported", text.Quote(c.conf.CNIVersion))
}

func (c *call) checkEnv() error {
	if c.command == "STATUS" || c.command == "GC" {
		return nil
	}
	if err := utils.ValidateContainerID(c.containerID); err != nil {
		return cni.Errorf(cni.CodeInvalidEnv, err.Details, "CNI_CONTAINERID: %s", err.Msg)
	}
	if err := utils.ValidateInterfaceName(c.ifname); err != nil {
		return cni.Errorf(cni.CodeInvalidEnv, err.Details, "CNI_IFNAME: %s", err.Msg)
	}
	if c.netns == "" && c.command != "DEL" {
		return cni.Errorf(cni.CodeInvalidEnv, "", "CNI_NETNS is empty")
	}
	return nil
}

func (c *call) parseArgs() error {
	c.args = map[string]string{}
	for pair := range strings.SplitSeq(c.argsText, ";") {
		name, value, ok := strings.Cut(pair, "=")
		if pair == "" {
			continue
		}
		if !ok {
			return cni.Errorf(cni.CodeInvalidEnv, "want NAME=VALUE;NAME=VALUE", "CNI_ARGS: %s", text.Quote(pair))
		}
		c.args[name] = value
	}
	return nil
}

// pod is the pod that the runtime names; empty when it names none.
func (c *call) pod() ledger.Pod {
	return ledger.Pod{Namespace: c.args["K8S_POD_NAMESPACE"], Name: c.args["K8S_POD_NAME"], UID: c.args["K8S_POD_UID"]}
}

// deviceID is the device that a plugin called by itself is to use, "" when it uses none.
func (c *call) deviceID() string {
	if c.conf.DeviceID != "" {
		return c.conf.DeviceID
	}
	id, _ := c.conf.RuntimeConfig["deviceID"].(string)
	return id
}

func (c *call) podName() string {
	p := c.pod()
	if p.Name == "" {
		return ""
	}
	return p.Namespace + "/" + p.Name
}

// refuse is an error as the shim prints it.
func refuse(stdin []byte, err error) cnisock.Response {
	var c struct {
		CNIVersion string `json:"cniVersion"`
	}
	_ = json.Unmarshal(stdin, &c) // the shim fills the version in
	e := cni.Wire(err)
	return cnisock.Response{Error: &cnisock.Error{CNIVersion: c.CNIVersion, Code: e.Code, Msg: e.Msg,
		Details: e.Details}}
}

func (c *call) checkNetNS(k Kernel) error {
	if !k.NSExists(c.netns) {
		return cni.Errorf(cni.CodeInvalidNetNS, "the agent sees the node's /var/run/netns through its own mount of it",
			"CNI_NETNS %s is not a network namespace here", c.netns)
	}
	return nil
}

func describe(network, ifname string) string { return fmt.Sprintf("network %s as %s", network, ifname) }
