// SPDX-License-Identifier: Apache-2.0

package ipoib

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
)

// FuzzConf: whatever the configuration, Add makes the child of a master that is one, with the MTU
// asked for, or refuses with a code; and after Del the node is as before.
func FuzzConf(f *testing.F) {
	for _, seed := range []string{`{"cniVersion":"0.3.1","name":"ipoib","type":"ipoib","master":"ibs5f0","capabilities":{"ips":true},"ipam":{"type":"spiderpool","default_ipv4_ippool":["v4-91"]}}`,
		`{"master":"ibp134s0f0","mtu":2000}`, `{"master":"ibs5f0","mtu":-1}`, `{"master":"eno1"}`,
		`{"master":"","mtu":1e3}`, `{"master":["ibs5f0"]}`,
		`{"master":"ibs5f0","ipam":{"type":"dhcp"}}`, `{"master":"ibs5f0","mtu":99999999999999999999}`, `null`, `[]`,
		`{`, ``} {
		f.Add(seed)
	}
	const ns = host.NS("/ns")
	node := hosttest.GuideNode()
	node.AddNS(ns)
	node.Revive()
	before := node.Snapshot()
	p := &Plugin{Kernel: node}
	f.Fuzz(func(t *testing.T, conf string) {
		r := call("c", conf, ns)
		c, parseErr := parse(r)
		_, err := p.Add(context.Background(), r)
		var refusal *cni.Error
		switch {
		case parseErr != nil && (!errors.As(parseErr, &refusal) || refusal.Code != cni.CodeDecode &&
			refusal.Code != cni.CodeInvalidConfig):
			t.Fatalf("%s: %v", conf, parseErr)
		case parseErr == nil && (c.Master == "" || c.MTU < 0 || c.IPAM.Type == "dhcp"):
			t.Fatalf("%s is taken for %+v", conf, c)
		case parseErr != nil && (err == nil || err.Error() != parseErr.Error()):
			t.Fatalf("%s: %v, want %v", conf, err, parseErr)
		case err == nil:
			link, lookErr := node.LinkByName(ns, r.IfName)
			if lookErr != nil || link.Kind != kind || !link.Up || c.MTU != 0 && link.MTU != c.MTU {
				t.Fatalf("%s made %+v, %v", conf, link, lookErr)
			}
		}
		for range 2 {
			if err := p.Del(context.Background(), r); err != nil {
				t.Fatalf("%s: DEL: %v", conf, err)
			}
		}
		if diff := cmp.Diff(before.Namespaces[host.NodeNS], node.Snapshot().Namespaces[host.NodeNS]); diff != "" {
			t.Fatalf("%s: left behind:\n%s", conf, diff)
		}
		if _, err := node.LinkByName(ns, r.IfName); !errors.Is(err, host.ErrNotFound) {
			t.Fatalf("%s: the child is still there: %v", conf, err)
		}
	})
}
