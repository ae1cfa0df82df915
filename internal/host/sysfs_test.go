// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// card makes a sysfs with one PF and, when vfs is not 0, its VFs, and returns the host that sees it.
func card(t *testing.T, attributes map[string]string, vfs int) (*Host, string) {
	t.Helper()
	root := t.TempDir()
	const pci = "0000:86:00.0"
	dir := filepath.Join(root, "sys/bus/pci/devices", pci)
	put := func(dir, name, text string) {
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"),
			0o644)); err != nil {
			t.Fatal(err)
		}
	}
	put(dir, "class", "0x020700")
	for name, text := range attributes {
		put(dir, name, text)
	}
	for i := range vfs {
		vf := fmt.Sprintf("0000:86:00.%d", i+1)
		put(filepath.Join(root, "sys/bus/pci/devices", vf), "class", "0x020700")
		if err := errors.Join(os.Symlink("../"+vf, filepath.Join(dir, fmt.Sprintf("virtfn%d", i))),
			os.Symlink("../"+pci, filepath.Join(root, "sys/bus/pci/devices", vf, "physfn"))); err != nil {
			t.Fatal(err)
		}
	}
	// New would ask the kernel what kind of namespace the node's is, which user-mode emulation
	// cannot; no test of a sysfs needs it.
	return &Host{root: root}, dir
}

func TestPFWithoutSRIOV(t *testing.T) {
	h, _ := card(t, map[string]string{"vendor": "0x15b3", "device": "0x1017"}, 0)
	if total := intFile(0, h.sys().device("0000:86:00.0"), "sriov_totalvfs"); total != 0 {
		t.Errorf("%d virtual functions possible", total)
	}
	if err := h.SetNumVFs("0000:86:00.0", 0); err != nil {
		t.Error(err)
	}
	if err := h.SetNumVFs("0000:86:00.0", 1); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a virtual function of a card that can make none: %v", err)
	}
}

func TestSetNumVFsWritesThroughZero(t *testing.T) {
	h, dir := card(t, map[string]string{"sriov_totalvfs": "16", "sriov_numvfs": "2", "sriov_drivers_autoprobe": "1"}, 2)
	if err := h.SetNumVFs("0000:86:00.0", 12); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"sriov_numvfs": "12", "sriov_drivers_autoprobe": "1"} {
		// A file, unlike sysfs, keeps what earlier writes left behind the last.
		if got, err := read(dir, name); err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%s holds %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestFindVF(t *testing.T) {
	h, _ := card(t, nil, 3)
	pf, index, err := h.findVF("0000:86:00.3")
	if pf != "0000:86:00.0" || index != 2 || err != nil {
		t.Errorf("findVF = %s, %d, %v", pf, index, err)
	}
	if _, _, err := h.findVF("0000:86:00.0"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a PF as a VF: %v", err)
	}
}

func TestExplainNumVFs(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.ENOMEM: "pci=realloc", unix.ENOSPC: "pci=realloc", unix.EBUSY: "in use", unix.EINVAL: "beyond",
		unix.EPERM: "lockdown", unix.ERANGE: "",
	} {
		if got := explainNumVFs(fmt.Errorf("write: %w", errno)); !strings.Contains(got, want) || want == "" &&
			got != "" {
			t.Errorf("%v: %q, want it to name %q", errno, got, want)
		}
	}
}

func TestKernelErrors(t *testing.T) {
	for errno, want := range map[unix.Errno]error{
		unix.ENODEV: ErrNotFound, unix.EEXIST: ErrExists, unix.EBUSY: ErrBusy, unix.EOPNOTSUPP: ErrUnsupported,
	} {
		if err := kernelError(fmt.Errorf("x: %w", errno)); !errors.Is(err, want) || !errors.Is(err, errno) {
			t.Errorf("%v became %v", errno, err)
		}
	}
}

// A path that is left when a namespace's mount is gone is a plain file.
func TestLeftoverPathIsNoNamespace(t *testing.T) {
	h, dir := card(t, nil, 0)
	ns := NS(filepath.Join(dir, "class"))
	if h.NSExists(ns) {
		t.Error("a plain file counts as a namespace")
	}
	if _, err := h.Links(ns); !errors.Is(err, ErrNSGone) {
		t.Errorf("links of a plain file: %v", err)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	if !h.NSExists(NS(loop)) {
		t.Error("a path that cannot be looked at counts as gone")
	}
	if _, err := h.Links("/proc/self/ns/uts"); !errors.Is(err, ErrNSGone) {
		t.Errorf("links of a UTS namespace: %v", err)
	}
}

// The number of a VF is in the name of its link, also where one before it was taken away; a netdev
// that sysfs still names and that has left is none.
func TestVFDevices(t *testing.T) {
	h, pf := card(t, map[string]string{"sriov_numvfs": "2"}, 2)
	vf := filepath.Join(filepath.Dir(pf), "0000:86:00.2")
	for _, dir := range []string{"infiniband/mlx5_7", "net/gone0", "infiniband_verbs/uverbs3"} {
		if err := os.MkdirAll(filepath.Join(vf, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	want := VFDevices{PF: "0000:86:00.0", Index: 1, RDMA: "mlx5_7", Uverbs: "uverbs3"}
	for _, what := range []string{"without gaps", "without the first"} {
		if got, err := h.VFDevices("0000:86:00.2"); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", what, got, err, want)
		}
		if err := os.RemoveAll(filepath.Join(pf, "virtfn0")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.VFDevices("0000:86:00.1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a function that its card does not list any more: %v", err)
	}
}

// Without RDMA, or with a card that does not answer, a device has no port that is known; a
// namespace that has gone is another matter.
func TestPortThatDoesNotAnswer(t *testing.T) {
	h, _ := card(t, nil, 0)
	d := RDMADevice{Index: 1 << 20, Name: "mlx5_7"}
	if err := h.addPort(&d); err != nil || d.State != "" {
		t.Errorf("%+v, %v", d, err)
	}
	d.NS = NS(filepath.Join(t.TempDir(), "gone"))
	if err := h.addPort(&d); !errors.Is(err, ErrNSGone) {
		t.Errorf("in a namespace that has gone: %v", err)
	}
}

// A fault on a thread of its own is the caller's, who may catch it; the thread is not used again.
func TestFaultInNamespace(t *testing.T) {
	h, err := New(Options{Root: t.TempDir(), NodeNS: "/proc/self/ns/net"})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.in(NodeNS, func() error { return nil }); err != nil {
		t.Skipf("threads cannot enter namespaces here: %v", err)
	}
	defer func() {
		if r := recover(); r != "injected" {
			t.Errorf("the caller got %v", r)
		}
	}()
	_ = h.in(NodeNS, func() error { panic("injected") })
}

// Whoever makes or moves an RDMA device keeps the others from it: they would take each other's
// uverbs numbers.
func TestOneRDMADeviceAtATime(t *testing.T) {
	h, _ := card(t, nil, 1)
	probe := filepath.Join(string(h.sys()), "bus/pci/drivers_probe")
	if err := unix.Mkfifo(probe, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- h.BindVF("0000:86:00.1") }() // stays at the write until somebody reads
	for deadline := time.Now().Add(10 * time.Second); h.numbers.TryLock(); time.Sleep(time.Millisecond) {
		h.numbers.Unlock()
		if time.Now().After(deadline) {
			t.Error("a VF is bound, and nobody is kept from moving a device")
			break
		}
	}
	if text, err := os.ReadFile(probe); err != nil || string(text) != "0000:86:00.1" {
		t.Errorf("written to drivers_probe: %q, %v", text, err)
	}
	if err := <-done; !errors.Is(err, ErrUnsupported) {
		t.Errorf("no driver took it, and BindVF says %v", err)
	}
	if !h.numbers.TryLock() {
		t.Error("the lock was kept")
	}
}

// TestFunctionOfRDMADevice has names that a pod may give its device: those that are no part of a
// path are found by the device's verbs and management devices.
func TestFunctionOfRDMADevice(t *testing.T) {
	for _, test := range []struct{ name, class, client string }{
		{"mlx5_1", "infiniband", ""},
		{"two words", "infiniband", ""},
		{"..", "infiniband_verbs", "uverbs1"},
		{".", "infiniband_mad", "umad1"},
		{"a/b", "infiniband_verbs", "uverbs1"},
		{"../ ", "infiniband_verbs", "uverbs1"},
	} {
		root := t.TempDir()
		place := func(class, client, pci, ibdev string) {
			device := filepath.Join(root, "devices/pci0000:80", pci, class, client)
			err := errors.Join(os.MkdirAll(device, 0o755), os.MkdirAll(filepath.Join(root, "class", class), 0o755),
				os.WriteFile(filepath.Join(device, "ibdev"), []byte(ibdev+"\n"), 0o644),
				os.Symlink("../../devices/pci0000:80/"+pci+"/"+class+"/"+client,
					filepath.Join(root, "class", class, client)))
			if err != nil {
				t.Fatal(err)
			}
		}
		if test.client == "" {
			test.client = test.name
		}
		place("infiniband_verbs", "uverbs7", "0000:86:00.7", "../") // another's name, but for its end
		place(test.class, test.client, "0000:86:00.1", test.name)
		if pci := sysfs(root).functionOf(test.name); pci != "0000:86:00.1" {
			t.Errorf("device %q lies below %q", test.name, pci)
		}
		if pci := sysfs(root).functionOf("../x"); pci != "" {
			t.Errorf("a device without verbs lies below %q", pci)
		}
	}
}
