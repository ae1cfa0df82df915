// SPDX-License-Identifier: Apache-2.0

package networks

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// facts is what the cluster tells of its networks, as written; each list is empty where it tells nothing.
type facts struct {
	kubeadmPods, kubeadmServices []string
	managerPods, managerServices []string
	nodePods                     []string
	serviceObjects               []string
	calicoPods, ciliumPods       []string
	// problems are reads that failed for another reason than absence.
	problems []string
}

// source is one place to learn from, with its name for the status.
type source struct {
	name  string
	cidrs []string
}

// decide makes the status of what was learnt. What remains unknown only
// leaves routes out: pods start all the same.
func decide(podCIDRType string, f facts) v2beta1.CoordinatorStatus {
	pods, podSource := firstKnown(podSources(podCIDRType, f))
	services, serviceSource := firstKnown([]source{
		{"ServiceCIDR objects", f.serviceObjects},
		{"ConfigMap kube-system/kubeadm-config", f.kubeadmServices},
		{"arguments of the kube-controller-manager pod", f.managerServices},
	})
	status := v2beta1.CoordinatorStatus{Phase: v2beta1.CoordinatorSynced, OverlayPodCIDR: pods, ServiceCIDR: services}
	var unknown, known []string
	switch {
	case podCIDRType == v2beta1.PodCIDRNone:
		known = append(known, "pod networks left out: spec.podCIDRType is none")
	case len(pods) == 0:
		unknown = append(unknown, fmt.Sprintf("pod networks unknown (looked at: %s)",
			names(podSources(podCIDRType, f))))
	default:
		known = append(known, "pod networks from "+podSource)
	}
	if len(services) == 0 {
		unknown = append(unknown,
			"service networks unknown (looked at: ServiceCIDR objects, ConfigMap kube-system/kubeadm-config, the "+
				"kube-controller-manager pod)")
	} else {
		known = append(known, "service networks from "+serviceSource)
	}
	status.Reason = strings.Join(append(known, f.problems...), "; ")
	if len(unknown) > 0 {
		status.Phase = v2beta1.CoordinatorNotReady
		parts := append(unknown, f.problems...)
		status.Reason = strings.Join(parts, "; ") +
			": pods start without routes to them; list them in spec.hijackCIDR to have the routes"
	}
	return status
}

func podSources(podCIDRType string, f facts) []source {
	cluster := []source{
		{"ConfigMap kube-system/kubeadm-config", f.kubeadmPods},
		{"arguments of the kube-controller-manager pod", f.managerPods},
		{"spec.podCIDRs of the nodes", f.nodePods},
	}
	calico := source{"Calico's IPPools", f.calicoPods}
	cilium := source{"Cilium's configuration", f.ciliumPods}
	switch podCIDRType {
	case v2beta1.PodCIDRNone:
		return nil
	case v2beta1.PodCIDRCluster:
		return cluster
	case v2beta1.PodCIDRCalico:
		return []source{calico}
	case v2beta1.PodCIDRCilium:
		return []source{cilium}
	}
	return append([]source{calico, cilium}, cluster...)
}

func names(sources []source) string {
	var out []string
	for _, s := range sources {
		out = append(out, s.name)
	}
	return strings.Join(out, ", ")
}

// firstKnown is the first source that has a readable network.
func firstKnown(sources []source) ([]string, string) {
	for _, s := range sources {
		if cidrs := normalize(s.cidrs); len(cidrs) > 0 {
			return cidrs, s.name
		}
	}
	return nil, ""
}

// normalize masks, sorts and drops doubles and what is no network, such as one of IPv4 written as
// IPv6, to which no packet goes.
func normalize(cidrs []string) []string {
	var prefixes []netip.Prefix
	for _, c := range cidrs {
		if p, err := netip.ParsePrefix(strings.TrimSpace(c)); err == nil && !p.Addr().Is4In6() {
			prefixes = append(prefixes, p.Masked())
		}
	}
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits())
	})
	var out []string
	for _, p := range slices.Compact(prefixes) {
		out = append(out, p.String())
	}
	return out
}

// gather reads every place that may tell. Absence is no error; other failures become problems of the facts.
func gather(ctx context.Context, r client.Reader) facts {
	var f facts
	for _, read := range []func(context.Context, client.Reader, *facts) error{
		readKubeadm, readControllerManager, readNodes, readServiceCIDRs, readCalico, readCilium,
	} {
		if err := read(ctx, r, &f); err != nil && !absent(err) {
			f.problems = append(f.problems, err.Error())
		}
	}
	return f
}

// absent is a missing object or a missing kind, as of an add-on that is not installed. A refusal is
// none: what we may not read could be the better answer, and the status says so.
func absent(err error) bool {
	return apierrors.IsNotFound(err) || meta.IsNoMatchError(err)
}

func readKubeadm(ctx context.Context, r client.Reader, f *facts) error {
	var m corev1.ConfigMap
	if err := r.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: "kubeadm-config"}, &m); err != nil {
		return fmt.Errorf("read ConfigMap kube-system/kubeadm-config: %w", err)
	}
	var conf struct {
		Networking struct {
			PodSubnet     string `json:"podSubnet"`
			ServiceSubnet string `json:"serviceSubnet"`
		} `json:"networking"`
	}
	if err := yaml.Unmarshal([]byte(m.Data["ClusterConfiguration"]), &conf); err != nil {
		return fmt.Errorf("read ClusterConfiguration of ConfigMap kube-system/kubeadm-config: %w", err)
	}
	f.kubeadmPods, f.kubeadmServices = split(conf.Networking.PodSubnet), split(conf.Networking.ServiceSubnet)
	return nil
}

func readControllerManager(ctx context.Context, r client.Reader, f *facts) error {
	var pods corev1.PodList
	err := r.List(ctx, &pods, client.InNamespace(metav1.NamespaceSystem),
		client.MatchingLabels{"component": "kube-controller-manager"})
	if err != nil {
		return fmt.Errorf("list the kube-controller-manager pods: %w", err)
	}
	for _, p := range pods.Items {
		for _, c := range p.Spec.Containers {
			for _, arg := range slices.Concat(c.Command, c.Args) {
				if v, ok := strings.CutPrefix(arg, "--cluster-cidr="); ok {
					f.managerPods = append(f.managerPods, split(v)...)
				}
				if v, ok := strings.CutPrefix(arg, "--service-cluster-ip-range="); ok {
					f.managerServices = append(f.managerServices, split(v)...)
				}
			}
		}
	}
	return nil
}

func readNodes(ctx context.Context, r client.Reader, f *facts) error {
	var nodes corev1.NodeList
	if err := r.List(ctx, &nodes); err != nil {
		return fmt.Errorf("list the nodes: %w", err)
	}
	for _, n := range nodes.Items {
		f.nodePods = append(f.nodePods, n.Spec.PodCIDRs...)
	}
	return nil
}

func readServiceCIDRs(ctx context.Context, r client.Reader, f *facts) error {
	var list networkingv1.ServiceCIDRList
	if err := r.List(ctx, &list); err != nil {
		return fmt.Errorf("list the ServiceCIDRs: %w", err)
	}
	for _, s := range list.Items {
		f.serviceObjects = append(f.serviceObjects, s.Spec.CIDRs...)
	}
	return nil
}

func readCalico(ctx context.Context, r client.Reader, f *facts) error {
	pools, err := listUnstructured(ctx, r, schema.GroupVersionKind{Group: "crd.projectcalico.org", Version: "v1",
		Kind: "IPPoolList"})
	if err != nil {
		return err
	}
	for _, p := range pools {
		cidr, _, _ := unstructured.NestedString(p.Object, "spec", "cidr")
		if disabled, _, _ := unstructured.NestedBool(p.Object, "spec", "disabled"); !disabled {
			f.calicoPods = append(f.calicoPods, cidr)
		}
	}
	return nil
}

// readCilium takes the pool that Cilium cuts the nodes' shares from, else the shares.
func readCilium(ctx context.Context, r client.Reader, f *facts) error {
	var m corev1.ConfigMap
	if err := r.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: "cilium-config"}, &m); err != nil {
		return fmt.Errorf("read ConfigMap kube-system/cilium-config: %w", err)
	}
	if strings.HasPrefix(m.Data["ipam"], "cluster-pool") {
		for _, key := range []string{"cluster-pool-ipv4-cidr", "cluster-pool-ipv6-cidr"} {
			f.ciliumPods = append(f.ciliumPods, split(m.Data[key])...)
		}
	}
	if len(f.ciliumPods) > 0 {
		return nil
	}
	nodes, err := listUnstructured(ctx, r, schema.GroupVersionKind{Group: "cilium.io", Version: "v2",
		Kind: "CiliumNodeList"})
	if err != nil {
		return err
	}
	for _, n := range nodes {
		cidrs, _, _ := unstructured.NestedStringSlice(n.Object, "spec", "ipam", "podCIDRs")
		f.ciliumPods = append(f.ciliumPods, cidrs...)
	}
	return nil
}

func listUnstructured(ctx context.Context, r client.Reader, gvk schema.GroupVersionKind) ([]unstructured.Unstructured,
	error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(gvk)
	if err := r.List(ctx, list); err != nil {
		return nil, fmt.Errorf("list %s of %s: %w", strings.TrimSuffix(gvk.Kind, "List"), gvk.Group, err)
	}
	return list.Items, nil
}

// split takes the comma- or space-separated lists that the sources use.
func split(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
}
