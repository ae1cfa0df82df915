// SPDX-License-Identifier: Apache-2.0

package charts_test

import (
	"context"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/testapi"
	"spidernet.io/spiderpool/internal/testchart"
)

const ownNode, otherNode = "node-a", "node-b"

// cluster is an API server with the chart's rights and admission policy, and clients.
type cluster struct {
	admin client.Client
	// agent has a token of ownNode; nodeless has one that names no node, as a Secret's has.
	agent, nodeless client.Client
}

func newCluster(t *testing.T) cluster {
	t.Helper()
	api := testapi.Start(t)
	c := cluster{admin: api.Client(t)}
	testchart.Install(t, c.admin, testchart.Objects(t, "sriov.yaml",
		append(testchart.RBACKinds, "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")...))
	for node, to := range map[string]*client.Client{ownNode: &c.agent, "": &c.nodeless} {
		var err error
		if *to, err = client.New(testchart.As(api.Config, "spiderpool-agent", node),
			client.Options{Scheme: api.Scheme}); err != nil {
			t.Fatal(err)
		}
	}
	c.waitForPolicy(t)
	return c
}

// waitForPolicy waits until the API server has taken up the policy, which it does some time after
// it is stored.
func (c cluster) waitForPolicy(t *testing.T) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 30*time.Second, true,
		func(ctx context.Context) (bool, error) {
			last = c.agent.Create(ctx, lease("wait", otherNode, nil), client.DryRunAll)
			return refusedByPolicy(last), nil
		})
	if err != nil {
		t.Fatalf("the API server does not enforce the policy: %v; last answer: %v", err, last)
	}
}

func refusedByPolicy(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "ValidatingAdmissionPolicy")
}

func lease(name, node string, owner *v2beta1.LeaseOwner) *v2beta1.SpiderIPLease {
	l := &v2beta1.SpiderIPLease{
		ObjectMeta: metav1.ObjectMeta{Name: "pool." + name},
		Spec:       v2beta1.IPLeaseSpec{Pool: "pool", IP: "10.0.0.1", Node: node},
	}
	if owner != nil {
		l.Spec.Pod = &v2beta1.LeasePod{Namespace: "default", Name: owner.Name + "-0", UID: "1", Interface: "eth0",
			Owner: owner}
	}
	return l
}

// ordinal gives a lease to another pod of its owner.
func ordinal(l *v2beta1.SpiderIPLease, pod string) *v2beta1.SpiderIPLease {
	l.Spec.Pod.Name = pod
	return l
}

func endpoint(name, node string) *v2beta1.SpiderEndpoint {
	return &v2beta1.SpiderEndpoint{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Status: v2beta1.WorkloadEndpointStatus{Current: v2beta1.PodIPAllocation{UID: "1", Node: node,
			IPs: []v2beta1.IPAllocationDetail{}}},
	}
}

func pod(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

// annotated is a pod of the agent's node that has a label and an annotation of somebody else's.
func annotated(name string) *corev1.Pod {
	p := pod(name, ownNode)
	p.Labels, p.Annotations = map[string]string{"app": "a"}, map[string]string{"other": "as it was"}
	return p
}

func heartbeat(name string) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: testchart.Namespace}}
}

func nodeState(name string) *sriovv1.SriovNetworkNodeState {
	return &sriovv1.SriovNetworkNodeState{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: testchart.Namespace}}
}

// TestAgentWritesOnlyItsOwnNode asks a real API server, with the chart's roles and policy, what an
// agent may write.
func TestAgentWritesOnlyItsOwnNode(t *testing.T) {
	c := newCluster(t)
	sticky := &v2beta1.LeaseOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db"}
	other := &v2beta1.LeaseOwner{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web"}
	// have creates an object as administrator, for a test to change.
	have := func(t *testing.T, o client.Object) client.Object {
		t.Helper()
		if err := c.admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			// The test's own context has ended by now.
			if err := c.admin.Delete(context.Background(), o,
				client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		})
		return o
	}
	create := func(o client.Object) func(*testing.T, client.Client) error {
		return func(t *testing.T, agent client.Client) error { return agent.Create(t.Context(), o) }
	}
	remove := func(o client.Object) func(*testing.T, client.Client) error {
		return func(t *testing.T, agent client.Client) error { return agent.Delete(t.Context(), have(t, o)) }
	}
	changeLease := func(from, to *v2beta1.SpiderIPLease) func(*testing.T, client.Client) error {
		return func(t *testing.T, agent client.Client) error {
			to.ResourceVersion = have(t, from).GetResourceVersion()
			return agent.Update(t.Context(), to)
		}
	}
	annotate := func(o *corev1.Pod, change func(*corev1.Pod)) func(*testing.T, client.Client) error {
		return func(t *testing.T, agent client.Client) error {
			before := have(t, o).DeepCopyObject().(client.Object)
			change(o)
			return agent.Status().Patch(t.Context(), o, client.MergeFrom(before))
		}
	}
	networkStatus := func(p *corev1.Pod) {
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, "k8s.v1.cni.cncf.io/network-status", "[]")
	}
	reportState := func(name string) func(*testing.T, client.Client) error {
		return func(t *testing.T, agent client.Client) error {
			state := have(t, nodeState(name)).(*sriovv1.SriovNetworkNodeState)
			before := state.DeepCopy()
			state.Status.SyncStatus = sriovv1.SyncStatusSucceeded
			return agent.Status().Patch(t.Context(), state, client.MergeFrom(before))
		}
	}
	renew := func(name string) func(*testing.T, client.Client) error {
		return func(t *testing.T, agent client.Client) error {
			l := have(t, heartbeat(name)).(*coordinationv1.Lease)
			l.Spec.HolderIdentity = ptr.To(ownNode)
			return agent.Update(t.Context(), l)
		}
	}
	tests := map[string]struct {
		do   func(*testing.T, client.Client) error
		want string // part of the refusal; empty when it is allowed
	}{
		"lease: create own": {create(lease("create-own", ownNode, nil)), ""},
		"lease: create for another": {create(lease("create-other", otherNode, nil)),
			"may not write an address lease of node node-b"},
		"lease: use own stock": {changeLease(lease("use", ownNode, nil), lease("use", ownNode, sticky)),
			""},
		"lease: give to another": {changeLease(lease("give", ownNode, nil), lease("give", otherNode, nil)),
			"address lease of node node-b"},
		"lease: take another's stock": {changeLease(lease("take", otherNode, nil), lease("take", ownNode, nil)),
			"may not write"},
		"lease: take with its owner": {changeLease(lease("move", otherNode, sticky),
			lease("move", ownNode, sticky)), ""},
		"lease: take with another's owner": {changeLease(lease("steal", otherNode, sticky),
			lease("steal", ownNode, other)), "may not write"},
		"lease: take that of another ordinal": {changeLease(lease("ordinal", otherNode, sticky),
			ordinal(lease("ordinal", ownNode, sticky), "db-1")), "may not write"},
		"lease: delete own":       {remove(lease("delete-own", ownNode, nil)), ""},
		"lease: delete another's": {remove(lease("delete-other", otherNode, nil)), "address lease of node node-b"},
		"endpoint: create own":    {create(endpoint("own", ownNode)), ""},
		"endpoint: create for another": {create(endpoint("other", otherNode)),
			"SpiderEndpoint of a pod on another node"},
		"endpoint: delete another's":   {remove(endpoint("delete-other", otherNode)), "cannot delete resource"},
		"node state: own status":       {reportState(ownNode), ""},
		"node state: another's status": {reportState(otherNode), "SriovNetworkNodeState of node node-b"},
		"pod: annotate own":            {annotate(pod("own", ownNode), networkStatus), ""},
		"pod: annotate another's": {annotate(pod("other", otherNode), networkStatus),
			"status of a pod on another node"},
		"pod: change the status of own": {annotate(pod("own-status", ownNode),
			func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
			"and nothing else"},
		"pod: label own": {annotate(pod("own-label", ownNode),
			func(p *corev1.Pod) { p.Labels = map[string]string{"app": "bank"} }),
			"and nothing else"},
		"pod: annotate own otherwise": {annotate(pod("own-annotation", ownNode), func(p *corev1.Pod) {
			metav1.SetMetaDataAnnotation(&p.ObjectMeta, "k8s.v1.cni.cncf.io/networks", "other")
		}), "and nothing else"},
		"pod: change what another annotated": {annotate(annotated("own-changed"),
			func(p *corev1.Pod) { p.Annotations["other"] = "changed" }), "and nothing else"},
		"pod: remove what another annotated": {annotate(annotated("own-removed"),
			func(p *corev1.Pod) { delete(p.Annotations, "other") }), "and nothing else"},
		"pod: annotate own beside others": {annotate(annotated("own-beside"), networkStatus), ""},
		"pod: finalize own": {annotate(pod("own-finalizer", ownNode),
			func(p *corev1.Pod) { p.Finalizers = []string{"a.b/c"} }), "and nothing else"},
		"pod: delete own":       {remove(pod("delete", ownNode)), "cannot delete resource"},
		"heartbeat: create own": {create(heartbeat("spiderpool-agent-" + ownNode)), ""},
		"heartbeat: renew another's": {renew("spiderpool-agent-" + otherNode),
			"may only write the lease spiderpool-agent-node-a"},
		"heartbeat: take a leader election": {renew("kube-scheduler"), "may only write the lease"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := tt.do(t, c.agent)
			if tt.want == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if tt.want != "" && (err == nil || !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("answer %v, want a refusal with %q", err, tt.want)
			}
		})
	}
	t.Run("token without a node", func(t *testing.T) {
		err := c.nodeless.Create(t.Context(), lease("nodeless", ownNode, nil))
		if !refusedByPolicy(err) || !strings.Contains(err.Error(), "names no node") {
			t.Errorf("answer %v, want a refusal because the token names no node", err)
		}
	})
	t.Run("others are not bound", func(t *testing.T) {
		have(t, lease("admin", otherNode, nil))
	})
}
