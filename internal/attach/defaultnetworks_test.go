// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// addWith is an ADD of pod p by a meta plugin's configuration with more keys.
func (n *node) addWith(keys string) cnisock.Response {
	req := request("ADD", "p", "sandbox-p", podNS)
	req.Stdin = []byte(strings.Replace(string(req.Stdin), "}", keys+"}", 1))
	return n.service.Handle(n.t.Context(), req)
}

// Networks that the node's configuration gives to all pods come after the pod's own; pods of the
// system do not get them.
func TestDefaultNetworks(t *testing.T) {
	for name, c := range map[string]struct{ keys, want string }{
		"a pod's": {`,"defaultNetworks":["file","kube-system/ipoib"]`,
			"eth0=kube-system/ib-sriov net1=kube-system/ipoib net2=file net3=kube-system/ipoib"},
		"one of the system": {`,"defaultNetworks":["file"],"systemNamespaces":["default"]`,
			"eth0=kube-system/ib-sriov net1=kube-system/ipoib"},
		"none": {``, "eth0=kube-system/ib-sriov net1=kube-system/ipoib"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			n.writeConf("20-file.conf", `{"cniVersion":"1.0.0","name":"file","type":"ipoib","master":"ibs5f0"}`)
			n.pod("p", map[string]string{cncfv1.AnnotationDefaultNetwork: "kube-system/ib-sriov",
				cncfv1.AnnotationNetworks: "kube-system/ipoib"})
			before := n.snapshot()
			if resp := n.addWith(c.keys); resp.Error != nil {
				t.Fatal(resp.Error)
			}
			must(t, n.service.writeStatus(t.Context(), "sandbox-p"))
			var status []cncfv1.NetworkStatus
			must(t, json.Unmarshal([]byte(n.statuses["default/p"]), &status))
			var got []string
			for _, s := range status {
				got = append(got, s.Interface+"="+s.Name)
			}
			if text := strings.Join(got, " "); text != c.want {
				t.Errorf("attached %s, want %s", text, c.want)
			}
			n.mustCall("DEL", "p")
			n.collect()
			n.same(before, "after DEL")
		})
	}
}

func TestNodesConfigurationIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		keys, want string
		code       uint
	}{
		"no such network": {`,"defaultNetworks":["nix"]`,
			`network "nix" of defaultNetworks: no network "nix" on the node`, cni.CodeTryAgainLater},
		"not ready": {`,"readinessindicatorfile":"/run/ready"`, "the node's network is not ready yet",
			cni.CodeTryAgainLater},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			n.pod("p", annotations("ipoib"))
			before := n.snapshot()
			if resp := n.addWith(c.keys); resp.Error == nil || resp.Error.Code != c.code ||
				!strings.Contains(resp.Error.Error(), c.want) {
				t.Errorf("answer %+v, want %q", resp.Error, c.want)
			}
			n.same(before, "after the refusal")
		})
	}
}

func TestDelegatesAreRefused(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", nil)
	if resp := n.addWith(`,"delegates":[{"type":"ipoib"}]`); resp.Error == nil ||
		resp.Error.Code != cni.CodeInvalidConfig || !strings.Contains(resp.Error.Error(), "delegates") {
		t.Errorf("answer %+v", resp.Error)
	}
}

func TestNodeIsReady(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", annotations("ipoib"))
	must(t, os.MkdirAll(filepath.Join(n.options.Root, "run"), 0o755))
	must(t, os.WriteFile(filepath.Join(n.options.Root, "run/ready"), nil, 0o644))
	if resp := n.addWith(`,"readinessindicatorfile":"/run/ready"`); resp.Error != nil {
		t.Error(resp.Error)
	}
}
