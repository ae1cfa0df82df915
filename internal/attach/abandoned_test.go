// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/attach/abandon"
	"spidernet.io/spiderpool/internal/cnisock"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// onDisk is a node whose folder of plugins is the returned one, with a network "far" of our plugin
// ipoib and the foreign IPAM plugin "far".
func onDisk(t *testing.T) (n *node, dir string) {
	n, dir = newNode(t, hosttest.Options{}), t.TempDir()
	n.options.Root = "" // a script needs a shell
	n.start()
	n.network("default", "far", `{"cniVersion":"1.0.0","name":"far","type":"ipoib","master":"ibs5f0",
		"ipam":{"type":"far"}}`, "")
	n.pod("p", map[string]string{cncfv1.AnnotationDefaultNetwork: "kube-system/ipoib",
		cncfv1.AnnotationNetworks: "far"})
	return n, dir
}

// far puts the IPAM plugin on disk: what it does on ADD and on DEL, in that order.
func far(t *testing.T, dir, add, del string) {
	t.Helper()
	text := "#!/bin/sh\nif [ $CNI_COMMAND = ADD ]; then\n" + add + "\nelse\n" + del + "\nfi\n"
	must(t, os.WriteFile(filepath.Join(dir, "far"), []byte(text), 0o755))
}

func (n *node) callWith(dir, command string) cnisock.Response {
	r := request(command, "p", "sandbox-p", podNS)
	r.Env["CNI_PATH"] = dir
	return n.service.Handle(n.t.Context(), r)
}

// What a plugin on disk cannot undo keeps no pod Terminating; what it may undo later is asked again.
func TestDelWithoutForeignPlugin(t *testing.T) {
	const good = `echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.5/24"}]}'`
	says := func(code, msg string) string {
		return `echo '{"cniVersion":"1.0.0","code":` + code + `,"msg":"` + msg + `"}'; exit 1`
	}
	for name, c := range map[string]struct {
		add, del string
		// change happens between ADD and DEL.
		change func(t *testing.T, n *node, dir string)
		added  bool
		// later: DEL fails, until far is well again.
		later bool
		event string
	}{
		"removed from the node": {add: good, del: "true", added: true, change: func(t *testing.T, _ *node, dir string) {
			must(t, os.Remove(filepath.Join(dir, "far")))
		}, event: `plugin "far" did not undo its part of network far as net1 and is not called again: failed to find plugin`},
		"refuses the configuration": {add: good, del: says("7", "no such range"), added: true, event: "no such range"},
		"refuses what ADD refused": {add: says("999", "no IP ranges specified"),
			del: says("999", "no IP ranges specified"), event: "no IP ranges specified"},
		"ADD refused, DEL works":            {add: says("7", "no such range"), del: "true"},
		"fails for a while":                 {add: good, del: says("999", "etcd is away"), added: true, later: true},
		"ADD and DEL fail for a while":      {add: says("11", "later"), del: says("11", "later"), later: true},
		"fails otherwise than ADD, for now": {add: says("999", "x"), del: says("999", "etcd is away"), later: true},
		"fails for ever": {add: good, del: says("999", "etcd is away"), added: true,
			change: func(_ *testing.T, n *node, dir string) {
				if n.callWith(dir, "DEL").Error == nil {
					n.t.Error("DEL succeeded at the first failure")
				}
				now := time.Now().Add(abandon.After)
				n.service.now = func() time.Time { return now }
			}, event: "etcd is away"},
	} {
		t.Run(name, func(t *testing.T) {
			n, dir := onDisk(t)
			before := n.snapshot()
			far(t, dir, c.add, c.del)
			if resp := n.callWith(dir, "ADD"); (resp.Error == nil) != c.added {
				t.Fatalf("ADD: %v", resp.Error)
			}
			if c.change != nil {
				c.change(t, n, dir)
			}
			if c.later {
				if resp := n.callWith(dir, "DEL"); resp.Error == nil {
					t.Error("DEL succeeded without the plugin")
				}
				if len(n.ledger.Sandboxes()) != 1 {
					t.Error("the record has gone")
				}
				far(t, dir, c.add, "true")
			}
			if resp := n.callWith(dir, "DEL"); resp.Error != nil {
				t.Errorf("DEL: %s", resp.Error)
			}
			n.collect()
			n.same(before, "after DEL")
			all := strings.Join(n.events, "\n")
			if told := strings.Contains(all, ReasonLeft); told != (c.event != "") || !strings.Contains(all, c.event) {
				t.Errorf("events %s, want %s with %q", all, ReasonLeft, c.event)
			}
		})
	}
}

// The addresses that a pod asks for reach an IPAM plugin that does not declare them, on ADD and on
// DEL, and no other network of the pod.
func TestIPsAsVariable(t *testing.T) {
	n, dir := onDisk(t)
	n.pod("p", map[string]string{cncfv1.AnnotationDefaultNetwork: "kube-system/ipoib",
		cncfv1.AnnotationNetworks: `[{"name":"far","ips":["10.9.0.5/24"]}]`})
	log := filepath.Join(dir, "log")
	far(t, dir, "echo $CNI_COMMAND $CNI_ARGS >>"+log+`; echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.0.5/24"}]}'`,
		"echo $CNI_COMMAND $CNI_ARGS >>"+log)
	for _, command := range []string{"ADD", "DEL"} {
		if resp := n.callWith(dir, command); resp.Error != nil {
			t.Fatal(resp.Error)
		}
	}
	text, err := os.ReadFile(log)
	must(t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "ADD ") || !strings.HasSuffix(lines[0], ";IP=10.9.0.5/24") ||
		!strings.HasSuffix(lines[1], ";IP=10.9.0.5/24") || !strings.Contains(lines[0], "K8S_POD_NAME=p;") {
		t.Errorf("CNI_ARGS:\n%s", text)
	}
	if _, other := n.asked["p net1"]; other || len(n.asked["p eth0"].Wanted) != 0 {
		t.Errorf("addresses were asked for %v, expected one for eth0 that names none", n.asked)
	}

	n.network("default", "near", strings.Replace(confIPoIB, "ipoib", "near", 1), "")
	n.pod("q", map[string]string{cncfv1.AnnotationDefaultNetwork: "kube-system/ipoib",
		cncfv1.AnnotationNetworks: `[{"name":"near","ips":["172.91.0.105"]}]`})
	n.mustCall("ADD", "q")
	wanted := n.asked["q net1"].Wanted // both networks are attached at once
	if len(wanted) != 1 || wanted[0].String() != "172.91.0.105/32" || len(n.asked["q eth0"].Wanted) != 0 {
		t.Errorf("addresses were asked for %v, expected 172.91.0.105 for net1 alone", n.asked)
	}
}

// A plugin of ours that is called by itself is refused before anything is recorded, too.
func TestDirectWithoutIPAM(t *testing.T) {
	for name, c := range map[string]struct{ conf, refused string }{
		"absent ipam": {`{"cniVersion":"1.0.0","name":"d","type":"ib-sriov","deviceID":"` + vf0 +
			`","ipam":{"type":"whereabouts"}}`, `failed to find plugin "whereabouts"`},
		"name that is a path": {`{"cniVersion":"1.0.0","name":"../d","type":"ib-sriov","deviceID":"` + vf0 +
			`","ipam":{"type":"spiderpool"}}`, `name "../d" is not valid`},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			n.pod("p", nil)
			before := n.snapshot()
			for _, command := range []string{"ADD", "DEL"} {
				r := request(command, "p", "sandbox-p", podNS)
				r.Plugin, r.Stdin = "ib-sriov", []byte(c.conf)
				resp := n.service.Handle(t.Context(), r)
				if command == "ADD" && (resp.Error == nil || !strings.Contains(resp.Error.Error(), c.refused)) {
					t.Errorf("ADD: %v, want %q", resp.Error, c.refused)
				}
				if command == "DEL" && resp.Error != nil {
					t.Errorf("DEL: %s", resp.Error)
				}
				n.same(before, "after "+command)
			}
		})
	}
}
