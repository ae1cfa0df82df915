// SPDX-License-Identifier: Apache-2.0

package attach

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/internal/cni"
	"spidernet.io/spiderpool/internal/cni/coordinator"
	"spidernet.io/spiderpool/internal/cni/ibsriov"
	"spidernet.io/spiderpool/internal/cni/ipoib"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ib"
)

// kernelNode is a node on a real kernel with a virtual InfiniBand card of three VFs.
func kernelNode(t *testing.T, kernel *host.Host, pfPCI string) *node {
	t.Helper()
	must(t, kernel.SetNumVFs(pfPCI, 0))
	must(t, kernel.SetNumVFs(pfPCI, 3))
	t.Cleanup(func() { must(t, kernel.SetNumVFs(pfPCI, 0)) })
	pf, err := hosttest.FindPF(kernel, pfPCI)
	must(t, err)
	for _, vf := range pf.VFs {
		must(t, kernel.SetVFGUID(pfPCI, vf.Index, ib.VFGUID(pf.RDMA.PortGUID, vf.Index)))
		must(t, kernel.BindVF(vf.PCI))
	}
	// udev, where there is one, names the netdevs a moment later
	_ = exec.Command("udevadm", "settle", "--timeout=60").Run()
	n := &node{t: t, path: filepath.Join(t.TempDir(), "ledger"), pods: map[string]*corev1.Pod{},
		networks: map[string]*cncfv1.NetworkAttachmentDefinition{},
		devices:  map[string][]string{resource: {pf.VFs[0].PCI, pf.VFs[1].PCI}}, statuses: map[string]string{},
		held: map[string]netip.Addr{}}
	n.network("kube-system", "ib-sriov", confIBSRIOV, resource)
	n.network("kube-system", "ipoib", strings.Replace(confIPoIB, "ibs5f0", pf.Link.Name, 1), "")
	n.options = Options{Kernel: kernel, Addresses: n, Pods: n, Networks: n, Devices: n, Status: n, Events: n,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), ConfDir: t.TempDir(), Root: t.TempDir(),
		Plugins: map[string]cni.Plugin{ibsriov.Type: &ibsriov.Plugin{Kernel: kernel},
			ipoib.Type:       &ipoib.Plugin{Kernel: kernel},
			coordinator.Type: &coordinator.Plugin{Kernel: kernel, Cluster: n}}}
	n.start()
	return n
}

// look is what a sandbox could leave behind on a real node.
func look(t *testing.T, kernel *host.Host) (out []string) {
	t.Helper()
	links, err := kernel.Links(host.NodeNS)
	must(t, err)
	for _, l := range links {
		out = append(out, fmt.Sprintf("link %s of %q up=%t", l.Name, l.PCI, l.Up))
	}
	devices, err := kernel.RDMADevices(host.NodeNS)
	must(t, err)
	for _, d := range devices {
		out = append(out, fmt.Sprintf("rdma %s of %s", d.Name, d.PCI))
	}
	pfs, err := kernel.PFs()
	must(t, err)
	for _, pf := range pfs {
		for _, vf := range pf.VFs {
			out = append(out, fmt.Sprintf("vf %s state %s", vf.PCI, vf.State))
		}
	}
	routes, err := kernel.Routes(host.NodeNS, 500)
	must(t, err)
	for _, r := range routes {
		out = append(out, fmt.Sprintf("route %s", r.Dst))
	}
	slices.Sort(out)
	return out
}

// The guide's pods on the kernel itself, three times each, with DEL before and after the end of the
// pod's namespace.
func TestGuidePodsOnTheKernel(t *testing.T) {
	pf := os.Getenv("HOSTTEST_IB_PF")
	if pf == "" {
		t.Skip("needs an InfiniBand card: run it in the lab's virtual machine with HOSTTEST_IB_PF")
	}
	kernel, err := host.New(host.Options{})
	must(t, err)
	n := kernelNode(t, kernel, pf)
	for round := range 3 {
		for _, network := range []string{"ib-sriov", "ipoib"} {
			for _, dead := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/dead=%t/round %d", network, dead, round), func(t *testing.T) {
					n.t = t
					before := look(t, kernel)
					name := fmt.Sprintf("p%d%s%t", round, network, dead)
					ns := host.NS("/run/netns/" + name)
					run(t, "ip", "netns", "add", name)
					// gone already when all is well
					t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
					n.pod(name, annotations(network))
					handle := func(command string) {
						t.Helper()
						if resp := n.service.Handle(context.Background(), request(command, name, "sandbox-"+name,
							ns)); resp.Error != nil {
							t.Fatalf("%s: %s", command, resp.Error)
						}
					}
					handle("ADD")
					handle("ADD")
					handle("CHECK")
					n.checkKernelPod(kernel, network, ns)
					if dead {
						run(t, "ip", "netns", "del", name)
					}
					handle("DEL")
					handle("DEL")
					n.collect()
					if !dead {
						links, err := kernel.Links(ns)
						must(t, err)
						if len(links) != 1 {
							t.Errorf("links left in the pod: %+v", links)
						}
						run(t, "ip", "netns", "del", name)
					}
					diff := cmp.Diff(before, look(t, kernel))
					// the kernel clears a dead namespace away in its own time, and so does udev
					// name what has come home
					for range 50 {
						if diff == "" {
							break
						}
						time.Sleep(200 * time.Millisecond)
						diff = cmp.Diff(before, look(t, kernel))
					}
					if diff != "" {
						t.Errorf("left behind: %s", diff)
					}
					if recorded(n) || len(n.held) > 0 {
						t.Errorf("still recorded; addresses %v", n.held)
					}
				})
			}
		}
	}
	for _, timing := range n.service.Timings() {
		t.Logf("%s %s %s %s", timing.Verb, timing.NetworkType, timing.Total.Round(time.Millisecond), timing.phaseText())
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func (n *node) checkKernelPod(kernel *host.Host, network string, ns host.NS) {
	n.t.Helper()
	l, err := kernel.LinkByName(ns, "eth0")
	must(n.t, err)
	if !l.Up || l.Kind != "ipoib" {
		n.t.Errorf("eth0: %+v", l)
	}
	devices, err := kernel.RDMADevices(ns)
	must(n.t, err)
	if want := map[string]int{"ib-sriov": 1, "ipoib": 0}[network]; len(devices) != want {
		n.t.Errorf("RDMA devices in the pod: %+v", devices)
	}
	if _, err := kernel.LinkByName(ns, "veth0"); err != nil {
		n.t.Error(err)
	}
}
