// SPDX-License-Identifier: Apache-2.0

package charts_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/operator"
	"spidernet.io/spiderpool/internal/testapi"
	"spidernet.io/spiderpool/internal/testchart"
)

// TestOperatorHasItsRights runs the sriov-operator as its service account: a node and the guide's
// policy become what the node shall have, and nothing is refused on the way.
func TestOperatorHasItsRights(t *testing.T) {
	api := testapi.Start(t)
	admin := api.Client(t)
	testchart.Install(t, admin, testchart.Objects(t, "sriov.yaml", testchart.RBACKinds...))
	output := &testchart.Log{}
	log := slog.New(slog.NewTextHandler(output, nil))
	klog.SetSlogLogger(log)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- operator.Run(ctx, operator.RunOptions{
			Config: testchart.As(api.Config, "spiderpool-sriov-operator", ""), Log: log,
			Name: "spiderpool-sriov-operator", Namespace: testchart.Namespace, HealthAddress: "127.0.0.1:0",
			ResourcePrefix: "spidernet.io", Drain: operator.DrainTiming{Settle: time.Millisecond,
				Poll: 100 * time.Millisecond},
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the process ended with: %v", err)
		}
		output.RequireNoRefusals(t)
		if t.Failed() {
			t.Logf("log of the process:\n%s", output)
		}
	})
	for _, o := range []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "operator-node",
			Labels: map[string]string{corev1.LabelOSStable: "linux"}}},
		&sriovv1.SriovNetworkNodePolicy{ObjectMeta: metav1.ObjectMeta{Name: "ib-sriov", Namespace: testchart.Namespace},
			Spec: sriovv1.SriovNetworkNodePolicySpec{
				ResourceName: "mellanoxibsriov", NodeSelector: map[string]string{corev1.LabelOSStable: "linux"},
				NumVfs: 12,
				NicSelector: sriovv1.SriovNetworkNicSelector{Vendor: "15b3", DeviceID: "1017",
					RootDevices: []string{"0000:86:00.0"}},
			}},
	} {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	var last error
	key := client.ObjectKey{Namespace: testchart.Namespace, Name: "operator-node"}
	try := func(what string, check func(context.Context) error) {
		t.Helper()
		err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, time.Minute, true,
			func(ctx context.Context) (bool, error) {
				last = check(ctx)
				return last == nil, nil
			})
		if err != nil {
			t.Fatalf("%s: %v: %v", what, err, last)
		}
	}
	state := &sriovv1.SriovNetworkNodeState{}
	try("the node's state", func(ctx context.Context) error { return admin.Get(ctx, key, state) })
	state.Status.Interfaces = sriovv1.InterfaceExts{{PciAddress: "0000:86:00.0", Vendor: "15b3", DeviceID: "1017",
		TotalVfs: 16, LinkType: "IB"}}
	if err := admin.Status().Update(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	try("what the node shall have", func(ctx context.Context) error {
		if err := admin.Get(ctx, key, state); err != nil {
			return err
		}
		if len(state.Spec.Interfaces) != 1 || state.Spec.Interfaces[0].NumVfs != 12 {
			return fmt.Errorf("interfaces %+v, want one with 12 VFs", state.Spec.Interfaces)
		}
		return nil
	})
	try("the eviction of a pod in the way", evict(t, admin, state))
	try("the removal of a pod that its kubelet refused", refuse(t, admin, state.Name))
	network := &sriovv1.SriovIBNetwork{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere", Namespace: testchart.Namespace},
		Spec: sriovv1.SriovIBNetworkSpec{ResourceName: "mellanoxibsriov", NetworkNamespace: "default"}}
	made := &cncfv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere", Namespace: "default"}}
	if err := admin.Create(t.Context(), network); err != nil {
		t.Fatal(err)
	}
	try("the network of another namespace",
		func(ctx context.Context) error { return admin.Get(ctx, client.ObjectKeyFromObject(made), made) })
	if err := admin.Delete(t.Context(), network); err != nil {
		t.Fatal(err)
	}
	try("the end of the network", func(ctx context.Context) error {
		if err := admin.Get(ctx, client.ObjectKeyFromObject(network), network); client.IgnoreNotFound(err) != nil ||
			err == nil {
			return fmt.Errorf("it is there: %v", err)
		}
		if err := admin.Get(ctx, client.ObjectKeyFromObject(made), made); client.IgnoreNotFound(err) != nil ||
			err == nil {
			return fmt.Errorf("its NetworkAttachmentDefinition is there: %v", err)
		}
		return nil
	})
	if err := admin.Delete(t.Context(),
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "operator-node"}}); err != nil {
		t.Fatal(err)
	}
	try("the end of the node's state", func(ctx context.Context) error {
		if err := admin.Get(ctx, key, state); client.IgnoreNotFound(err) != nil || err == nil {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	})
}

// evict lets drains be made, puts a pod in the way of the node's card, and tells whether it has been evicted.
func evict(t *testing.T, admin client.Client, state *sriovv1.SriovNetworkNodeState) func(context.Context) error {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "in-the-way"},
		Spec:       corev1.PodSpec{NodeName: state.Name, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}
	for _, o := range []client.Object{pod, &sriovv1.SriovOperatorConfig{
		ObjectMeta: metav1.ObjectMeta{Namespace: testchart.Namespace, Name: "default"},
		Spec:       sriovv1.SriovOperatorConfigSpec{DisableDrain: new(false)},
	}} {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	state.Status.ObservedGeneration = state.Generation
	state.Status.Plan = []sriovv1.PlannedChange{{PciAddress: "0000:86:00.0", Change: "numVfs 4 -> 12",
		Blocked: "in use", InUse: true, WaitsFor: []string{"default/in-the-way"}}}
	if err := admin.Status().Update(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context) error {
		err := admin.Get(ctx, client.ObjectKeyFromObject(pod), pod)
		if client.IgnoreNotFound(err) != nil || err == nil && pod.DeletionTimestamp == nil {
			return fmt.Errorf("it is there and not being deleted: %v", err)
		}
		return nil
	}
}

// refuse makes a pod that a controller owns fail as if its kubelet had found no device for it, and
// tells whether it is gone.
func refuse(t *testing.T, admin client.Client, node string) func(context.Context) error {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "refused", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "of", UID: "of-uid", Controller: new(true)},
		}},
		Spec: corev1.PodSpec{NodeName: node,
			Containers: []corev1.Container{{Name: "c", Image: "none", Resources: corev1.ResourceRequirements{
				Limits: corev1.ResourceList{"spidernet.io/mellanoxibsriov": resource.MustParse("1")},
			}}}},
	}
	if err := admin.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "UnexpectedAdmissionError"}
	if err := admin.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context) error {
		if err := admin.Get(ctx, client.ObjectKeyFromObject(pod), pod); client.IgnoreNotFound(err) != nil ||
			err == nil {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	}
}
