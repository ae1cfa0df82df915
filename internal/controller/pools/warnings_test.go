// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/testapi"
)

func nodeWithAddresses(name string, addresses ...string) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: name})
	return n
}

// listed answers List from memory.
type listed struct {
	client.Reader
	nodes    []corev1.Node
	reserved []v2beta1.SpiderReservedIP
	err      error
}

func (l listed) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	switch to := list.(type) {
	case *corev1.NodeList:
		to.Items = l.nodes
	case *v2beta1.SpiderReservedIPList:
		to.Items = l.reserved
	}
	return l.err
}

func TestWarnings(t *testing.T) {
	const tail = ": a pod that is given it takes the node's traffic; add it to spec.excludeIPs"
	nodes := []corev1.Node{nodeWithAddresses("b", "172.91.0.120"), nodeWithAddresses("a", "10.20.1.10", "172.91.0.110",
		"172.91.0.110", "fd00::a"), nodeWithAddresses("elsewhere", "172.91.0.10")}
	var many []corev1.Node
	for i := range 6 {
		many = append(many, nodeWithAddresses(fmt.Sprint("n", i), fmt.Sprintf("172.91.0.10%d", i)))
	}
	reserved := v2beta1.SpiderReservedIP{Spec: v2beta1.ReservedIPSpec{IPs: []string{"172.91.0.110"}}}
	terminating := v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: new(metav1.Now())},
		Spec: v2beta1.ReservedIPSpec{IPs: []string{"172.91.0.120"}}}
	for _, test := range []struct {
		name   string
		change func(*v2beta1.SpiderIPPool)
		from   listed
		want   []string
	}{
		{"no nodes", func(*v2beta1.SpiderIPPool) {}, listed{}, nil},
		{"nodes elsewhere", func(*v2beta1.SpiderIPPool) {}, listed{nodes: nodes[2:]}, nil},
		{"addresses of nodes", func(*v2beta1.SpiderIPPool) {}, listed{nodes: nodes},
			[]string{"spec.ips has 172.91.0.110, which is the address of node a" + tail,
				"spec.ips has 172.91.0.120, which is the address of node b" + tail}},
		{"excluded", func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"172.91.0.110", "172.91.0.120"} },
			listed{nodes: nodes}, nil},
		{"reserved", func(*v2beta1.SpiderIPPool) {}, listed{nodes: nodes, reserved: []v2beta1.SpiderReservedIP{reserved,
			terminating}},
			[]string{"spec.ips has 172.91.0.120, which is the address of node b" + tail}},
		{"IPv6", func(p *v2beta1.SpiderIPPool) {
			p.Spec = v2beta1.IPPoolSpec{Subnet: "fd00::/64", IPs: []string{"fd00::1-fd00::f"}}
		}, listed{nodes: nodes},
			[]string{"spec.ips has fd00::a, which is the address of node a" + tail}},
		{"many", func(*v2beta1.SpiderIPPool) {}, listed{nodes: many}, []string{
			"spec.ips has 172.91.0.100, which is the address of node n0" + tail,
			"spec.ips has 172.91.0.101, which is the address of node n1" + tail,
			"spec.ips has 172.91.0.102, which is the address of node n2" + tail,
			"spec.ips has 172.91.0.103, which is the address of node n3" + tail,
			"spec.ips has 2 more addresses of nodes"}},
		{"whole subnet", func(p *v2beta1.SpiderIPPool) {
			p.Spec = v2beta1.IPPoolSpec{Subnet: "10.9.0.0/24", IPs: []string{"10.9.0.0-10.9.0.255"}}
		}, listed{}, []string{
			"spec.ips has 10.9.0.0 and 10.9.0.255, which no host in 10.9.0.0/24 can have: no pod is given it"}},
		{"only the broadcast address", func(p *v2beta1.SpiderIPPool) {
			p.Spec = v2beta1.IPPoolSpec{Subnet: "10.9.0.0/24", IPs: []string{"10.9.0.255"}}
		}, listed{}, []string{"spec.ips has 10.9.0.255, which no host in 10.9.0.0/24 can have: no pod is given it",
			"spec.ips has nothing else: the pool gives out no address; add ranges of its subnet"}},
		{"link-local", func(p *v2beta1.SpiderIPPool) {
			p.Spec = v2beta1.IPPoolSpec{Subnet: "169.254.7.0/24", IPs: []string{"169.254.7.9"}}
		}, listed{}, []string{"spec.subnet 169.254.7.0/24 is link-local: no router forwards it, and every interface " +
			"may choose addresses of it by itself"}},
		{"no addresses", func(p *v2beta1.SpiderIPPool) { p.Spec.IPs = nil }, listed{nodes: nodes},
			[]string{"spec.ips is empty: the pool gives out no address; add ranges of its subnet"}},
		{"nothing left", func(p *v2beta1.SpiderIPPool) { p.Spec.ExcludeIPs = []string{"172.91.0.0-172.91.255.255"} },
			listed{nodes: nodes},
			[]string{"spec.excludeIPs takes out all of spec.ips: the pool gives out no address"}},
		{"nodes cannot be read", func(*v2beta1.SpiderIPPool) {}, listed{err: errors.New("not synced")},
			[]string{"spec.ips was not compared with the addresses of nodes: not synced"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := poolWarnings(t.Context(), test.from, guidePool(test.change))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			for _, w := range got {
				if len(w) > 256 { // the API server cuts longer ones off
					t.Errorf("%q is too long", w)
				}
			}
		})
	}
}

// heard keeps the warnings that the API server sends with its answers.
type heard struct {
	mu   sync.Mutex
	said []string
}

func (h *heard) HandleWarningHeader(_ int, _, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.said = append(h.said, text)
}

// take returns the product's warnings since the last call.
func (h *heard) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ours []string
	for _, w := range h.said {
		if len(w) > 4 && w[:5] == "spec." {
			ours = append(ours, w)
		}
	}
	h.said = nil
	return ours
}

// Warnings reach whoever writes the pool, with its creation and with each change of its spec, but
// with no other change.
func TestWarningsReachTheAuthor(t *testing.T) {
	l := newLab(t, Options{})
	api := testapi.Start(t)
	h := &heard{}
	config := rest.CopyConfig(api.Config)
	config.WarningHandler = h
	author, err := client.New(config, client.Options{Scheme: api.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	wants := func(what string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, h.take()); diff != "" {
			t.Errorf("%s: warnings (-want +got):\n%s", what, diff)
		}
	}
	node := nodeWithAddresses("10-20-1-10", "172.91.0.110")
	status := node.Status
	l.create(&node)
	node.Status = status
	if err := l.c.Status().Update(t.Context(), &node); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.c.Delete(context.Background(), &node) })
	const collides = "spec.ips has 172.91.0.110, which is the address of node 10-20-1-10: a pod that is given it " +
		"takes the node's traffic; add it to spec.excludeIPs"
	l.eventually("the webhook knows the node", func() bool {
		if err := author.Create(t.Context(), guidePool(), client.DryRunAll); err != nil {
			t.Fatal(err)
		}
		return len(h.take()) == 1
	})
	pool := guidePool()
	patch := func(change func()) {
		t.Helper()
		before := pool.DeepCopy()
		change()
		if err := author.Patch(t.Context(), pool, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
	}
	if err := author.Create(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	wants("create", collides)
	patch(func() { pool.Labels["a"] = "b" })
	wants("label")
	patch(func() { pool.Spec.Disable = new(true) })
	wants("another field", collides)
	patch(func() { pool.Spec.ExcludeIPs = []string{"172.91.0.110"} })
	wants("excluded")
	patch(func() { pool.Spec.IPs, pool.Spec.ExcludeIPs = nil, nil })
	wants("emptied", "spec.ips is empty: the pool gives out no address; add ranges of its subnet")
}
