// SPDX-License-Identifier: Apache-2.0

// Package preflight finds out, before anything is started, whether this host can run the lab, and
// says exactly what is missing and how to mend it. Looking (Look) and judging (Check) are apart, so
// that every judgement can be tested on any host.
package preflight

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// tools are the programs that the lab starts, each with the Debian package that has it.
// lab/packages.txt lists the same packages for an install in one go, less those that no Debian is
// without.
var tools = map[string]string{
	"qemu-system-x86_64": "qemu-system-x86",
	"mkfs.ext4":          "e2fsprogs",
	"depmod":             "kmod",
	"unshare":            "util-linux",
	"apt-get":            "apt",
	"dpkg-deb":           "dpkg",
	"tar":                "tar",
	"make":               "make",
	"gcc-12":             "gcc-12",
	"strip":              "binutils",
}

// Place is where the lab will keep things and listen.
type Place struct {
	State, Cache string
	Ports        map[string]int // of the host's loopback address, by the flag that chooses another
}

// Need is what the lab needs of the host in numbers.
type Need struct {
	MemoryMiB int
}

// diskNeedMiB is what a first run writes: packages, compiled Kubernetes and its intermediate objects.
const diskNeedMiB = 6 * 1024

// Host is what Look found.
type Host struct {
	OS             string   // as "ID VERSION_ID" of os-release(5)
	Machine        string   // as uname -m
	MissingTools   []string // of tools' names
	Root           bool
	UserNamespaces error            // why an ordinary user cannot make one, or nil
	Tun            error            // why /dev/net/tun cannot be opened, or nil
	KVM            bool             // whether the processor can and /dev/kvm may be used
	Ports          map[string]error // why a port cannot be listened on, or nil, by the flag that chooses another
	MemoryMiB      int              // available
	Disk           []Space
}

// Space is the room on a file system that the lab writes to.
type Space struct {
	Path    string
	FreeMiB int
}

// Look inspects this host. An error means that it could not, not that something is missing.
func Look(p Place) (Host, error) {
	h := Host{Root: os.Geteuid() == 0, Tun: openTun(), KVM: kvmUsable(), Ports: map[string]error{}}
	for flag, port := range p.Ports {
		h.Ports[flag] = listen(port)
	}
	for tool := range tools {
		if !have(tool) {
			h.MissingTools = append(h.MissingTools, tool)
		}
	}
	slices.Sort(h.MissingTools)
	if !h.Root {
		h.UserNamespaces = makeUserNamespace()
	}
	var err error
	if h.OS, err = distribution(); err != nil {
		return h, err
	}
	if h.Machine, err = machine(); err != nil {
		return h, err
	}
	if h.MemoryMiB, err = availableMemory(); err != nil {
		return h, err
	}
	for _, path := range []string{p.Cache, p.State} {
		s, err := space(path)
		if err != nil {
			return h, err
		}
		h.Disk = append(h.Disk, s)
	}
	return h, nil
}

// Check returns an error that lists everything that keeps the lab from running, or nil.
func Check(h Host, n Need) error {
	problems := slices.Concat(checkPlatform(h), checkTools(h), checkKernel(h), checkRoom(h, n))
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("this host cannot run the lab:\n  - %s", strings.Join(problems, "\n  - "))
}

func checkPlatform(h Host) (problems []string) {
	if h.Machine != "x86_64" {
		problems = append(problems, fmt.Sprintf("the processor is %s; the virtual machines need x86_64", h.Machine))
	}
	if h.OS != "debian 12" {
		problems = append(problems,
			fmt.Sprintf(
				"the distribution is %q; the machines are made from Debian 12's packages, which only a Debian 12 "+
					"host's package sources offer", h.OS))
	}
	return problems
}

func checkTools(h Host) []string {
	if len(h.MissingTools) == 0 {
		return nil
	}
	var packages []string
	for _, t := range h.MissingTools {
		packages = append(packages, tools[t])
	}
	slices.Sort(packages)
	return []string{fmt.Sprintf("programs are missing: %s; run: apt-get install %s",
		strings.Join(h.MissingTools, ", "), strings.Join(slices.Compact(packages), " "))}
}

func checkKernel(h Host) (problems []string) {
	if h.Tun != nil {
		problems = append(problems, fmt.Sprintf("/dev/net/tun cannot be opened (%v): the machines' network needs it; "+
			"run \"modprobe tun\" as root, and in a container pass the device in", h.Tun))
	}
	if h.UserNamespaces != nil {
		problems = append(problems,
			fmt.Sprintf("an ordinary user may not make a user namespace here (%v): run as root, or as root run "+
				"\"sysctl kernel.unprivileged_userns_clone=1\" and check user.max_user_namespaces", h.UserNamespaces))
	}
	for _, flag := range slices.Sorted(maps.Keys(h.Ports)) {
		if err := h.Ports[flag]; err != nil {
			problems = append(problems,
				fmt.Sprintf("a port of this host cannot be opened (%v): end what uses it or choose another with %s",
					err, flag))
		}
	}
	return problems
}

func checkRoom(h Host, n Need) (problems []string) {
	if h.MemoryMiB < n.MemoryMiB {
		problems = append(problems,
			fmt.Sprintf("%d MiB of memory are available; two machines and the control plane need %d MiB: "+
				"end other programs, or give the machines less with --memory", h.MemoryMiB, n.MemoryMiB))
	}
	for _, s := range h.Disk {
		if s.FreeMiB < diskNeedMiB {
			problems = append(problems,
				fmt.Sprintf("%d MiB are free for %s; a first run needs %d MiB: make room, or set "+
					"XDG_CACHE_HOME or XDG_STATE_HOME to a larger disk", s.FreeMiB, s.Path, diskNeedMiB))
		}
	}
	return problems
}

func have(tool string) bool {
	if _, err := exec.LookPath(tool); err == nil {
		return true
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} { // not on every user's PATH
		if _, err := os.Stat(filepath.Join(dir, tool)); err == nil {
			return true
		}
	}
	return false
}

func openTun() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// kvmUsable tells whether QEMU may use KVM. A device file alone says nothing: a virtual machine
// without nested virtualization can have one.
func kvmUsable() bool {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil || !virtualizes(string(b)) {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// virtualizes tells whether the processor flags of /proc/cpuinfo have Intel's vmx or AMD's svm.
func virtualizes(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		if name, flags, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "flags" {
			f := strings.Fields(flags)
			return slices.Contains(f, "vmx") || slices.Contains(f, "svm")
		}
	}
	return false
}

func makeUserNamespace() error {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}}
	return cmd.Run()
}

func listen(port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return l.Close()
}

func distribution() (string, error) {
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("asking for the distribution: %w", err)
	}
	return parseDistribution(string(b)), nil
}

func parseDistribution(osRelease string) string {
	values := map[string]string{}
	for line := range strings.Lines(osRelease) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[k] = strings.Trim(v, `"`)
	}
	return strings.TrimSpace(values["ID"] + " " + values["VERSION_ID"])
}

func machine() (string, error) {
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		return "", fmt.Errorf("asking for the processor: %w", err)
	}
	var name []byte
	for _, c := range u.Machine {
		if c == 0 {
			break
		}
		name = append(name, byte(c))
	}
	return string(name), nil
}

func availableMemory() (int, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("asking for free memory: %w", err)
	}
	return parseAvailable(string(b))
}

func parseAvailable(meminfo string) (mib int, err error) {
	for line := range strings.Lines(meminfo) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemAvailable:" {
			kib, err := strconv.Atoi(f[1])
			return kib / 1024, err
		}
	}
	return 0, errors.New("/proc/meminfo has no line MemAvailable")
}

// space looks at the file system of path or of its nearest parent that exists.
func space(path string) (Space, error) {
	for at := path; ; at = filepath.Dir(at) {
		var s syscall.Statfs_t
		err := syscall.Statfs(at, &s)
		if err == nil {
			return Space{Path: path, FreeMiB: int(s.Bavail * uint64(s.Bsize) >> 20)}, nil
		}
		if !errors.Is(err, syscall.ENOENT) || at == filepath.Dir(at) {
			return Space{}, fmt.Errorf("asking for the room at %s: %w", at, err)
		}
	}
}
