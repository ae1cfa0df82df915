// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// confPrimary is a network of the node's own.
const confPrimary = `{"cniVersion":"0.3.1","name":"primary","type":"ipoib","master":"ibs5f0","ipam":{"type":"spiderpool"}}`

const confMeta = `{"cniVersion":"0.3.1","name":"multus-cni-network","type":"multus"}`

// onNode puts a file below the node's root.
func (n *node) onNode(path, text string) {
	n.t.Helper()
	at := filepath.Join(n.options.Root, path)
	must(n.t, os.MkdirAll(filepath.Dir(at), 0o700))
	must(n.t, os.WriteFile(at, []byte(text), 0o600))
}

// The network of pods that ask for none, in every way to name it: by the agent's option and by the
// runtime's configuration, which comes first.
func TestClusterNetwork(t *testing.T) {
	named := func(name string) string { return strings.Replace(confPrimary, "primary", name, 1) }
	for name, test := range map[string]struct {
		prepare func(*node)
		want    string   // clusterNetwork
		network string   // recorded of the pod: the network's name, and that of its object
		says    []string // of a refusal
	}{
		"an object": {func(n *node) { n.network("kube-system", "cluster", named("inner"), "") }, "cluster",
			"inner kube-system/cluster", nil},
		"an object of another namespace": {func(n *node) {
			n.network("kube-system", "cluster", named("wrong"), "")
			n.network("networks", "cluster", named("inner"), "")
		}, "networks/cluster", "inner networks/cluster", nil},
		"an object without configuration": {func(n *node) {
			n.network("kube-system", "by-file", "", "")
			n.writeConf("20-x.conf", named("other"))
		}, "kube-system/by-file", "", []string{"NetworkAttachmentDefinition kube-system/by-file has no spec.config",
			`has the name "by-file"`, "set spec.config"}},
		"a configuration by its name": {func(n *node) {
			n.writeConf("10-first.conf", named("first"))
			n.writeConf("20-second.conflist",
				`{"cniVersion":"1.0.0","name":"second","plugins":[{"type":"ipoib","master":"ibs5f0","ipam":{"type":"spiderpool"}},{"type":"coordinator"}]}`)
		}, "second", "second ", nil},
		"a file before an object of the same name": {func(n *node) {
			n.network("kube-system", "both", named("object"), "")
			n.writeConf("10-both.conf", named("both"))
		}, "both", "both ", nil},
		"a file": {func(n *node) { n.onNode("etc/other/net.conf", named("in-file")) },
			"/etc/other/net.conf", "in-file ", nil},
		"a file that is not": {func(*node) {}, "/etc/other/net.conf", "",
			[]string{"/etc/other/net.conf holds no configuration of any name", "found nothing"}},
		"a meta plugin's file": {func(n *node) { n.onNode("etc/other/net.conf", confMeta) }, "/etc/other/net.conf", "",
			[]string{"/etc/other/net.conf holds no configuration of use", "net.conf (a meta plugin's)"}},
		"a file that does not parse": {func(n *node) { n.onNode("etc/other/net.conf", "{") }, "/etc/other/net.conf", "",
			[]string{"/etc/other/net.conf holds no configuration of use", "net.conf (unexpected end of JSON input)"}},
		"a directory": {func(n *node) {
			n.onNode("etc/other/00-multus.conf", confMeta)
			n.onNode("etc/other/05-broken.conf", "{")
			n.onNode("etc/other/10-a.conf", named("a"))
			n.onNode("etc/other/20-b.conf", named("b"))
			n.onNode("etc/other/01-notes.txt", named("notes"))
		}, "/etc/other", "a ", nil},
		"a directory without one": {func(n *node) { n.onNode("etc/other/00-multus.conf", confMeta) }, "/etc/other", "",
			[]string{"/etc/other holds no configuration of any name", "00-multus.conf (a meta plugin's)"}},
		"nothing of that name": {func(n *node) { n.writeConf("10-first.conf", named("first")) }, "second", "",
			[]string{`holds no configuration of name "second", nor a NetworkAttachmentDefinition kube-system/second`,
				`10-first.conf ("first")`, "defaultCniCRName"}},
	} {
		for _, runtimes := range []bool{false, true} {
			t.Run(name+map[bool]string{false: ", the agent's", true: ", the runtime's"}[runtimes], func(t *testing.T) {
				t.Parallel()
				n := newNode(t, hosttest.Options{})
				test.prepare(n)
				n.pod("p", nil)
				before := n.snapshot()
				req := request("ADD", "p", "sandbox-p", podNS)
				n.options.ClusterNetwork = test.want
				if runtimes {
					n.options.ClusterNetwork = "not-this-one"
					req.Stdin = []byte(strings.Replace(string(req.Stdin), `"type"`, `"clusterNetwork":"`+test.want+
						`","type"`, 1))
				}
				n.start()
				resp := n.service.Handle(t.Context(), req)
				if test.network == "" {
					if resp.Error == nil || resp.Error.Code != cni.CodeTryAgainLater &&
						resp.Error.Code != cni.CodeInvalidConfig {
						t.Fatalf("error %+v", resp.Error)
					}
					for _, want := range test.says {
						if !strings.Contains(resp.Error.Error(), want) {
							t.Errorf("error %q does not say %q", resp.Error, want)
						}
					}
				} else if resp.Error != nil {
					t.Fatal(resp.Error)
				} else if sb, _ := n.ledger.Sandbox("sandbox-p"); len(sb.Attachments) != 1 || sb.Attachments[0].Network+
					" "+sb.Attachments[0].NAD != test.network {
					t.Errorf("recorded %+v, want %q", sb.Attachments, test.network)
				}
				n.mustCall("DEL", "p")
				n.collect()
				n.same(before, "after DEL")
			})
		}
	}
}

// A network without a configuration of its own is the node's of that name, whatever the file is called.
func TestNetworkOfAFile(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.network("kube-system", "in-file", "", resource)
	n.writeConf("00-broken.conf", "{")
	n.writeConf("10-primary.conf", confPrimary)
	n.pod("p", annotations("in-file"))
	before := n.snapshot()
	resp := n.call("ADD", "p")
	want := "NetworkAttachmentDefinition kube-system/in-file has no spec.config, and no file in " +
		"/etc/cni/multus/net.d or " + n.options.ConfDir + ` has the name "in-file"; cannot read 00-broken.conf (unexpected end of JSON input)`
	if resp.Error == nil || resp.Error.Code != cni.CodeInvalidConfig || resp.Error.Msg != want ||
		!strings.Contains(resp.Error.Details, "put such a file on every node") {
		t.Errorf("error %+v, want %q", resp.Error, want)
	}
	if len(n.events) != 1 || !strings.Contains(n.events[0], want) {
		t.Errorf("events %q", n.events)
	}
	n.collect()
	n.same(before, "after the refusal")

	n.writeConf("99-z.conflist", strings.Replace(confIBSRIOV, `"name":"ib-sriov"`, `"name":"in-file"`, 1))
	n.mustCall("ADD", "p")
	l, err := n.fake.LinkByName(podNS, "eth0")
	must(t, err)
	if sb, _ := n.ledger.Sandbox("sandbox-p"); l.PCI != vf0 || sb.Attachments[0].NAD != "kube-system/in-file" ||
		sb.Attachments[0].Network != "in-file" {
		t.Errorf("eth0 = %+v, recorded %+v; want the VF, for the network", l, sb.Attachments)
	}
	n.mustCall("DEL", "p")
	n.collect()
	n.same(before, "after DEL")
}

// The file of a network without a configuration of its own is found where the documents of Multus
// put it, and where the runtime's configuration does.
func TestDirectoriesOfNetworks(t *testing.T) {
	const list = `{"cniVersion":"1.0.0","name":"in-file","plugins":[{"type":"ipoib","master":"ibs5f0"}]}`
	single := strings.Replace(confPrimary, "primary", "in-file", 1)
	for name, c := range map[string]struct {
		file, text string
		confDir    string
		found      bool
	}{
		"Multus' directory":            {"etc/cni/multus/net.d/from-file.conf", single, "", true},
		"Multus' directory, a list":    {"etc/cni/multus/net.d/x.conflist", list, "", true},
		"Multus' directory, JSON":      {"etc/cni/multus/net.d/x.json", single, "", true},
		"the runtime's":                {"etc/networks/x.conf", single, "/etc/networks", true},
		"the runtime's is not the one": {"etc/cni/multus/net.d/x.conf", single, "/etc/networks", true},
		"a directory of others":        {"etc/networks/x.conf", single, "", false},
		"a file of another name":       {"etc/cni/multus/net.d/in-file.conf", confPrimary, "", false},
		"a file of another kind":       {"etc/cni/multus/net.d/in-file.txt", single, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, hosttest.Options{})
			n.network("kube-system", "in-file", "", "")
			n.onNode(c.file, c.text)
			n.pod("p", annotations("in-file"))
			req := request("ADD", "p", "sandbox-p", podNS)
			if c.confDir != "" {
				req.Stdin = []byte(strings.Replace(string(req.Stdin), `"type"`, `"confDir":"`+c.confDir+`/","type"`, 1))
			}
			resp := n.service.Handle(t.Context(), req)
			if (resp.Error == nil) != c.found {
				t.Errorf("error %v", resp.Error)
			}
		})
	}
}
