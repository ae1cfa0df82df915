// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net"
	"strconv"

	"spidernet.io/spiderpool/lab/internal/cell"
	"spidernet.io/spiderpool/lab/internal/topology"
	"spidernet.io/spiderpool/lab/internal/vm"
)

const (
	nodeBridge   = "nodes"
	fabricBridge = "fabric"
	etcdURL      = "http://127.0.0.1:2379"
)

// insideURL is the API server as the control plane's own programs reach it.
var insideURL = "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(topology.APIPort))

// nodesURL is the API server as the machines reach it.
var nodesURL = "https://" + net.JoinHostPort(topology.ControlPlane, strconv.Itoa(topology.APIPort))

// registryInside is the container registry as the machines reach it.
var registryInside = net.JoinHostPort(topology.ControlPlane, strconv.Itoa(topology.RegistryPort))

// plan is everything the cell is to hold.
func plan(l Layout, o Options, p parts, kvm bool) cell.Spec {
	s := cell.Spec{
		Bridges: []cell.Bridge{
			{Name: nodeBridge, Address: fmt.Sprintf("%s/%d", topology.ControlPlane, topology.NodeNetBits)},
			{Name: fabricBridge, MTU: topology.FabricMTU},
		},
		Programs: append(controlPlane(l), registryProgram(l)),
		Files: cell.Files{Address: net.JoinHostPort(topology.ControlPlane, strconv.Itoa(topology.FilePort)),
			Dir: l.images()},
		Control: l.control(),
		Forward: []string{loopback(topology.APIPort), registryInside},
	}
	for _, n := range topology.Nodes() {
		s.Taps = append(s.Taps,
			cell.Tap{Name: vm.Tap(n, 0), Bridge: nodeBridge},
			cell.Tap{Name: vm.Tap(n, 1), Bridge: fabricBridge, MTU: topology.FabricMTU})
		s.Routes = append(s.Routes, cell.Route{Network: n.PodCIDR.String(), Via: n.Address.String()})
		s.Sockets = append(s.Sockets, cell.Socket{Path: l.ssh(n.Name), Target: net.JoinHostPort(n.Address.String(),
			strconv.Itoa(topology.SSHPort))})
		s.Programs = append(s.Programs, machine(l, o, p, n, kvm))
	}
	return s
}

// machine is the emulator of one node. A machine that ends is not started again: somebody should
// see that it did.
func machine(l Layout, o Options, p parts, n topology.Node, kvm bool) cell.Program {
	args := vm.Args(vm.Config{
		Node: n, Kernel: p.machine.Kernel, Initramfs: p.machine.Initramfs, Disk: p.machine.Disk, Store: p.store,
		Seed: l.seed(n.Name),
		Run:  l.run(), Log: l.log(n.Name + ".console"), MemoryMiB: o.MemoryMiB, CPUs: o.CPUs, KVM: kvm,
	})
	return cell.Program{
		Name: "machine " + n.Name,
		Args: append([]string{vm.Program}, args...),
		Env:  []string{"TMPDIR=" + l.scratch()}, // where QEMU keeps what the machine writes
		Log:  l.log(n.Name + ".qemu"),
	}
}

// controlPlane are the four programs of the control plane.
func controlPlane(l Layout) []cell.Program {
	program := func(name, after string, args ...string) cell.Program {
		return cell.Program{Name: name, Args: append([]string{l.program(name)}, args...), Log: l.log(name),
			After: after, Restart: true}
	}
	return []cell.Program{
		program("etcd", "", etcdArgs(l)...),
		program("kube-apiserver", etcdURL+"/health", apiserverArgs(l)...),
		program("kube-controller-manager", insideURL+"/readyz", controllerManagerArgs(l)...),
		program("kube-scheduler", insideURL+"/readyz", schedulerArgs(l)...),
	}
}

// registryProgram is the cell's own program, which is the lab command (RegistryCommand), once more.
func registryProgram(l Layout) cell.Program {
	args := []string{"/proc/self/exe", RegistryCommand, l.Registry(), registryInside}
	return cell.Program{Name: "registry", Args: args, Log: l.log("registry"), Restart: true}
}

// RegistryCommand is the command that the program which Up starts must have beside that of the
// cell: it calls registry.Serve with a directory and an address.
const RegistryCommand = "registry"

func etcdArgs(l Layout) []string {
	return []string{
		"--data-dir=" + l.etcd(), "--log-level=warn",
		"--unsafe-no-fsync", // a lab's data need not survive the host's loss of power
		"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
		"--listen-peer-urls=http://127.0.0.1:2380",
	}
}

func apiserverArgs(l Layout) []string {
	return []string{
		"--etcd-servers=" + etcdURL,
		"--bind-address=0.0.0.0", "--secure-port=" + strconv.Itoa(topology.APIPort), "--advertise-address=" +
			topology.ControlPlane,
		"--service-cluster-ip-range=" + topology.ServiceCIDR,
		"--allow-privileged", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--client-ca-file=" + l.pki("ca.crt"),
		"--tls-cert-file=" + l.pki("apiserver.crt"), "--tls-private-key-file=" + l.pki("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + l.pki("sa.pub"), "--service-account-signing-key-file=" + l.pki("sa.key"),
		"--kubelet-certificate-authority=" + l.pki("ca.crt"),
		"--kubelet-client-certificate=" + l.pki("apiserver-kubelet.crt"), "--kubelet-client-key=" +
			l.pki("apiserver-kubelet.key"),
		"--kubelet-preferred-address-types=InternalIP",
		// webhooks are reached at their endpoints: no kube-proxy runs beside the API server
		"--enable-aggregator-routing",
	}
}

func controllerManagerArgs(l Layout) []string {
	return []string{
		"--kubeconfig=" + l.pki("controller-manager.kubeconfig"), "--use-service-account-credentials",
		"--leader-elect=false", "--bind-address=127.0.0.1",
		"--root-ca-file=" + l.pki("ca.crt"), "--service-account-private-key-file=" + l.pki("sa.key"),
		"--tls-cert-file=" + l.pki("controller-manager.crt"), "--tls-private-key-file=" +
			l.pki("controller-manager.key"),
		"--controllers=*,-cloud-node-lifecycle-controller",
		"--node-monitor-grace-period=60s", // an emulated machine under load may be slow to report
	}
}

func schedulerArgs(l Layout) []string {
	return []string{
		"--kubeconfig=" + l.pki("scheduler.kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1",
		"--tls-cert-file=" + l.pki("scheduler.crt"), "--tls-private-key-file=" + l.pki("scheduler.key"),
	}
}
