package attach

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// annotator is a plugin that adds to the device-info file that it is given.
type annotator struct{ root string }

func (a annotator) Add(_ context.Context, r *cni.Request) (*types100.Result, error) {
	var conf struct {
		RuntimeConfig struct {
			File string `json:"CNIDeviceInfoFile"`
		} `json:"runtimeConfig"`
	}
	if err := r.ParseConf(&conf); err != nil || conf.RuntimeConfig.File == "" {
		return &types100.Result{}, err
	}
	path := filepath.Join(a.root, strings.TrimPrefix(conf.RuntimeConfig.File, "/var"))
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	text = bytes.Replace(text, []byte(`"rdma-device"`), []byte(`"representor-device":"rep0","rdma-device"`), 1)
	return &types100.Result{}, os.WriteFile(path, text, 0o644)
}

func (annotator) Del(context.Context, *cni.Request) error   { return nil }
func (annotator) Check(context.Context, *cni.Request) error { return nil }

// A plugin that asks for it gets a copy of what the device plugin wrote of its device, what it writes there is in the network-status,
// and DEL removes the copy.
func TestDeviceInfoFile(t *testing.T) {
	const dp = `{"type":"pci","version":"1.1.0","pci":{"pci-address":"` + vf0 + `","rdma-device":"mlx5_1"}}`
	for name, c := range map[string]struct {
		capability bool
		want       cncfv1.PciDevice
	}{
		"asked for": {true, cncfv1.PciDevice{PciAddress: vf0, RdmaDevice: "mlx5_1", RepresentorDevice: "rep0"}},
		"not asked": {false, cncfv1.PciDevice{PciAddress: vf0, RdmaDevice: "mlx5_1"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			write(t, filepath.Join(n.options.Root, "run/k8s.cni.cncf.io/devinfo/dp/spidernet.io-mellanoxibsriov-"+vf0+"-device.json"), dp)
			n.options.Plugins["vf"] = annotator{root: n.options.Root}
			n.start()
			capabilities := map[bool]string{true: `,"capabilities":{"CNIDeviceInfoFile":true}`}[c.capability]
			n.network("kube-system", "disk", `{"cniVersion":"1.0.0","name":"disk","plugins":[{"type":"vf"`+capabilities+`}]}`, resource)
			n.pod("p", annotations("disk"))
			n.mustCall("ADD", "p")
			copied := filepath.Join(n.options.Root, "run/k8s.cni.cncf.io/devinfo/cni/kube-system-disk-sandbox-p_eth0")
			if _, err := os.Stat(copied); (err == nil) != c.capability {
				t.Errorf("the plugin's file: %v", err)
			}
			must(t, n.service.writeStatus(t.Context(), "sandbox-p"))
			var status []cncfv1.NetworkStatus
			must(t, json.Unmarshal([]byte(n.statuses["default/p"]), &status))
			if len(status) != 1 || status[0].DeviceInfo == nil || status[0].DeviceInfo.Pci == nil || *status[0].DeviceInfo.Pci != c.want {
				t.Errorf("network-status %s, want %+v", n.statuses["default/p"], c.want)
			}
			n.mustCall("DEL", "p")
			if _, err := os.Stat(copied); !os.IsNotExist(err) {
				t.Errorf("after DEL the plugin's file: %v", err)
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
}
