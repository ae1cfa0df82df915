// SPDX-License-Identifier: Apache-2.0

package networks

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// texts is a cluster that has kubeadm's ConfigMap and one pod of the controller manager.
type texts struct {
	client.Reader
	kubeadm, args string
}

func (c texts) Get(_ context.Context, _ client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	o.(*corev1.ConfigMap).Data = map[string]string{"ClusterConfiguration": c.kubeadm}
	return nil
}

func (c texts) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	list.(*corev1.PodList).Items = []corev1.Pod{
		{Spec: corev1.PodSpec{Containers: []corev1.Container{{Command: strings.Split(c.args, "\n")}}}}}
	return nil
}

// FuzzClusterTexts: whatever kubeadm's configuration and the arguments say, what is learnt are
// networks without host bits, each once and in order, the same when they are read anew; and what
// does not parse is named.
func FuzzClusterTexts(f *testing.F) {
	f.Add(
		"apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: v1.35.0\nnetworking:\n  "+
			"dnsDomain: cluster.local\n  podSubnet: 10.233.64.0/18,fd85:ee78:d8a6:8607::1:0/112\n  serviceSubnet: "+
			"10.233.0.0/18\n",
		"kube-controller-manager\n--cluster-cidr=10.244.0.0/16,fd00::/48\n--service-cluster-ip-range=10.96.0.0/12")
	f.Add("networking: {podSubnet: 10.1.0.9/16, serviceSubnet: '10.2.0.0/16 fd02::/112'}",
		"--cluster-cidr=\n--cluster-cidr")
	f.Add("networking: {podSubnet: 10}", "--cluster-cidr=::ffff:10.0.0.0/104,10.0.0.0/8")
	f.Add("networking: [", "--service-cluster-ip-range=x,,fe80::1%eth0/64")
	f.Add("a: &a [*a]", "")
	f.Add("", "--cluster-cidr=0.0.0.0/0,::/0")
	f.Fuzz(func(t *testing.T, kubeadm, args string) {
		var got facts
		if err := readKubeadm(context.Background(), texts{kubeadm: kubeadm}, &got); err != nil &&
			!strings.Contains(err.Error(), "ClusterConfiguration of ConfigMap kube-system/kubeadm-config") {
			t.Fatal(err)
		}
		if err := readControllerManager(context.Background(), texts{args: args}, &got); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{v2beta1.PodCIDRAuto, v2beta1.PodCIDRCluster, v2beta1.PodCIDRNone} {
			status := decide(kind, got)
			checkNetworks(t, status.OverlayPodCIDR, len(got.kubeadmPods)+len(got.managerPods))
			checkNetworks(t, status.ServiceCIDR, len(got.kubeadmServices)+len(got.managerServices))
			known := len(status.ServiceCIDR) > 0 && (kind == v2beta1.PodCIDRNone || len(status.OverlayPodCIDR) > 0)
			if (status.Phase == v2beta1.CoordinatorSynced) != known || status.Reason == "" {
				t.Fatalf("%s of %+v: %+v", kind, got, status)
			}
		}
	})
}

func checkNetworks(t *testing.T, cidrs []string, most int) {
	t.Helper()
	if len(cidrs) > most || !slices.Equal(normalize(cidrs), cidrs) {
		t.Fatalf("%q of %d texts, and then %q", cidrs, most, normalize(cidrs))
	}
	for i, text := range cidrs {
		p, err := netip.ParsePrefix(text)
		if err != nil || p != p.Masked() || slices.Index(cidrs, text) != i || p.Addr().Is4In6() {
			t.Fatalf("network %q of %q: %v", text, cidrs, err)
		}
	}
}
