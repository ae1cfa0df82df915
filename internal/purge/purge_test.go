// SPDX-License-Identifier: Apache-2.0

package purge

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/cni/coordinator"
	"spidernet.io/spiderpool/internal/cniinstall"
	"spidernet.io/spiderpool/internal/host"
	"spidernet.io/spiderpool/internal/host/hosttest"
	"spidernet.io/spiderpool/internal/ib"
	"spidernet.io/spiderpool/internal/ledger"
)

// rig is a node that the agent has worked on and left.
type rig struct {
	t      *testing.T
	kernel *hosttest.Fake
	o      Options
	out    strings.Builder
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, kernel: hosttest.GuideNode()}
	root := t.TempDir()
	r.o = Options{
		Root: root, Kernel: r.kernel, Ledger: "/var/lib/spidernet/ledger.db",
		Socket: "/var/run/spidernet/spiderpool.sock",
		BinDir: "/opt/cni/bin", ConfDir: "/etc/cni/net.d", Plugins: []string{"multus", "ib-sriov"},
		KubeletDir: "/var/lib/kubelet", ResourcePrefix: "spidernet.io", HostTable: 500, Do: true, Out: &r.out,
	}
	// another product's
	must(t, r.kernel.AddRule(host.NodeNS, host.Rule{Priority: 1000, Table: 500,
		From: netip.MustParsePrefix("192.0.2.0/24")}))
	r.write("/opt/cni/bin/ib-sriov", "another product's")
	r.write("/opt/cni/bin/bridge", "another product's")
	r.write("/etc/cni/net.d/10-primary.conf", `{"cniVersion":"1.0.0","name":"primary","type":"bridge"}`)
	r.write("/run/k8s.cni.cncf.io/devinfo/dp/example.com-x-0000:86:00.1-device.json", "{}")
	r.write("/var/lib/kubelet/device-plugins/kubelet.sock", "")
	return r
}

func (r *rig) write(path, text string) {
	r.t.Helper()
	must(r.t, os.MkdirAll(filepath.Dir(r.o.at(path)), 0o755))
	must(r.t, os.WriteFile(r.o.at(path), []byte(text), 0o755))
}

// install does what an agent leaves behind.
func (r *rig) install() {
	for _, v6 := range []bool{false, true} {
		must(r.t, r.kernel.AddRule(host.NodeNS, coordinator.NodeRule(r.o.HostTable, v6)))
	}
	r.t.Helper()
	r.write("/shim", "shim")
	must(r.t, cniinstall.InstallBinaries(r.o.at("/shim"), r.o.at(r.o.BinDir), r.o.Plugins))
	must(r.t, os.Remove(r.o.at("/shim")))
	_, err := cniinstall.WriteConf(cniinstall.ConfOptions{Dir: r.o.at(r.o.ConfDir), Namespace: "kube-system",
		Socket: r.o.Socket})
	must(r.t, err)
	r.write("/run/k8s.cni.cncf.io/devinfo/dp/spidernet.io-mellanoxibsriov-0000:86:00.1-device.json", "{}")
	r.write("/var/lib/kubelet/device-plugins/spidernet.io_mellanoxibsriov.sock", "")
	r.write("/run/spidernet/spiderpool.sock", "")
	r.write("/var/lib/spidernet/ledger.db.damaged-20260101T000000.000000000", "")
	must(r.t, r.kernel.SetNumVFs(hosttest.GuidePF, 2))
	for i, pci := range []string{"0000:86:00.1", "0000:86:00.2"} {
		guid := ib.VFGUID(hosttest.GuidePFGUID, i)
		must(r.t, r.kernel.SetVFGUID(hosttest.GuidePF, i, guid))
		must(r.t, r.kernel.BindVF(pci))
		r.record(func(book *ledger.Ledger) error {
			return book.PutVF(ledger.VF{PCI: pci, PF: hosttest.GuidePF, PFGUID: hosttest.GuidePFGUID, Index: i,
				GUID: guid})
		})
	}
	r.kernel.Revive()
}

func (r *rig) record(do func(*ledger.Ledger) error) {
	r.t.Helper()
	book, _, err := ledger.Open(r.o.at(r.o.Ledger))
	must(r.t, err)
	must(r.t, errors.Join(do(book), book.Close()))
}

// pod is one with a network of ours, whose namespace is to be added by whoever wants it alive.
func (r *rig) pod() host.NS {
	r.record(func(book *ledger.Ledger) error {
		return book.UpdateSandbox("s", func(s *ledger.Sandbox) error {
			s.Pod, s.NetNS = ledger.Pod{Namespace: "default", Name: "a", UID: "1"}, "/var/run/netns/pod"
			s.Attachments = []ledger.Attachment{{Network: "ib-sriov", IfName: "eth0", DeviceID: "0000:86:00.1",
				Phase: ledger.Done}}
			return nil
		})
	})
	return host.NS(r.o.at("/run/netns/pod"))
}

// picture is all files of the node and their text.
func (r *rig) picture() map[string]string {
	r.t.Helper()
	out := map[string]string{}
	must(r.t, filepath.WalkDir(r.o.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text := "(records)"
		if filepath.Base(path) != "ledger.db" { // which holds times
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text = string(b)
		}
		out[strings.TrimPrefix(path, r.o.Root)] = text
		return nil
	}))
	return out
}

func (r *rig) run() error {
	r.out.Reset()
	return Run(context.Background(), r.o)
}

// The node is left as it was found, and that can be repeated.
func TestLeavesTheNodeAsItWasFound(t *testing.T) {
	r := newRig(t)
	files, kernel := r.picture(), r.kernel.Snapshot()
	r.install()
	installed, made := r.picture(), r.kernel.Snapshot()
	r.pod() // it died with its namespace while no agent ran

	r.o.Do = false
	must(t, r.run())
	want := []string{
		"0000:86:00.0: numVfs 2 -> 0", "remove the IPv4 rule 1000 that leads to the empty table 500",
		"remove the IPv6 rule 1000 that leads to the empty table 500",
		"remove the CNI configuration /etc/cni/net.d/00-multus.conf",
		"remove from /opt/cni/bin: multus, ib-sriov, spiderpool-cni; plugins of other products that were set aside " +
			"come back",
		"remove what is left of the device plugin: " +
			"/run/k8s.cni.cncf.io/devinfo/dp/spidernet.io-mellanoxibsriov-0000:86:00.1-device.json",
		"remove what is left of the device plugin: /var/lib/kubelet/device-plugins/spidernet.io_mellanoxibsriov.sock",
		"remove the agent's socket /var/run/spidernet/spiderpool.sock",
		"remove the node's records /var/lib/spidernet/ledger.db",
		"remove the node's records /var/lib/spidernet/ledger.db.damaged-20260101T000000.000000000",
		"nothing was done: give --yes to do it", "",
	}
	if diff := cmp.Diff(want, strings.Split(r.out.String(), "\n")); diff != "" {
		t.Errorf("plan: %s", diff)
	}
	if diff := cmp.Diff(installed, r.picture()) + cmp.Diff(made, r.kernel.Snapshot()); diff != "" {
		t.Errorf("a plan changed something: %s", diff)
	}

	r.o.Do = true
	must(t, r.run())
	if diff := cmp.Diff(files, r.picture()) + cmp.Diff(kernel, r.kernel.Snapshot()); diff != "" {
		t.Errorf("not as it was found: %s", diff)
	}
	for _, dir := range []string{"/var/lib/spidernet", "/run/spidernet"} {
		if _, err := os.Stat(r.o.at(dir)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
	must(t, r.run())
	if r.out.String() != "nothing of the product is left on this node\n" {
		t.Errorf("again: %q", r.out.String())
	}
}

// While the table has routes, they are somebody's, such as another product's that uses the same one.
func TestRuleToRoutesStays(t *testing.T) {
	r := newRig(t)
	r.install()
	a, _, err := r.kernel.AddVeth(host.NodeNS, "vethother", host.NodeNS, "vethother2", 1500)
	must(t, err)
	must(t, r.kernel.SetLinkUp(host.NodeNS, a.Index))
	must(t, r.kernel.AddRoute(host.NodeNS, host.Route{Dst: netip.MustParsePrefix("192.0.2.7/32"), Index: a.Index,
		Table: 500}))
	must(t, r.run())
	rules, err := r.kernel.Rules(host.NodeNS)
	must(t, err)
	if !slices.Contains(rules, coordinator.NodeRule(500, false)) ||
		slices.Contains(rules, coordinator.NodeRule(500, true)) {
		t.Errorf("rules %+v, want the one for IPv4, whose table has a route, and not the one for IPv6", rules)
	}
}

func TestRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*rig)
		want string
	}{
		{"a pod has a network of ours", func(r *rig) { r.kernel.AddNS(r.pod()) },
			"these pods have networks of ours: default/a"},
		{"the kubelet has promised a VF", func(r *rig) {
			r.o.Allocated = func(context.Context) (map[string]string, error) {
				return map[string]string{"0000:86:00.2": "default/b"}, nil
			}
		}, "0000:86:00.2 by default/b"},
		{"the kubelet does not answer", func(r *rig) {
			r.o.Allocated = func(context.Context) (map[string]string, error) { return nil, errors.New("no answer") }
		}, "it is not known which of them pods use: no answer"},
		{"the records are damaged", func(r *rig) { r.write(r.o.Ledger, "nonsense") }, "sriov_numvfs"},
		{"the root is not there", func(r *rig) { must(r.t, os.RemoveAll(r.o.at("/run"))) }, "(--root)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			r.install()
			tt.set(r)
			kernel := r.kernel.Snapshot()
			err := r.run()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if diff := cmp.Diff(kernel, r.kernel.Snapshot()); diff != "" ||
				!cniinstall.ConfInstalled(r.o.at(r.o.ConfDir)) {
				t.Errorf("something was done: %s", diff)
			}
		})
	}
}

// The agent has its records open.
func TestRefusesWhileTheAgentRuns(t *testing.T) {
	t.Parallel() // it waits for an agent that may be ending
	r := newRig(t)
	r.install()
	book, _, err := ledger.Open(r.o.at(r.o.Ledger))
	must(t, err)
	defer book.Close()
	if err := r.run(); !errors.Is(err, ErrRefused) || !errors.Is(err, ledger.ErrHeld) || !strings.Contains(err.Error(),
		"helm uninstall") {
		t.Error(err)
	}
}

// What fails leaves the records, which tell the next run what is ours.
func TestGoesOnAfterAFailure(t *testing.T) {
	r := newRig(t)
	files := r.picture()
	r.install()
	r.kernel.FailAt(1, host.ErrBusy)
	if err := r.run(); !errors.Is(err, host.ErrBusy) || !strings.Contains(err.Error(), "numVfs 2 -> 0") {
		t.Error(err)
	}
	if _, err := os.Stat(r.o.at(r.o.Ledger)); err != nil {
		t.Errorf("the records are gone: %v", err)
	}
	r.kernel.Revive()
	must(t, r.run())
	if pf, err := r.kernel.PF(hosttest.GuidePF); err != nil || pf.NumVFs != 0 {
		t.Errorf("%+v, %v", pf, err)
	}
	if diff := cmp.Diff(files, r.picture()); diff != "" {
		t.Error(diff)
	}
}

// Pods on the node's primary network alone do not need us to go.
func TestPodsOnThePrimaryNetworkStay(t *testing.T) {
	r := newRig(t)
	r.install()
	r.kernel.AddNS(r.pod())
	r.record(func(book *ledger.Ledger) error {
		return book.UpdateSandbox("s", func(s *ledger.Sandbox) error {
			s.Attachments = []ledger.Attachment{{Network: "primary", IfName: "eth0", Default: true, Phase: ledger.Done}}
			return nil
		})
	})
	must(t, r.run())
	done := ledger.Attachment{Default: true, Phase: ledger.Done}
	for name, change := range map[string]func(*ledger.Attachment){
		"of a network of the cluster": func(a *ledger.Attachment) { a.NAD = "kube-system/n" },
		"a second one":                func(a *ledger.Attachment) { a.Default = false },
		"half made":                   func(a *ledger.Attachment) { a.Phase = ledger.Adding },
		"with a VF":                   func(a *ledger.Attachment) { a.DeviceID = "0000:86:00.1" },
	} {
		a := done
		change(&a)
		if !needsUs(a) {
			t.Errorf("%s: it is said not to need us", name)
		}
	}
}

// VFs that somebody else made stay.
func TestForeignVFsStay(t *testing.T) {
	r := newRig(t)
	must(t, r.kernel.SetNumVFs(hosttest.GuidePF, 2))
	r.record(func(*ledger.Ledger) error { return nil })
	must(t, r.run())
	if pf, err := r.kernel.PF(hosttest.GuidePF); err != nil || pf.NumVFs != 2 ||
		slices.Contains(strings.Fields(r.out.String()), "numVfs") {
		t.Errorf("%+v, %v; said %q", pf, err, r.out.String())
	}
}
