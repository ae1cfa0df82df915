// SPDX-License-Identifier: Apache-2.0

package simapi_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// Requests that nobody thought of have the same results at both servers, and the same events.
func TestRandomRequests(t *testing.T) {
	const requests = 500
	c, random := newServer(t).Client("c", nil), rand.New(rand.NewPCG(1, 1))
	actual := &hand{cluster: newRealCluster(t, "random")}
	simulated := &hand{cluster: newCluster(t, "random", c, func() cache.Cache { return c.Informers() })}
	events := []func() []string{actual.watch(), simulated.watch()}
	for n := range requests {
		r := request{
			verb: random.IntN(5), kind: random.IntN(3), n: random.IntN(2),
			age: random.IntN(5), change: random.IntN(6), value: random.IntN(3), option: random.IntN(6),
		}
		want, got := actual.do(t.Context(), r), simulated.do(t.Context(), r)
		if got != want {
			t.Fatalf("request %d, %+v:\nsimulated %s\nreal      %s", n, r, got, want)
		}
	}
	want, got := events[0](), events[1]()
	equal(t, "events", got, want)
	if len(want) < requests/10 {
		t.Errorf("only %d events: the requests do too little", len(want))
	}
}

// watch follows leases and pods in another process, and returns what ends that and tells what it saw.
func (h *hand) watch() (end func() []string) {
	c := h.process()
	leases, _ := h.follow(c, &v2beta1.SpiderIPLease{})
	pods, _ := h.follow(c, &corev1.Pod{})
	h.start(c)
	h.eventually("synced", func() bool { return c.WaitForCacheSync(h.t.Context()) })
	return func() []string {
		h.create(h.lease(9))
		h.create(h.pod("last", ""))
		h.eventually("the last events", func() bool {
			return slices.Contains(leases.read(), "add 10.0.0.9 n1") && slices.Contains(pods.read(), "add last")
		})
		return append(leases.read(), pods.read()...)
	}
}

// request is chosen without looking at a server. The age tells which former version of the object
// it starts from.
type request struct{ verb, kind, n, age, change, value, option int }

var verbs = []string{"create", "update", "status", "delete", "get"}

// hand makes requests at one server, with objects that this server has returned.
type hand struct {
	*cluster
	held map[string][]client.Object // every version seen, the last one first
	err  error
}

func (h *hand) do(ctx context.Context, r request) string {
	fresh := []client.Object{h.lease(r.n), h.pool(),
		h.pod(fmt.Sprint("p", r.n), []string{"", "node"}[r.value%2])}[r.kind]
	key := fmt.Sprintf("%T %s", fresh, fresh.GetName())
	o, versions := fresh, h.held[key]
	// A pod may not change its node, and the simulated server would not notice.
	if isPod := r.kind == 2; r.verb != 0 && (r.age < 4 || isPod) && len(versions) > 0 {
		o = versions[min(max(r.age-2, 0), len(versions)-1)].DeepCopyObject().(client.Object)
	}
	mutate(o, r)
	sent := o.DeepCopyObject().(client.Object)
	switch verbs[r.verb] {
	case "create":
		o.SetResourceVersion("")
		h.err = h.Create(ctx, o)
	case "update":
		h.err = h.Update(ctx, o)
	case "status":
		h.err = h.Status().Update(ctx, o)
	case "delete":
		h.err = h.Delete(ctx, o, deleteOptions(o, r)...)
	case "get":
		h.err = h.Get(ctx, client.ObjectKeyFromObject(o), o)
	}
	text := fmt.Sprintf("%s %s: %s", verbs[r.verb], key, outcome(h.err))
	if h.err != nil || verbs[r.verb] == "delete" {
		return text
	}
	if h.held == nil {
		h.held = map[string][]client.Object{}
	}
	h.held[key] = append([]client.Object{o.DeepCopyObject().(client.Object)}, versions...)
	newVersion, newUID := o.GetResourceVersion() != sent.GetResourceVersion(), o.GetUID() != sent.GetUID()
	return text + fmt.Sprintf(" new version: %t, new UID: %t, %s", newVersion, newUID, describe(o))
}

func outcome(err error) string {
	if status, ok := err.(apierrors.APIStatus); ok {
		return fmt.Sprint(apierrors.ReasonForError(err), status.Status().Code)
	}
	return fmt.Sprint(err)
}

// mutate changes one thing, or nothing.
func mutate(o client.Object, r request) {
	switch r.change {
	case 0:
		o.SetFinalizers([][]string{nil, {"example.org/a"}, {"example.org/a", "example.org/b"}}[r.value])
	case 1:
		o.SetLabels(map[string]string{"l": fmt.Sprint(r.value)})
	case 2:
		o.SetGeneration(9)
		o.SetCreationTimestamp(metav1.Time{})
	case 3:
		if verbs[r.verb] != "status" { // the first status that is sent empty is a change to JSON
			return
		}
	}
	switch o := o.(type) {
	case *v2beta1.SpiderIPLease:
		o.Spec.Node = fmt.Sprint("n", r.value)
	case *v2beta1.SpiderIPPool:
		o.Spec.IPs = []string{fmt.Sprint("192.0.2.", r.value)}
		o.Status.TotalIPCount = new(int64(r.value))
	case *corev1.Pod:
		o.Spec.Containers[0].Image = fmt.Sprint("image-", r.value)
		o.Status.Message = fmt.Sprint("message ", r.value)
		if r.option == 0 {
			o.Status.Phase = corev1.PodSucceeded
		}
	}
}

func deleteOptions(o client.Object, r request) []client.DeleteOption {
	uid, version := o.GetUID(), o.GetResourceVersion()
	switch r.option {
	case 0:
		return []client.DeleteOption{client.Preconditions{UID: &uid, ResourceVersion: &version}}
	case 1:
		return []client.DeleteOption{client.GracePeriodSeconds(0), client.Preconditions{UID: &uid}}
	case 2:
		wrong := types.UID("wrong")
		return []client.DeleteOption{client.Preconditions{UID: &wrong}}
	case 3:
		return []client.DeleteOption{client.GracePeriodSeconds(int64(10 * (r.value + 1)))}
	case 4:
		return []client.DeleteOption{client.GracePeriodSeconds(0)}
	}
	return nil
}

// describe writes what both servers decide alike.
func describe(o client.Object) string {
	grace := "none"
	if g := o.GetDeletionGracePeriodSeconds(); g != nil {
		grace = fmt.Sprint(*g)
	}
	text := fmt.Sprintf("generation %d, ends %t in %s, %v %v",
		o.GetGeneration(), o.GetDeletionTimestamp() != nil, grace, o.GetFinalizers(), o.GetLabels())
	switch o := o.(type) {
	case *v2beta1.SpiderIPLease:
		text += " " + o.Spec.Node
	case *v2beta1.SpiderIPPool:
		text += fmt.Sprint(o.Spec.IPs, o.Status.TotalIPCount != nil && *o.Status.TotalIPCount > 1)
	case *corev1.Pod:
		text += fmt.Sprint(o.Spec.Containers[0].Image, o.Status.Message, o.Status.Phase)
	}
	return text
}
