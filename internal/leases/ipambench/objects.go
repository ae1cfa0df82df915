// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/ipam"
)

// namespace holds the pods.
const namespace = "default"

// atOnce is how many objects are prepared at a time.
const atOnce = 16

// makeNodes makes the nodes of n agents.
func (b *bench) makeNodes(ctx context.Context, n int) error {
	for i := range n {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i)}}
		if err := b.server.admin.Create(ctx, node); client.IgnoreAlreadyExists(err) != nil {
			return fmt.Errorf("create node %s: %w", node.Name, err)
		}
	}
	return nil
}

// makePool makes a pool of addresses that no other pool has, and waits until the controller, if it
// runs, has completed it.
func (b *bench) makePool(ctx context.Context, size int) (*v2beta1.SpiderIPPool, error) {
	b.pools++
	first := b.next
	last := later(first, size-1)
	b.next = last.Next()
	pool := &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%d", b.pools)},
		Spec:       v2beta1.IPPoolSpec{Subnet: "10.0.0.0/8", IPs: []string{fmt.Sprintf("%s-%s", first, last)}},
	}
	if err := b.server.admin.Create(ctx, pool); err != nil {
		return nil, fmt.Errorf("create pool %s: %w", pool.Name, err)
	}
	if b.controller == nil {
		return pool, nil
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return pool, until(ctx, "the controller has completed pool "+pool.Name, 50*time.Millisecond, func() (bool, error) {
		err := b.server.admin.Get(ctx, client.ObjectKeyFromObject(pool), pool)
		return len(pool.Finalizers) > 0 && pool.Status.TotalIPCount != nil, err
	})
}

// later is the n-th address after an IPv4 one.
func later(ip netip.Addr, n int) netip.Addr {
	b := ip.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// makePods makes pods, spread over the first nodes, that want an address of the pool. shift moves
// them by as many nodes.
func (b *bench) makePods(ctx context.Context, pool string, count, nodes, shift int) ([]job, error) {
	jobs := make([]job, count)
	numbers := make([]int, count)
	for i := range numbers {
		numbers[i] = i
	}
	b.podSets++
	set := b.podSets
	err := each(ctx, atOnce, numbers, func(ctx context.Context, i int) error {
		at := (i + shift) % nodes
		pod := newPod(fmt.Sprintf("pod-%d-%d", set, i), nodeName(at))
		if err := b.server.admin.Create(ctx, pod); err != nil {
			return fmt.Errorf("create pod %s: %w", pod.Name, err)
		}
		jobs[i] = job{agent: at, request: ipam.Request{
			Pod: ipam.PodFrom(pod), Interface: "eth0", Sandbox: "sandbox-" + pod.Name, DefaultIPv4: []string{pool},
		}}
		return nil
	})
	return jobs, err
}

func newPod(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "none"}},
			TerminationGracePeriodSeconds: new(int64(0)),
		},
	}
}

// clean removes what scenarios left. No agent may run: it would make the leases of its pods again.
func (b *bench) clean(ctx context.Context) error {
	b.say("removing pods, leases and pools")
	ctx, cancel := context.WithTimeout(ctx, 2*startLimit)
	defer cancel()
	admin := b.server.admin
	kinds := []client.Object{&v2beta1.SpiderIPLease{}, &v2beta1.SpiderEndpoint{}, &corev1.Pod{},
		&v2beta1.SpiderIPPool{}}
	err := each(ctx, len(kinds), kinds, func(ctx context.Context, kind client.Object) error {
		options := []client.DeleteAllOfOption{client.GracePeriodSeconds(0)}
		if namespaced, err := admin.IsObjectNamespaced(kind); err != nil {
			return fmt.Errorf("learn whether %T has a namespace: %w", kind, err)
		} else if namespaced {
			options = append(options, client.InNamespace(namespace))
		}
		if err := admin.DeleteAllOf(ctx, kind, options...); err != nil {
			return fmt.Errorf("remove every %T: %w", kind, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return until(ctx, "pools are gone", 100*time.Millisecond, func() (bool, error) {
		var left v2beta1.SpiderIPPoolList
		err := admin.List(ctx, &left)
		return len(left.Items) == 0, err
	})
}
