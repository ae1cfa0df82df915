// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"

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

// A plugin that asks for it gets a copy of what the device plugin wrote of its device, what it
// writes there is in the network-status, and DEL removes the copy.
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
			write(t, filepath.Join(n.options.Root, "run/k8s.cni.cncf.io/devinfo/dp/spidernet.io-mellanoxibsriov-"+vf0+
				"-device.json"), dp)
			n.options.Plugins["vf"] = annotator{root: n.options.Root}
			n.start()
			capabilities := map[bool]string{true: `,"capabilities":{"CNIDeviceInfoFile":true}`}[c.capability]
			n.network("kube-system", "disk", `{"cniVersion":"1.0.0","name":"disk","plugins":[{"type":"vf"`+capabilities+
				`}]}`, resource)
			n.pod("p", annotations("disk"))
			n.mustCall("ADD", "p")
			copied := filepath.Join(n.options.Root, "run/k8s.cni.cncf.io/devinfo/cni/kube-system-disk-sandbox-p_eth0")
			if _, err := os.Stat(copied); (err == nil) != c.capability {
				t.Errorf("the plugin's file: %v", err)
			}
			must(t, n.service.writeStatus(t.Context(), "sandbox-p"))
			var status []cncfv1.NetworkStatus
			must(t, json.Unmarshal([]byte(n.statuses["default/p"]), &status))
			if len(status) != 1 || status[0].DeviceInfo == nil || status[0].DeviceInfo.Pci == nil ||
				*status[0].DeviceInfo.Pci != c.want {
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

// teller is a plugin that tells with which runtimeConfig it was called.
type teller struct{ got *[]string }

func (p teller) Add(_ context.Context, r *cni.Request) (*types100.Result, error) {
	var conf struct {
		RuntimeConfig json.RawMessage `json:"runtimeConfig"`
	}
	err := r.ParseConf(&conf)
	*p.got = append(*p.got, r.IfName+" "+string(conf.RuntimeConfig))
	return &types100.Result{}, err
}

func (teller) Del(context.Context, *cni.Request) error   { return nil }
func (teller) Check(context.Context, *cni.Request) error { return nil }

// What the runtime passes is the default network's, what an element of the annotation asks for its
// own network's, and each plugin gets what it declares.
func TestRuntimeConfig(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	var got []string
	n.options.Plugins["teller"] = teller{&got}
	n.start()
	n.network("kube-system", "told",
		`{"cniVersion":"1.0.0","name":"told","plugins":[{"type":"teller","capabilities":{"portMappings":true,"ips":true,"mac":true}}]}`, "")
	n.pod("p",
		map[string]string{
			cncfv1.AnnotationDefaultNetwork: `[{"name":"told","namespace":"kube-system","mac":"02:00:00:00:00:01"}]`,
			cncfv1.AnnotationNetworks:       `[{"name":"told","namespace":"kube-system","ips":["172.91.0.105"]}]`})
	if resp := n.addWith(
		`,"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":8080}],"bandwidth":{}}`); resp.Error != nil {
		t.Fatal(resp.Error)
	}
	want := []string{`eth0 {"mac":"02:00:00:00:00:01","portMappings":[{"containerPort":8080,"hostPort":80}]}`,
		`net1 {"ips":["172.91.0.105"]}`}
	slices.Sort(got) // the two run beside each other
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
