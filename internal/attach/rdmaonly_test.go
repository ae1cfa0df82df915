// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"encoding/json"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/nad"
)

// rendered makes the network of a SpiderMultusConfig of VFs, as admission and controller do.
func (n *node) rendered(name string, change func(*v2beta1.MultusCNIConfigSpec)) {
	n.t.Helper()
	c := &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name}}
	c.Spec = v2beta1.MultusCNIConfigSpec{CniType: new(v2beta1.IBSriovCNI),
		IbSriovConfig: &v2beta1.SpiderIBSRIOVCniConfig{ResourceName: new(resource)}}
	change(&c.Spec)
	v2beta1.DefaultMultusConfig(c)
	if errs, warnings := v2beta1.ValidateMultusConfig(c); len(errs)+len(warnings) > 0 {
		n.t.Fatal(errs, warnings)
	}
	d, err := nad.Render(c)
	must(n.t, err)
	n.networks["kube-system/"+name] = d
}

// A network for RDMA alone has no address management and, by default, a coordinator all the same.
// It stands beside a first interface with an address, and takes a VF and no address.
func TestRDMAOnly(t *testing.T) {
	for _, test := range guidePods {
		t.Run("beside "+test.name, func(t *testing.T) {
			n := newNode(t, test.options)
			n.rendered("rdma-only", func(s *v2beta1.MultusCNIConfigSpec) { s.DisableIPAM = new(true) })
			a := annotations(test.network)
			a[cncfv1.AnnotationNetworks] = "kube-system/rdma-only"
			n.pod("p", a)
			if test.network == "ipoib" {
				n.devices = map[string][]string{resource: {vf0}}
			}
			before := n.snapshot()
			n.mustCall("ADD", "p")
			n.checkRDMAOnly()
			n.mustCall("CHECK", "p")
			n.mustCall("DEL", "p")
			n.collect()
			n.same(before, "after DEL")
		})
	}
}

func (n *node) checkRDMAOnly() {
	t := n.t
	t.Helper()
	link, err := n.fake.LinkByName(podNS, "net1")
	must(t, err)
	addresses, err := n.fake.Addresses(podNS, link.Index)
	must(t, err)
	if !link.Up || len(addresses) > 0 || len(n.held) != 1 {
		t.Errorf("net1 is up: %t, with addresses %v; held are %v; want it up, without an address", link.Up, addresses,
			n.held)
	}
	devices, err := n.fake.RDMADevices(podNS)
	must(t, err)
	found := false
	for _, d := range devices {
		found = found || d.PCI == link.PCI
	}
	if !found {
		t.Errorf("the RDMA device of net1 (%s) is not among the pod's: %+v", link.PCI, devices)
	}
	must(t, n.service.writeStatus(t.Context(), "sandbox-p"))
	var status []cncfv1.NetworkStatus
	must(t, json.Unmarshal([]byte(n.statuses["default/p"]), &status))
	if len(status) != 2 || len(status[1].IPs) != 0 || status[1].DeviceInfo == nil {
		t.Errorf("network-status %+v", status)
	}
}

// Without pools a network is not without addresses: they come from wherever the pod, its namespace
// or the cluster names them.
func TestNetworkWithoutPools(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.rendered("no-pools", func(*v2beta1.MultusCNIConfigSpec) {})
	n.pod("p", annotations("no-pools"))
	n.mustCall("ADD", "p")
	if r, ok := n.asked["p eth0"]; !ok || len(r.DefaultIPv4)+len(r.DefaultIPv6) > 0 {
		t.Errorf("asked for %+v, want an address of no particular pool", n.asked)
	}
}

// The pod's word on its default route is checked while its first network is attached, against all
// that it is to have.
func TestDefaultRouteNIC(t *testing.T) {
	n := newNode(t, hosttest.Options{})
	n.pod("p", map[string]string{cncfv1.AnnotationDefaultNetwork: "kube-system/ipoib",
		cncfv1.AnnotationNetworks:             "kube-system/ib-sriov",
		"ipam.spidernet.io/default-route-nic": "net2"})
	n.devices = map[string][]string{resource: {vf0}}
	before := n.snapshot()
	const want = `attach network kube-system/ipoib as eth0: plugin coordinator: annotation ipam.spidernet.io/default-route-nic is "net2", and the pod's interfaces are eth0, net1; name one of them, or remove the annotation`
	if resp := n.call("ADD", "p"); resp.Error == nil || resp.Error.Msg+"; "+resp.Error.Details != want {
		t.Errorf("\n got %s\nwant %s", resp.Error, want)
	}
	n.collect()
	n.same(before, "after the refusal")

	n.pods["default/p"].Annotations["ipam.spidernet.io/default-route-nic"] = "net1"
	n.mustCall("ADD", "p")
	link, err := n.fake.LinkByName(podNS, "net1")
	must(t, err)
	routes, err := n.fake.Routes(podNS, 0)
	must(t, err)
	var holders []int
	for _, r := range routes {
		if r.Dst.Bits() == 0 {
			holders = append(holders, r.Index)
		}
	}
	if len(holders) != 1 || holders[0] != link.Index {
		t.Errorf("default routes on the links %v, want one, on net1 (%d)", holders, link.Index)
	}
}
