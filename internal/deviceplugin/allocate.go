// SPDX-License-Identifier: Apache-2.0

package deviceplugin

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/sriov"
)

// infinibandDir holds the RDMA character devices, in containers as on the node.
const infinibandDir = "/dev/infiniband"

// Allocate implements the device-plugin API. A pod gets the verbs device of each VF and the
// connection manager's, its umadN only by option, and never issmN, with which it could act as a
// subnet manager.
func (s *server) Allocate(ctx context.Context, req *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	out := &pluginapi.AllocateResponse{}
	for _, container := range req.ContainerRequests {
		r, err := s.allocate(ctx, container.DevicesIds)
		if err != nil {
			s.plugin.opts.Log.Error("cannot hand out VFs", "resource", s.name,
				"pci", strings.Join(container.DevicesIds, ","), "error", err)
			return nil, status.Error(codes.FailedPrecondition, err.Error())
		}
		out.ContainerResponses = append(out.ContainerResponses, r)
	}
	return out, nil
}

// vfInfo is what the …_INFO variable tells of a VF.
type vfInfo struct {
	Generic map[string]string `json:"generic"`
	RDMA    map[string]string `json:"rdma,omitempty"`
}

func (s *server) allocate(ctx context.Context, ids []string) (*pluginapi.ContainerAllocateResponse, error) {
	out := &pluginapi.ContainerAllocateResponse{Envs: map[string]string{}}
	infos := map[string]vfInfo{}
	var nodes []string
	for _, id := range ids {
		info, err := s.describe(ctx, id)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		infos[id] = info
		for _, key := range []string{"uverbs", "umad", "rdma_cm"} {
			if node := info.RDMA[key]; node != "" && !slices.Contains(nodes, node) {
				nodes = append(nodes, node)
			}
		}
	}
	for _, node := range nodes {
		out.Devices = append(out.Devices, &pluginapi.DeviceSpec{HostPath: node, ContainerPath: node, Permissions: "rw"})
	}
	text, err := json.Marshal(infos)
	if err != nil {
		return nil, fmt.Errorf("%s: describe the VFs: %w", s.name, err)
	}
	for _, name := range envNames(s.name) {
		out.Envs[name], out.Envs[name+"_INFO"] = strings.Join(ids, ","), string(text)
	}
	return out, nil
}

// envNames are the variable names of a resource: the one that other software reads, and, where a
// '-' makes that one unusable in a shell, one without.
func envNames(resource string) []string {
	name := "PCIDEVICE_" + strings.ToUpper(strings.NewReplacer(".", "_", "/", "_").Replace(resource))
	if shell := strings.ReplaceAll(name, "-", "_"); shell != name {
		return []string{name, shell}
	}
	return []string{name}
}

// describe finds the device nodes of a VF as they are now.
func (s *server) describe(ctx context.Context, pci string) (vfInfo, error) {
	d, ok := s.plugin.take(s.resource, pci)
	if !ok {
		return vfInfo{}, fmt.Errorf("%s is not offered any more: the pod has to be made again "+
			"(`kubectl -n kube-system get sriovnetworknodestates -o yaml` says why)", pci)
	}
	vf, err := s.home(ctx, d)
	if err != nil {
		return vfInfo{}, err
	}
	info := vfInfo{Generic: map[string]string{"deviceID": pci}}
	if err := s.note(d, vf); err != nil {
		return vfInfo{}, err
	}
	if !d.RDMA {
		return info, nil
	}
	info.RDMA = map[string]string{}
	if vf.RDMA != "" {
		info.RDMA["rdma_dev"] = vf.RDMA
	}
	if info.RDMA["uverbs"], err = s.node(pci, vf.Uverbs, "a verbs device (uverbsN): `modprobe ib_uverbs`"); err != nil {
		return vfInfo{}, err
	}
	if s.plugin.opts.Umad {
		if info.RDMA["umad"], err = s.node(pci, vf.Umad,
			"a management device (umadN): `modprobe ib_umad`"); err != nil {
			return vfInfo{}, err
		}
	}
	if s.exists("rdma_cm") {
		info.RDMA["rdma_cm"] = filepath.Join(infinibandDir, "rdma_cm")
	}
	return info, nil
}

// note keeps which devices go with the VF.
func (s *server) note(d sriov.Device, vf host.VFDevices) error {
	if s.plugin.opts.Note == nil {
		return nil
	}
	var verbs, umad string
	if d.RDMA {
		verbs = vf.Uverbs
	}
	if d.RDMA && s.plugin.opts.Umad {
		umad = vf.Umad
	}
	if err := s.plugin.opts.Note(d.PCI, verbs, umad); err != nil {
		return fmt.Errorf("note the devices of VF %s: %w", d.PCI, err)
	}
	return nil
}

// home waits, bounded, until a VF is in the node's namespace: the pod before may still be giving it
// back, and the numbers of its device nodes change when it comes home.
func (s *server) home(ctx context.Context, d sriov.Device) (host.VFDevices, error) {
	pci := d.PCI
	for deadline := time.Now().Add(returnWait); ; {
		vf, err := s.plugin.kernel.VFDevices(pci)
		if err != nil {
			return vf, fmt.Errorf("read VF %s: %w", pci, err)
		}
		if vf.Link != nil && (vf.RDMA != "" || !d.RDMA) {
			return vf, nil
		}
		if time.Now().After(deadline) && vf.Link != nil {
			return vf, fmt.Errorf("VF %s has its network interface %s on the node and no RDMA device that can be used "+
				"after %s: it is in another network namespace, or a pod gave it a name that cannot be used "+
				"(`rdma dev` shows the names)", pci, vf.Link.Name, returnWait)
		}
		if time.Now().After(deadline) {
			return vf,
				fmt.Errorf(
					"VF %s is still in another network namespace after %s: the pod before has not given it back "+
						"(the events of that pod, or the log of the node's spiderpool-agent, say why)", pci, returnWait)
		}
		select {
		case <-ctx.Done():
			return vf, fmt.Errorf("wait for VF %s to come home: %w", pci, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *server) node(pci, name, what string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("VF %s has no %s", pci, strings.TrimPrefix(what, "a "))
	}
	if !s.exists(name) {
		return "",
			fmt.Errorf("VF %s has %s, but %s/%s is not on the node: is udev running, and is devtmpfs mounted on /dev?",
				pci, name, infinibandDir, name)
	}
	return filepath.Join(infinibandDir, name), nil
}

func (s *server) exists(name string) bool {
	_, err := os.Stat(filepath.Join(s.plugin.opts.DevDir, "infiniband", name))
	return err == nil
}
