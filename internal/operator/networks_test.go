// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"fmt"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
)

func (r *rig) nad(namespace, name string) *cncfv1.NetworkAttachmentDefinition {
	r.t.Helper()
	n := &cncfv1.NetworkAttachmentDefinition{}
	err := r.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, n)
	must(r.t, client.IgnoreNotFound(err))
	if err != nil {
		return nil
	}
	return n
}

func (r *rig) waitNAD(namespace, name string, problem func(*cncfv1.NetworkAttachmentDefinition) string) {
	r.t.Helper()
	r.wait("NetworkAttachmentDefinition "+namespace+"/"+name, func() string { return problem(r.nad(namespace, name)) })
}

func there(n *cncfv1.NetworkAttachmentDefinition) string {
	if n == nil {
		return "it is not there"
	}
	return ""
}

func gone(n *cncfv1.NetworkAttachmentDefinition) string {
	if n != nil {
		return "it is still there"
	}
	return ""
}

func (r *rig) waitNetwork(name, reason string, parts ...string) *v1.SriovIBNetwork {
	r.t.Helper()
	n := &v1.SriovIBNetwork{}
	r.wait("network "+name, func() string {
		if err := r.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, n); err != nil {
			return err.Error()
		}
		c := meta.FindStatusCondition(n.Status.Conditions, v1.ConditionReady)
		if c == nil || c.Reason != reason || c.ObservedGeneration != n.Generation {
			return fmt.Sprintf("condition %+v, want %s of generation %d", c, reason, n.Generation)
		}
		for _, part := range parts {
			if !strings.Contains(c.Message, part) {
				return fmt.Sprintf("message lacks %q: %s", part, c.Message)
			}
		}
		return ""
	})
	return n
}

func (r *rig) changeNetwork(name string, change func(*v1.SriovIBNetwork)) error {
	r.t.Helper()
	n := &v1.SriovIBNetwork{}
	must(r.t, r.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, n))
	before := n.DeepCopy()
	change(n)
	return r.Patch(context.Background(), n, client.MergeFrom(before))
}

func TestNetworks(t *testing.T) {
	r := startWith(t, Options{Namespace: namespace, ResourcePrefix: "spidernet.io"})
	// namespaces do not go without their controller
	must(t,
		client.IgnoreAlreadyExists(r.Create(t.Context(),
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "apps"}})))
	network := &v1.SriovIBNetwork{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "ib"},
		Spec: v1.SriovIBNetworkSpec{ResourceName: "mellanoxibsriov", IPAM: `{"type": "spiderpool"}`,
			LinkState: "enable"}}
	must(t, r.Create(t.Context(), network))
	const config = `{"cniVersion":"1.0.0","name":"ib","type":"ib-sriov","link_state":"enable","ipam":{"type":"spiderpool"}}`

	t.Run("in its own namespace", func(t *testing.T) {
		n := r.waitNetwork("ib", reasonApplied, "kube-system/ib is in place")
		got := r.nad(namespace, "ib")
		if got.Spec.Config != config || got.ResourceName() != "spidernet.io/mellanoxibsriov" ||
			got.Annotations[v1.AnnotationOwner] != n.OwnerKey() || !metav1.IsControlledBy(got, n) {
			t.Errorf("%+v", got)
		}
		if len(n.Finalizers) > 0 || n.Status.NetworkAttachmentDefinition != "kube-system/ib" {
			t.Errorf("finalizers %v, status %+v", n.Finalizers, n.Status)
		}
		r.wantEvent("ib", reasonApplied)
	})

	t.Run("changed by others", func(t *testing.T) {
		got := r.nad(namespace, "ib")
		before := got.DeepCopy()
		got.Spec.Config, got.Annotations["theirs"] = "{}", "stays"
		must(t, r.Patch(t.Context(), got, client.MergeFrom(before)))
		r.waitNAD(namespace, "ib", func(n *cncfv1.NetworkAttachmentDefinition) string {
			if n == nil || n.Spec.Config != config || n.Annotations["theirs"] != "stays" {
				return fmt.Sprintf("%+v", n)
			}
			return ""
		})
		must(t, r.Delete(t.Context(), got))
		r.waitNAD(namespace, "ib", there)
	})

	t.Run("moves", func(t *testing.T) {
		must(t, r.changeNetwork("ib", func(n *v1.SriovIBNetwork) { n.Spec.NetworkNamespace = "apps" }))
		n := r.waitNetwork("ib", reasonApplied, "apps/ib is in place")
		r.waitNAD(namespace, "ib", gone)
		if r.nad("apps", "ib") == nil || !controllerutil.ContainsFinalizer(n, v1.FinalizerNetwork) ||
			n.Status.NetworkAttachmentDefinition != "apps/ib" {
			t.Errorf("finalizers %v, status %+v", n.Finalizers, n.Status)
		}
		must(t, r.changeNetwork("ib", func(n *v1.SriovIBNetwork) { n.Spec.NetworkNamespace = "" }))
		n = r.waitNetwork("ib", reasonApplied, "kube-system/ib is in place")
		r.waitNAD("apps", "ib", gone)
		if r.nad(namespace, "ib") == nil || len(n.Finalizers) > 0 {
			t.Errorf("finalizers %v", n.Finalizers)
		}
		must(t, r.changeNetwork("ib", func(n *v1.SriovIBNetwork) { n.Spec.NetworkNamespace = "nowhere" }))
		r.waitNetwork("ib", reasonNoNamespace, "namespace nowhere does not exist", "spec.networkNamespace")
		must(t, r.changeNetwork("ib", func(n *v1.SriovIBNetwork) { n.Spec.NetworkNamespace = "apps" }))
		r.waitNetwork("ib", reasonApplied, "apps/ib is in place")
	})

	t.Run("goes", func(t *testing.T) {
		must(t, r.Delete(t.Context(), network))
		r.waitNAD("apps", "ib", gone)
		r.wait("the network to go", func() string {
			if err := r.Get(t.Context(), client.ObjectKeyFromObject(network),
				&v1.SriovIBNetwork{}); !apierrors.IsNotFound(err) {
				return fmt.Sprint("still there: ", err)
			}
			return ""
		})
	})

	t.Run("a name that is taken", func(t *testing.T) {
		theirs := &cncfv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "taken"},
			Spec: cncfv1.NetworkAttachmentDefinitionSpec{Config: "theirs"}}
		must(t, r.Create(t.Context(), theirs))
		taken := &v1.SriovIBNetwork{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "taken"},
			Spec: v1.SriovIBNetworkSpec{ResourceName: "mellanoxibsriov", NetworkNamespace: "apps"}}
		must(t, r.Create(t.Context(), taken))
		r.waitNetwork("taken", reasonNameTaken, "apps/taken is there already", "left alone")
		r.wantEvent("taken", reasonNameTaken)
		must(t, r.Delete(t.Context(), theirs))
		r.waitNetwork("taken", reasonApplied)
		must(t, r.Delete(t.Context(), taken))
		r.waitNAD("apps", "taken", gone)
	})
}

func TestNetworkAdmission(t *testing.T) {
	r := startWith(t, Options{Namespace: namespace, ResourcePrefix: "spidernet.io"})
	bad := &v1.SriovIBNetwork{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "bad"},
		Spec: v1.SriovIBNetworkSpec{ResourceName: "mellanoxibsriov", IPAM: `{"type": spiderpool}`}}
	err := r.Create(t.Context(), bad.DeepCopy())
	if err == nil || !strings.Contains(err.Error(), "spec.ipam") || !strings.Contains(err.Error(),
		"line 1, column 10") {
		t.Fatalf("error %v", err)
	}
	theirs := bad.DeepCopy()
	theirs.Namespace = "default"
	must(t, r.Create(t.Context(), theirs))
	if got := r.warnings.take(); !strings.Contains(got, "networks count only in namespace kube-system") {
		t.Errorf("warnings:\n%s", got)
	}
	must(t, r.Delete(t.Context(), theirs))
}

// What admission never saw is told in the condition, and what was made before stays.
func TestInvalidNetwork(t *testing.T) {
	r := startWith(t, Options{Namespace: namespace, ResourcePrefix: "spidernet.io"})
	network := &v1.SriovIBNetwork{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "late"},
		Spec: v1.SriovIBNetworkSpec{ResourceName: "mellanoxibsriov"}}
	must(t, r.Create(t.Context(), network))
	t.Cleanup(func() {
		must(t, r.Delete(context.Background(), network))
		// nobody collects garbage here
		must(t,
			client.IgnoreNotFound(r.Delete(context.Background(),
				&cncfv1.NetworkAttachmentDefinition{ObjectMeta: network.ObjectMeta})))
	})
	r.waitNetwork("late", reasonApplied)
	before := r.nad(namespace, "late").Spec.Config
	must(t,
		r.Delete(t.Context(),
			&admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "testapi"}}))
	must(t, r.changeNetwork("late", func(n *v1.SriovIBNetwork) { n.Spec.MetaPluginsConfig = `{"type": "a"` }))
	r.waitNetwork("late", reasonInvalid, "spec.metaPlugins", "line 1, column 13")
	if got := r.nad(namespace, "late").Spec.Config; got != before {
		t.Errorf("half-made: %s", got)
	}
}
