// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"slices"
	"testing"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// GC of one plugin, called by its name, takes down what is not valid of that network and that
// plugin, and nothing else.
func TestDirectGC(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", nil)
	n.pod("meta", annotations("ib-sriov"))
	before := n.snapshot()
	const foreign = `{"cniVersion":"1.1.0","name":"foreign","type":"ipoib","master":"ibs5f0"`
	call := func(command, ifname, stdin string) cnisock.Response {
		r := request(command, "p", "sandbox-p", podNS)
		r.Plugin, r.Stdin, r.Env["CNI_IFNAME"] = "ipoib", []byte(stdin), ifname
		return n.service.Handle(t.Context(), r)
	}
	for _, ifname := range []string{"net1", "net2"} {
		if resp := call("ADD", ifname, foreign+"}"); resp.Error != nil {
			t.Fatal(resp.Error)
		}
	}
	n.mustCall("ADD", "meta")
	have := func() (out []string) {
		for _, sb := range n.ledger.Sandboxes() {
			for _, a := range sb.Attachments {
				out = append(out, a.Network+" "+a.IfName)
			}
		}
		slices.Sort(out)
		return out
	}
	if resp := call("GC", "", foreign+"}"); resp.Error == nil || resp.Error.Code != cni.CodeInvalidConfig {
		t.Errorf("without a list: %+v", resp.Error)
	}
	for _, step := range []struct {
		name, valid string
		want        []string
	}{
		{"foreign", `{"containerID":"sandbox-p","ifname":"net1"},{"containerID":"sandbox-p","ifname":"net2"}`,
			[]string{"foreign net1", "foreign net2", "ib-sriov eth0"}},
		{"another", ``, []string{"foreign net1", "foreign net2", "ib-sriov eth0"}},
		{"foreign", `{"containerID":"sandbox-p","ifname":"net2"}`, []string{"foreign net2", "ib-sriov eth0"}},
		{"foreign", ``, []string{"ib-sriov eth0"}},
	} {
		conf := `{"cniVersion":"1.1.0","name":"` + step.name +
			`","type":"ipoib","master":"ibs5f0","cni.dev/valid-attachments":[` + step.valid + `]}`
		if resp := call("GC", "", conf); resp.Error != nil {
			t.Errorf("GC of %s but [%s]: %v", step.name, step.valid, resp.Error)
		}
		if got := have(); !slices.Equal(got, step.want) {
			t.Errorf("after GC of %s but [%s]: %q, want %q", step.name, step.valid, got, step.want)
		}
	}
	n.mustCall("DEL", "meta")
	n.collect()
	n.same(before, "at the end")
}
