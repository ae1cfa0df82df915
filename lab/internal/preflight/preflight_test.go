// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

func fit() Host {
	return Host{OS: "debian 12", Machine: "x86_64", MemoryMiB: 8192,
		Disk: []Space{{Path: "/home/u/.cache/x", FreeMiB: 20000}}}
}

var need = Need{MemoryMiB: 3072}

func TestCheck(t *testing.T) {
	cases := []struct {
		name   string
		change func(*Host)
		want   []string // in the message; none: the host is fit
	}{
		{"fit", func(*Host) {}, nil},
		{"as root a user namespace is not needed", func(h *Host) { h.Root = true }, nil},
		{"no KVM is slower, not wrong", func(h *Host) { h.KVM = false }, nil},
		{"no tun", func(h *Host) { h.Tun = os.ErrNotExist }, []string{"/dev/net/tun", "modprobe tun"}},
		{"no user namespaces", func(h *Host) { h.UserNamespaces = os.ErrPermission },
			[]string{"user namespace", "unprivileged_userns_clone"}},
		{"programs absent", func(h *Host) { h.MissingTools = []string{"mkfs.ext4", "qemu-system-x86_64"} },
			[]string{"mkfs.ext4, qemu-system-x86_64", "apt-get install e2fsprogs qemu-system-x86"}},
		{"port taken", func(h *Host) {
			h.Ports = map[string]error{"--api-port": errors.New("address already in use"), "--registry-port": nil}
		}, []string{"already in use", "--api-port"}},
		{"disk full", func(h *Host) { h.Disk[0].FreeMiB = 100 }, []string{"100 MiB", "/home/u/.cache/x",
			"XDG_CACHE_HOME"}},
		{"little memory", func(h *Host) { h.MemoryMiB = 2048 }, []string{"2048 MiB", "3072 MiB", "--memory"}},
		{"other processor", func(h *Host) { h.Machine = "aarch64" }, []string{"aarch64", "x86_64"}},
		{"other distribution", func(h *Host) { h.OS = "ubuntu 24.04" }, []string{"ubuntu 24.04", "Debian 12"}},
		{"everything is told at once", func(h *Host) {
			h.Tun, h.Ports = os.ErrNotExist, map[string]error{"--api-port": os.ErrPermission,
				"--registry-port": os.ErrPermission}
		}, []string{"/dev/net/tun", "--api-port", "--registry-port"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			h := fit()
			c.change(&h)
			err := Check(h, need)
			if (err != nil) != (len(c.want) > 0) {
				t.Fatalf("error is %v", err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in: %v", w, err)
				}
			}
		})
	}
}

func TestPackagesFileHasWhatTheToolsNeed(t *testing.T) {
	b, err := os.ReadFile("../../packages.txt")
	if err != nil {
		t.Fatal(err)
	}
	listed := strings.Fields(string(b))
	for tool, pkg := range tools {
		essential := slices.Contains([]string{"apt", "dpkg", "tar"}, pkg)
		if !essential && !slices.Contains(listed, pkg) {
			t.Errorf("packages.txt lacks %s, which has %s", pkg, tool)
		}
	}
}

func TestVirtualizes(t *testing.T) {
	cases := map[string]bool{
		"processor : 0\nflags\t\t: fpu vmx sse\n": true,
		"flags\t\t: fpu svm\n":                    true,
		"flags\t\t: fpu sse hypervisor\n":         false,
		"vmx flags\t\t: ept\n":                    false,
		"":                                        false,
	}
	for cpuinfo, want := range cases {
		if virtualizes(cpuinfo) != want {
			t.Errorf("%q: want %v", cpuinfo, want)
		}
	}
}

func TestParse(t *testing.T) {
	if got := parseDistribution("NAME=x\nID=debian\nVERSION_ID=\"12\"\n"); got != "debian 12" {
		t.Errorf("distribution is %q", got)
	}
	if got, err := parseAvailable("MemTotal: 1 kB\nMemAvailable:   2097152 kB\n"); err != nil || got != 2048 {
		t.Errorf("memory is %d, %v", got, err)
	}
	if _, err := parseAvailable("MemTotal: 1 kB\n"); err == nil {
		t.Error("a missing line is no error")
	}
}

func TestLookFindsARealHost(t *testing.T) {
	h, err := Look(Place{State: t.TempDir(), Cache: "/nonexistent/cache", Ports: map[string]int{"--api-port": 0}})
	if err != nil {
		t.Fatal(err)
	}
	if h.Machine == "" || h.OS == "" || h.MemoryMiB == 0 || len(h.Disk) != 2 || h.Ports["--api-port"] != nil {
		t.Errorf("found %+v", h)
	}
}
