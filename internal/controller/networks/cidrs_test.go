// SPDX-License-Identifier: Apache-2.0

package networks

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

func TestDecide(t *testing.T) {
	all := facts{
		kubeadmPods: []string{"10.1.0.0/16"}, kubeadmServices: []string{"10.2.0.0/16"},
		managerPods: []string{"10.3.0.0/16"}, managerServices: []string{"10.4.0.0/16"},
		nodePods: []string{"10.5.1.0/24", "10.5.0.0/24", "10.5.1.9/24"}, serviceObjects: []string{"10.6.0.0/16"},
		calicoPods: []string{"10.7.0.0/16"}, ciliumPods: []string{"10.8.0.0/16"},
	}
	without := func(change func(*facts)) facts {
		f := all
		change(&f)
		return f
	}
	for _, tt := range []struct {
		name, cidrType        string
		facts                 facts
		phase, pods, services string
		reason                string
	}{
		{"auto", "auto", all, "Synced", "10.7.0.0/16", "10.6.0.0/16",
			"pod networks from Calico's IPPools; service networks from ServiceCIDR objects"},
		{"auto without calico", "auto", without(func(f *facts) { f.calicoPods = []string{""} }), "Synced",
			"10.8.0.0/16", "10.6.0.0/16", "pod networks from Cilium's configuration"},
		{"cluster", "cluster", all, "Synced", "10.1.0.0/16", "10.6.0.0/16",
			"pod networks from ConfigMap kube-system/kubeadm-config"},
		{"cluster without kubeadm", "cluster", without(func(f *facts) { f.kubeadmPods, f.serviceObjects = nil, nil }),
			"Synced", "10.3.0.0/16", "10.2.0.0/16", "service networks from ConfigMap kube-system/kubeadm-config"},
		{"cluster from nodes", "cluster", without(func(f *facts) {
			f.kubeadmPods, f.managerPods, f.serviceObjects, f.kubeadmServices = nil, nil, nil, nil
		}), "Synced", "10.5.0.0/24 10.5.1.0/24", "10.4.0.0/16",
			"pod networks from spec.podCIDRs of the nodes; service networks from arguments of the " +
				"kube-controller-manager pod"},
		{"calico", "calico", all, "Synced", "10.7.0.0/16", "10.6.0.0/16", ""},
		{"calico absent", "calico", without(func(f *facts) { f.calicoPods = nil }), "NotReady", "", "10.6.0.0/16",
			"pod networks unknown (looked at: Calico's IPPools): pods start without routes to them; list them in " +
				"spec.hijackCIDR"},
		{"cilium", "cilium", all, "Synced", "10.8.0.0/16", "10.6.0.0/16", ""},
		{"none", "none", all, "Synced", "", "10.6.0.0/16",
			"pod networks left out: spec.podCIDRType is none; service networks from"},
		{"refused", "auto", facts{nodePods: []string{"10.5.0.0/24"}, serviceObjects: []string{"10.6.0.0/16"},
			problems: []string{"list IPPool: forbidden"}}, "Synced", "10.5.0.0/24", "10.6.0.0/16",
			"service networks from ServiceCIDR objects; list IPPool: forbidden"},
		{"nothing", "auto", facts{problems: []string{"list the nodes: timeout"}}, "NotReady", "", "",
			"service networks unknown (looked at: ServiceCIDR objects, ConfigMap kube-system/kubeadm-config, the " +
				"kube-controller-manager pod); list the nodes: timeout: pods start"},
	} {
		got := decide(tt.cidrType, tt.facts)
		if got.Phase != tt.phase || strings.Join(got.OverlayPodCIDR, " ") != tt.pods || strings.Join(got.ServiceCIDR,
			" ") != tt.services || !strings.Contains(got.Reason, tt.reason) {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

func TestGather(t *testing.T) {
	calicoKind := schema.GroupVersionKind{Group: "crd.projectcalico.org", Version: "v1", Kind: "IPPool"}
	pool := func(name, cidr string, disabled bool) client.Object {
		u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"cidr": cidr,
			"disabled": disabled}}}
		u.SetGroupVersionKind(calicoKind)
		u.SetName(name)
		return u
	}
	system := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "kube-system", Name: name} }
	manager := &corev1.Pod{ObjectMeta: system("kcm"), Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Command: []string{"kube-controller-manager", "--cluster-cidr=10.3.0.0/16,fd03::/48"},
		Args:    []string{"--service-cluster-ip-range=10.4.0.0/16"},
	}}}}
	manager.Labels = map[string]string{"component": "kube-controller-manager"}
	r := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(
		&corev1.ConfigMap{ObjectMeta: system("kubeadm-config"),
			Data: map[string]string{
				"ClusterConfiguration": "networking: {podSubnet: 10.1.0.0/16, serviceSubnet: " +
					"'10.2.0.0/16,fd02::/112'}"}},
		&corev1.ConfigMap{ObjectMeta: system("cilium-config"), Data: map[string]string{"ipam": "cluster-pool",
			"cluster-pool-ipv4-cidr": "10.8.0.0/16 10.9.0.0/16"}},
		manager,
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"},
			Spec: corev1.NodeSpec{PodCIDRs: []string{"10.5.0.0/24"}}},
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
			Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.6.0.0/16"}}},
		pool("a", "10.7.0.0/16", false), pool("b", "10.77.0.0/16", true),
	).Build()
	want := facts{
		kubeadmPods: []string{"10.1.0.0/16"}, kubeadmServices: []string{"10.2.0.0/16", "fd02::/112"},
		managerPods: []string{"10.3.0.0/16", "fd03::/48"}, managerServices: []string{"10.4.0.0/16"},
		nodePods: []string{"10.5.0.0/24"}, serviceObjects: []string{"10.6.0.0/16"},
		calicoPods: []string{"10.7.0.0/16"}, ciliumPods: []string{"10.8.0.0/16", "10.9.0.0/16"},
	}
	if diff := cmp.Diff(want, gather(t.Context(), r), cmp.AllowUnexported(facts{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestGatherKeepsWhatItCan(t *testing.T) {
	broken := errors.New("connection refused")
	r := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).WithObjects(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"},
			Spec: corev1.NodeSpec{PodCIDRs: []string{"10.5.0.0/24"}}},
	).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return broken
		},
	}).Build()
	got := gather(t.Context(), r)
	if diff := cmp.Diff([]string{"10.5.0.0/24"}, got.nodePods); diff != "" {
		t.Error(diff)
	}
	want := []string{
		"read ConfigMap kube-system/kubeadm-config: connection refused",
		"read ConfigMap kube-system/cilium-config: connection refused",
	}
	if diff := cmp.Diff(want, got.problems); diff != "" {
		t.Error(diff)
	}
	status := decide(v2beta1.PodCIDRAuto, got)
	if status.Phase != v2beta1.CoordinatorNotReady || !strings.Contains(status.Reason, "connection refused") {
		t.Errorf("%+v", status)
	}
}
