// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/ledger"
)

// Device-info files tell plugins and people about devices (Device Information Specification of the
// Network Plumbing Working Group): a device plugin writes one for each device below devInfo/dp, and
// each attachment whose plugin asks for it gets its own copy, which the plugin may add to, below
// devInfo/cni.
const (
	// devInfo is the folder as the node has it, where /var/run is /run; a link in a path below Root
	// would lead out of it.
	devInfo = "/run/k8s.cni.cncf.io/devinfo"
	// devInfoCapability is under which a plugin is given the path of its file, which begins with /var.
	devInfoCapability = "CNIDeviceInfoFile"
)

// deviceInfoFile is what a planned attachment's plugin is given as the path of its file, "" when it
// has no device or does not ask.
func (p *planned) deviceInfoFile(containerID string) string {
	asks := false
	for _, plugin := range p.list.Plugins {
		asks = asks || plugin.Network.Capabilities[devInfoCapability]
	}
	if p.deviceID == "" || !asks {
		return ""
	}
	return "/var" + devInfo + "/cni/" + plainName(fmt.Sprintf("%s-%s_%s", p.title(), containerID, p.ifname))
}

func plainName(name string) string { return strings.ReplaceAll(name, "/", "-") }

// ofDevicePlugin is the path of what the device plugin wrote.
func (s *Service) ofDevicePlugin(resource, device string) string {
	return s.at(devInfo + "/dp/" + plainName(resource+"-"+device+"-device.json"))
}

// placeDeviceInfo copies the device plugin's file for an attachment, which is recorded then.
// Without one there is none to copy, and the plugin makes its own.
func (s *Service) placeDeviceInfo(d *draft, p *planned) error {
	file, ok := p.capabilities[devInfoCapability].(string)
	if !ok {
		return nil
	}
	if err := d.recorded(); err != nil {
		return fmt.Errorf("record the attachments: %w", err)
	}
	text, err := os.ReadFile(s.ofDevicePlugin(p.resource, p.deviceID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(s.at(file)), 0o755)
	}
	if err == nil {
		err = os.WriteFile(s.at(file), text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("copy the device-info file of %s: %w", p.deviceID, err)
	}
	return nil
}

// removeDeviceInfo removes an attachment's file, whoever wrote it. A file that stays is in nobody's
// way, and keeps no pod from its end.
func (s *Service) removeDeviceInfo(a ledger.Attachment) {
	file := recordedDeviceInfoFile(a)
	if file == "" {
		return
	}
	if err := os.Remove(s.at(file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.Log.Warn("could not remove a device-info file", "file", file, "error", err)
	}
}

func recordedDeviceInfoFile(a ledger.Attachment) string {
	var c struct {
		File string `json:"CNIDeviceInfoFile"`
	}
	_ = json.Unmarshal(a.RuntimeConfig, &c) // ours; what does not parse has no file
	return c.File
}

// readDeviceInfo is what the attachment's own file says of its device, else the device plugin's;
// nil when neither does.
func (s *Service) readDeviceInfo(a ledger.Attachment) *cncfv1.DeviceInfo {
	files := []string{s.ofDevicePlugin(a.Resource, a.DeviceID)}
	if file := recordedDeviceInfoFile(a); file != "" {
		files = []string{s.at(file), files[0]}
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		info := &cncfv1.DeviceInfo{}
		if err == nil {
			err = json.Unmarshal(text, info)
		}
		if err == nil && info.Type != "" {
			return info
		}
		s.Log.Warn("a device-info file does not say what it should", "file", file, "error", err)
	}
	return nil
}
