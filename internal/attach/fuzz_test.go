// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cniinstall"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// FuzzHandleDirect: whatever a plugin of ours is called with by itself, it prints a result or a
// refusal with a code; and after its DEL, and what the collector does then, the node is as before.
func FuzzHandleDirect(f *testing.F) {
	const args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;K8S_POD_UID=uid-p"
	const prev = `"prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/var/run/netns/cni-1"}],"ips":[{"address":"172.91.0.100/16","interface":0}]}`
	f.Add(uint8(0), "ADD",
		`{"cniVersion":"1.0.0","name":"ib","type":"ib-sriov","deviceID":"0000:86:00.1","ipam":{"type":"spiderpool"}}`,
		args)
	f.Add(uint8(1), "ADD",
		`{"cniVersion":"0.3.1","name":"ipoib","type":"ipoib","master":"ibs5f0","ipam":{"type":"spiderpool"}}`, args)
	f.Add(uint8(2), "ADD",
		`{"cniVersion":"1.0.0","name":"ib","type":"ib-sriov","ipam":{"type":"spiderpool","default_ipv4_ippool":["v4-91"]}}`, args)
	f.Add(uint8(3), "ADD", `{"cniVersion":"1.0.0","name":"ib","type":"coordinator","mode":"auto",`+prev+`}`, args)
	f.Add(uint8(4), "ADD", `{"cniVersion":"1.0.0","name":"ib","type":"rdma","deviceID":"0000:86:00.1",`+prev+`}`, args)
	f.Add(uint8(4), "CHECK", `{"cniVersion":"1.0.0","name":"ib","type":"rdma","prevResult":{"interfaces":[null]}}`, "")
	f.Add(uint8(3), "ADD", `{"cniVersion":"0.3.1","name":"","prevResult":{"cniVersion":"0.3.1","ips":[null]}}`,
		"A=B;;C=")
	f.Add(uint8(5), "DEL", `{}`, "K8S_POD_UID=uid-p")
	f.Add(uint8(0), "GC", `{"cni.dev/valid-attachments":[{}]}`, "x")
	n := newNode(f, hosttest.Options{})
	before := n.snapshot()
	plugins := []string{"ib-sriov", "ipoib", "spiderpool", "coordinator", "rdma", "bridge"}
	f.Fuzz(func(t *testing.T, plugin uint8, command, stdin, args string) {
		n.t = t
		n.pod("p", nil)
		// the wire carries no other text
		command, args = strings.ToValidUTF8(command, "?"), strings.ToValidUTF8(args, "?")
		req := request(command, "p", "s", podNS)
		req.Plugin, req.Stdin, req.Env["CNI_ARGS"] = plugins[int(plugin)%len(plugins)], []byte(stdin), args
		resp := n.service.Handle(context.Background(), req)
		if e := resp.Error; e != nil && (e.Code == 0 || e.Msg == "" || len(resp.Stdout) > 0) {
			t.Fatalf("%s of %s: refused as %+v, with the output %q", command, req.Plugin, e, resp.Stdout)
		}
		req.Env["CNI_COMMAND"] = "DEL"
		if resp := n.service.Handle(context.Background(), req); resp.Error != nil {
			// A DEL that cannot be read does nothing. The runtime gives the same configuration to
			// both, so neither did its ADD.
			if e := resp.Error.Code; e != cni.CodeDecode && e != cni.CodeInvalidConfig && e != cni.CodeInvalidEnv &&
				e != cni.CodeIncompatibleVersion && e != cni.CodeFailed {
				t.Fatalf("DEL of %s with %s: %+v", req.Plugin, stdin, resp.Error)
			}
		}
		n.collect()
		n.same(before, "after DEL")
	})
}

// FuzzReadConf: a file of the node is a default network here exactly when the installation takes it
// for one; and whatever is in it, what comes of it is a list of plugins among which our meta plugin
// is not, or an error.
func FuzzReadConf(f *testing.F) {
	for _, seed := range []string{`{"name":"k8s-pod-network","cniVersion":"0.3.1","plugins":[{"type":"calico"},{"type":"portmap","capabilities":{"portMappings":true}}]}`,
		`{"cniVersion":"0.3.1","name":"lab","type":"bridge"}`,
		`{"cniVersion":"1.0.0","name":"multus-cni-network","type":"multus","clusterNetwork":"lab"}`,
		`{"name":"m","plugins":[{"type":"a"},{"type":"multus"}]}`, `{"name":"m","Type":"multus","type":"a"}`,
		`{"cniVersion":"0.3.1","type":"bridge"}`, `{"name":"m","plugins":[null]}`, `{}`, `null`, `[]`, `{"name":7}`, ``,
		`{`} {
		f.Add([]byte(seed))
	}
	dir := f.TempDir()
	path := filepath.Join(dir, "10-x.conflist")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		got := readConf(path)
		installed, err := cniinstall.FindPrimary(dir)
		if err != nil && !errors.Is(err, cniinstall.ErrNoPrimary) {
			t.Fatal(err)
		}
		if got.usable() != (err == nil) || got.usable() && installed.Name != got.name {
			t.Fatalf("%q is read as %+v, and the installation says %+v, %v", text, got, installed, err)
		}
		if !got.usable() {
			return
		}
		p := planned{network: network{name: got.name, config: got.config}}
		if err := p.parse(); err != nil {
			if cni.Wire(err).Code == 0 || err.Error() == "" {
				t.Fatalf("%q is refused with %v", text, err)
			}
			return
		}
		if p.list.Name == "" || len(p.list.Plugins) == 0 {
			t.Fatalf("%q makes the list %+v", text, p.list)
		}
		for _, one := range p.list.Plugins {
			if one.Network.Type == "" || one.Network.Type == MetaPlugin {
				t.Fatalf("%q has a plugin of type %q", text, one.Network.Type)
			}
		}
	})
}

// A file without a name is passed over, as by the installation, and named when there is no other.
func TestPrimaryWithoutAName(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	write := func(name, text string) {
		must(t, os.WriteFile(filepath.Join(n.service.ConfDir, name), []byte(text), 0o600))
	}
	write("10-nameless.conf", `{"cniVersion":"0.3.1","type":"bridge"}`)
	if _, err := n.service.primary(context.Background(), &call{}); err == nil || !strings.Contains(err.Error(),
		"10-nameless.conf (without a name)") {
		t.Errorf("err = %v", err)
	}
	write("20-lab.conf", `{"cniVersion":"0.3.1","name":"lab","type":"bridge"}`)
	if got, err := n.service.primary(context.Background(), &call{}); err != nil || got.name != "lab" {
		t.Errorf("%+v, %v", got, err)
	}
}
