// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"spidernet.io/spiderpool/lab/internal/guest"
	"spidernet.io/spiderpool/lab/internal/pki"
	"spidernet.io/spiderpool/lab/internal/topology"
)

// makeIdentities writes the certificates of the cluster, the key to the machines, and each machine's seed.
func makeIdentities(l Layout, o Options) error {
	if err := issueAll(l, o); err != nil {
		return err
	}
	private, authorized, err := guest.NewKey()
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.key(), private, 0o600); err != nil {
		return fmt.Errorf("writing the lab's SSH key: %w", err)
	}
	for _, n := range topology.Nodes() {
		files, err := identity(l, o, n, authorized)
		if err != nil {
			return err
		}
		if err := writeSeed(l.seed(n.Name), files); err != nil {
			return fmt.Errorf("writing what makes a machine node %s: %w", n.Name, err)
		}
	}
	return nil
}

func issueAll(l Layout, o Options) error {
	a, err := pki.New(l.pki(""))
	if err != nil {
		return err
	}
	if err := a.ServiceAccountKeys(); err != nil {
		return err
	}
	return a.Issue(subjects(o)...)
}

// subjects are everybody who takes part, under the names that Kubernetes' default roles expect.
func subjects(o Options) []pki.Subject {
	local := []string{"127.0.0.1", "localhost"}
	hostURL := "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(o.APIPort))
	all := []pki.Subject{
		{File: "apiserver", Name: "kube-apiserver", SANs: append(local, topology.ControlPlane, topology.APIServiceIP,
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")},
		{File: "apiserver-kubelet", Name: "apiserver-kubelet-client", Group: "system:masters"},
		{File: "admin", Name: "admin", Group: "system:masters", Server: hostURL},
		{File: "controller-manager", Name: "system:kube-controller-manager", SANs: local, Server: insideURL},
		{File: "scheduler", Name: "system:kube-scheduler", SANs: local, Server: insideURL},
		{File: "proxy", Name: "system:kube-proxy", Server: nodesURL},
	}
	for _, n := range topology.Nodes() {
		all = append(all, pki.Subject{File: "kubelet-" + n.Name, Name: "system:node:" + n.Name, Group: "system:nodes",
			SANs: []string{n.Name, n.Address.String()}, Server: nodesURL})
	}
	return all
}

// identity are the files, by absolute path, that make a machine this node. They are laid over its
// root at every boot.
func identity(l Layout, o Options, n topology.Node, authorized []byte) (map[string][]byte, error) {
	conflist, err := primaryNetwork(n)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		"/etc/lab/node.env":              []byte(environment(n)),
		"/etc/lab/cards":                 []byte(cardAddresses(n.Cards(o.Cards))),
		"/etc/hostname":                  []byte(n.Name + "\n"),
		"/etc/hosts":                     []byte(hosts()),
		"/etc/modprobe.d/vhca.conf":      []byte("options vhca " + n.ModuleOptions(o.Cards) + "\n"),
		"/etc/cni/net.d/10-lab.conflist": conflist,
		"/root/.ssh/authorized_keys":     authorized,
	}
	for _, name := range []string{o.Registry(), registryInside} {
		files["/etc/containerd/certs.d/"+name+"/hosts.toml"] = []byte(registryHosts)
	}
	for name, content := range linkFiles(n.Cards(o.Cards)) {
		files["/etc/systemd/network/"+name] = []byte(content)
	}
	for path, from := range map[string]string{
		"/etc/kubernetes/pki/ca.crt":            "ca.crt",
		"/etc/kubernetes/pki/kubelet.crt":       "kubelet-" + n.Name + ".crt",
		"/etc/kubernetes/pki/kubelet.key":       "kubelet-" + n.Name + ".key",
		"/etc/kubernetes/kubelet.kubeconfig":    "kubelet-" + n.Name + ".kubeconfig",
		"/etc/kubernetes/kube-proxy.kubeconfig": "proxy.kubeconfig",
	} {
		b, err := os.ReadFile(l.pki(from))
		if err != nil {
			return nil, fmt.Errorf("reading a certificate for node %s: %w", n.Name, err)
		}
		files[path] = b
	}
	return files, nil
}

// environment is sourced by the machine's scripts.
func environment(n topology.Node) string {
	var routes []string
	for _, other := range topology.Nodes() {
		if other.Name != n.Name {
			routes = append(routes, other.PodCIDR.String()+">"+other.Address.String())
		}
	}
	return fmt.Sprintf("NODE=%s\nADDRESS=%s/%d\nGATEWAY=%s\n"+
		"POD_ROUTES='%s'\nCLUSTER_POD_CIDR=%s\nFABRIC_MTU=%d\nSSH_PORT=%d\nFILES=http://%s:%d\n",
		n.Name, n.Address, topology.NodeNetBits, topology.ControlPlane, strings.Join(routes, " "),
		topology.ClusterPodCIDR,
		topology.FabricMTU, topology.SSHPort, topology.ControlPlane, topology.FilePort)
}

// registryHosts leads containerd to the lab's registry, without TLS, also by the name that it has on
// the host: one reference to an image then serves for pushing and for pulling.
var registryHosts = fmt.Sprintf(
	"server = \"http://%[1]s\"\n\n[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", registryInside)

func hosts() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, n := range topology.Nodes() {
		fmt.Fprintf(&b, "%s %s\n", n.Address, n.Name)
	}
	return b.String()
}

// cardAddresses has a line "interface IPv4 IPv6" for each card.
func cardAddresses(cards []topology.Card) string {
	var b strings.Builder
	for _, c := range cards {
		fmt.Fprintf(&b, "%s %s %s\n", c.Interface, c.IPv4, c.IPv6)
	}
	return b.String()
}

// linkFiles are udev's naming of the cards' interfaces (systemd.link(5)). On real hardware udev
// makes these names from the slot that the firmware reports; the virtual card's bus has no slots,
// so they are written down: ibs5f0, and ibs5f0v3 for its VF 3.
func linkFiles(cards []topology.Card) map[string]string {
	files := map[string]string{}
	add := func(pci, name, alt string) {
		files["20-"+name+".link"] = fmt.Sprintf("[Match]\nPath=pci-%s\n\n[Link]\nName=%s\nAlternativeName=%s\n", pci,
			name, alt)
	}
	for _, c := range cards {
		add(c.PCI, c.Interface, c.AltName)
		for vf := range totalVFs {
			add(virtualFunction(c.PCI, vf), fmt.Sprintf("%sv%d", c.Interface, vf), fmt.Sprintf("%sv%d", c.AltName, vf))
		}
	}
	return files
}

// totalVFs is the vhca module's default.
const totalVFs = 16

// virtualFunction is the PCI address of VF vf of a card at function 0: VF Offset and VF Stride are
// 1, eight functions to a device.
func virtualFunction(pf string, vf int) string {
	return fmt.Sprintf("%s%02x.%d", pf[:len("0000:86:")], (vf+1)/8, (vf+1)%8)
}

// primaryNetwork is the cluster's ordinary network, as Calico or Flannel would install it:
// reference plugins, no masquerade.
func primaryNetwork(n topology.Node) ([]byte, error) {
	type object = map[string]any
	b, err := json.MarshalIndent(object{
		"cniVersion": "1.0.0", "name": "lab",
		"plugins": []object{{
			"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
			"ipam": object{
				"type": "host-local", "dataDir": "/run/cni-ipam",
				"ranges": [][]object{{{"subnet": n.PodCIDR.String()}}},
				"routes": []object{{"dst": "0.0.0.0/0"}},
			},
		}},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the primary network: %w", err)
	}
	return append(b, '\n'), nil
}

// writeSeed archives files by absolute path.
func writeSeed(path string, files map[string][]byte) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	w := tar.NewWriter(out)
	for name, b := range files {
		mode := int64(0o644)
		if strings.HasSuffix(name, ".key") || strings.HasSuffix(name, ".kubeconfig") ||
			strings.HasSuffix(name, "authorized_keys") {
			mode = 0o600
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(name, "/"), Mode: mode,
			Size: int64(len(b))}); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return w.Close()
}
