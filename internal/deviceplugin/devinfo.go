// SPDX-License-Identifier: Apache-2.0

package deviceplugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"spidernet.io/spiderpool/internal/sriov"
)

// deviceInfo is a file of the device-information specification, version 1.1.0.
type deviceInfo struct {
	Type    string  `json:"type"`
	Version string  `json:"version"`
	PCI     pciInfo `json:"pci"`
}

type pciInfo struct {
	Address    string `json:"pci-address"`
	RDMADevice string `json:"rdma-device,omitempty"`
}

const infoSuffix = "-device.json"

func (p *Plugin) infoPath(resource, pci string) string {
	return filepath.Join(p.opts.InfoDir, p.opts.Prefix+"-"+resource+"-"+pci+infoSuffix)
}

// syncDeviceInfo writes a file for every device that is offered and removes our others. Files
// outlive this process: pods do too.
func (p *Plugin) syncDeviceInfo(wanted map[string][]sriov.Device) error {
	if err := os.MkdirAll(p.opts.InfoDir, 0o755); err != nil {
		return fmt.Errorf("make the folder of device-info files: %w", err)
	}
	keep := map[string]bool{}
	var errs []error
	for resource, devices := range wanted {
		for _, d := range devices {
			path := p.infoPath(resource, d.PCI)
			keep[path] = true
			errs = append(errs, writeInfo(path, d))
		}
	}
	ours, err := filepath.Glob(filepath.Join(p.opts.InfoDir, p.opts.Prefix+"-*"+infoSuffix))
	errs = append(errs, err)
	for _, path := range ours {
		if !keep[path] {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}

// writeInfo replaces a file in one step when its content is not right. The RDMA device of a VF
// inside a pod cannot be seen; what the file says of it stays.
func writeInfo(path string, d sriov.Device) error {
	old, err := os.ReadFile(path)
	if err == nil && d.RDMADevice == "" {
		return nil
	}
	text, err := json.Marshal(deviceInfo{Type: "pci", Version: "1.1.0",
		PCI: pciInfo{Address: d.PCI, RDMADevice: d.RDMADevice}})
	if err != nil || bytes.Equal(old, text) {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), strings.TrimSuffix(filepath.Base(path), ".json")+".tmp-*")
	if err != nil {
		return fmt.Errorf("write device-info file: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Chmod(0o444), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write device-info file: %w", err)
	}
	return nil
}

// Leftovers lists the device-info files and sockets of resources with a prefix, which outlive the process.
func Leftovers(prefix, dir, infoDir string) []string {
	files, _ := filepath.Glob(filepath.Join(infoDir, prefix+"-*"+infoSuffix)) // the only error is a bad pattern
	sockets, _ := filepath.Glob(filepath.Join(dir, prefix+"_*.sock"))
	return append(files, sockets...)
}
