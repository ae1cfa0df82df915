// SPDX-License-Identifier: Apache-2.0

// Package noderoot makes what a virtual machine boots: Debian's kernel, a small initramfs and a
// disk with Debian's packages, the Kubernetes programs, the virtual InfiniBand card's module and
// the files of lab/guest/rootfs. Every machine boots the same three files; what makes it that
// machine is handed to it at boot (package cluster).
//
// Everything is kept in the lab's cache. Nothing needs root, and nothing on the host is installed or mounted.
package noderoot

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"spidernet.io/spiderpool/lab/internal/cache"
	"spidernet.io/spiderpool/lab/internal/debian"
	"spidernet.io/spiderpool/lab/internal/tree"
)

// diskSize is the size the machine sees; the file is sparse.
const diskSize = 4 << 30

// Packages are Debian's packages, unpacked.
type Packages struct {
	Dir     string // with node/, test/ and kernel/
	Release string // of the kernel
}

// Node is the tree of a machine's packages.
func (p Packages) Node() string { return filepath.Join(p.Dir, "node") }

// Test is the tree from which the test image is taken.
func (p Packages) Test() string { return filepath.Join(p.Dir, "test") }

func (p Packages) kernel() string  { return filepath.Join(p.Dir, "kernel") }
func (p Packages) modules() string { return filepath.Join(p.kernel(), "usr/lib/modules", p.Release) }
func (p Packages) image() string   { return filepath.Join(p.kernel(), "boot/vmlinuz-"+p.Release) }

// FetchPackages downloads and unpacks Debian's packages, once: later runs use the same versions
// until the cache is cleaned.
func FetchPackages(ctx context.Context, c cache.Dir) (Packages, error) {
	osRelease, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return Packages{}, fmt.Errorf("asking for the distribution: %w", err)
	}
	key := cache.NewKey("4", string(osRelease)).Words(nodePackages...).Words("test").Words(testPackages...)
	dir, err := c.Get("debian", key, func(dir string) error { return fetch(ctx, dir) })
	if err != nil {
		return Packages{}, err
	}
	release, err := os.ReadFile(filepath.Join(dir, "kernel-release"))
	if err != nil {
		return Packages{}, fmt.Errorf("asking the cache for its kernel: %w", err)
	}
	return Packages{Dir: dir, Release: string(release)}, nil
}

func fetch(ctx context.Context, dir string) error {
	state := filepath.Join(dir, "apt")
	apt, err := debian.Open(ctx, state)
	if err != nil {
		return err
	}
	release, err := apt.Kernel(ctx)
	if err != nil {
		return err
	}
	sets := []struct {
		name         string
		dependencies bool
		packages     []string
	}{
		{"node", true, nodePackages},
		{"test", true, testPackages},
		{"kernel", false, kernelPackages(release)},
	}
	for _, s := range sets {
		files, err := apt.Download(ctx, s.dependencies, s.packages...)
		if err != nil {
			return err
		}
		if err := debian.Unpack(ctx, filepath.Join(dir, s.name), files); err != nil {
			return err
		}
	}
	if err := run(ctx, "depmod", "-b", filepath.Join(dir, "kernel"), release); err != nil {
		return fmt.Errorf("indexing the kernel's modules: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kernel-release"), []byte(release), 0o644); err != nil {
		return fmt.Errorf("noting the kernel's release: %w", err)
	}
	return os.RemoveAll(state)
}

// kernelPackages are the kernel and what out-of-tree modules are compiled against. For
// 6.1.0-56-amd64 the latter are named by 6.1.0-56-amd64, 6.1.0-56-common and 6.1.
func kernelPackages(release string) []string {
	abi := strings.TrimSuffix(release, "-amd64")
	series := strings.Join(strings.Split(release, ".")[:2], ".")
	return []string{"linux-image-" + release, "linux-headers-" + release, "linux-headers-" + abi + "-common",
		"linux-kbuild-" + series}
}

// CardModule compiles lab/vhca for the machines' kernel and returns the path of vhca.ko.
func CardModule(ctx context.Context, c cache.Dir, lab string, p Packages) (string, error) {
	source := filepath.Join(lab, "vhca")
	key := cache.NewKey(p.Release).Tree(filepath.Join(source, "module"), filepath.Join(source, "Makefile"))
	dir, err := c.Get("vhca", key, func(dir string) error {
		if err := run(ctx, "make", "-s", "-C", source, "module", "KVER="+p.Release, "OUT="+dir,
			"HEADERS="+p.kernel()); err != nil {
			return fmt.Errorf("compiling the virtual card's kernel module: %w", err)
		}
		return run(ctx, "strip", "--strip-debug", filepath.Join(dir, "vhca.ko"))
	})
	return filepath.Join(dir, "vhca.ko"), err
}

// Machine are the files that a virtual machine boots.
type Machine struct{ Kernel, Initramfs, Disk string }

// Parts are what a machine's disk is put together from.
type Parts struct {
	Packages   Packages
	CardModule string // path of vhca.ko
	Kube       string // directory with the binary kubenode
	Guest      string // lab/guest
}

// Build makes the files that a machine boots, or finds them in the cache.
func Build(ctx context.Context, c cache.Dir, p Parts) (Machine, error) {
	// The parts come from the cache, whose names are digests of their content.
	key := cache.NewKey("1", p.Packages.Dir, p.CardModule,
		p.Kube).Tree(p.Guest).Words(nodePrunes...).Words(nodeModules...).Words(cniPlugins...)
	dir, err := c.Get("machine", key, func(dir string) error { return build(ctx, dir, p) })
	return Machine{
		Kernel:    filepath.Join(dir, "vmlinuz"),
		Initramfs: filepath.Join(dir, "initramfs"),
		Disk:      filepath.Join(dir, "disk.ext4"),
	}, err
}

func build(ctx context.Context, dir string, p Parts) error {
	root := filepath.Join(dir, "root")
	if err := assemble(ctx, root, p); err != nil {
		return err
	}
	if err := tree.CopyFile(p.Packages.image(), filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	if err := writeInitramfs(filepath.Join(dir, "initramfs"), p); err != nil {
		return err
	}
	if err := makeDisk(ctx, filepath.Join(dir, "disk.ext4"), root, diskSize); err != nil {
		return err
	}
	return os.RemoveAll(root)
}

func assemble(ctx context.Context, root string, p Parts) error {
	if err := tree.Link(p.Packages.Node(), root); err != nil {
		return err
	}
	if err := tree.Remove(root, nodePrunes...); err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return skeleton(root) },
		func() error { return installModules(ctx, root, p) },
		func() error { return installKube(root, p.Kube) },
		func() error { return installPlugins(root) },
		func() error { return LinkApplets(ctx, root) },
		func() error { return tree.Copy(filepath.Join(p.Guest, "rootfs"), root) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// skeleton adds what packages' maintainer scripts would have made.
func skeleton(root string) error {
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "root", "var/log", "var/lib/kubelet",
		"var/lib/containerd", "opt/cni/bin", "etc/cni/net.d", "etc/kubernetes/pki"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return fmt.Errorf("making the machine's root: %w", err)
		}
	}
	for path, target := range map[string]string{
		"usr/bin/sh": "bash", "usr/bin/awk": "gawk", "var/run": "/run", "etc/mtab": "../proc/self/mounts",
	} {
		if err := tree.Symlink(target, filepath.Join(root, path)); err != nil {
			return fmt.Errorf("making the machine's root: %w", err)
		}
	}
	for path, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
		"etc/group":  groups, "etc/shadow": "root:*:19000:0:99999:7:::\n", "etc/shells": "/bin/sh\n/bin/bash\n",
		"etc/resolv.conf": "", "etc/machine-id": "", "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
	} {
		if err := tree.Write(filepath.Join(root, path), 0o644, strings.NewReader(content)); err != nil {
			return err
		}
	}
	return nil
}

// groups are those that udev's rules name.
const groups = `root:x:0:
tty:x:5:
disk:x:6:
lp:x:7:
dialout:x:20:
cdrom:x:24:
tape:x:26:
audio:x:29:
video:x:44:
kmem:x:15:
input:x:101:
sgx:x:102:
kvm:x:103:
render:x:104:
nogroup:x:65534:
`

func installModules(ctx context.Context, root string, p Parts) error {
	files, err := moduleFiles(p.Packages, nodeModules...)
	if err != nil {
		return err
	}
	to := filepath.Join(root, "usr/lib/modules", p.Packages.Release)
	for _, f := range append(files, "modules.builtin", "modules.builtin.modinfo", "modules.order") {
		if err := tree.CopyFile(filepath.Join(p.Packages.modules(), f), filepath.Join(to, f)); err != nil {
			return err
		}
	}
	if err := tree.CopyFile(p.CardModule, filepath.Join(to, "updates/vhca.ko")); err != nil {
		return err
	}
	return run(ctx, "depmod", "-b", root, p.Packages.Release)
}

// moduleFiles lists the files of modules and their dependencies, in loading order.
func moduleFiles(p Packages, patterns ...string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(p.modules(), "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's module dependencies: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(p.modules(), "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's builtin modules: %w", err)
	}
	deps, err := parseModuleDeps(b)
	if err != nil {
		return nil, err
	}
	return deps.closure(builtin, patterns...)
}

func installKube(root, kube string) error {
	if err := tree.CopyFile(filepath.Join(kube, "kubenode"), filepath.Join(root, "usr/bin/kubenode")); err != nil {
		return err
	}
	for _, name := range []string{"kubelet", "kube-proxy"} {
		if err := tree.Symlink("kubenode", filepath.Join(root, "usr/bin", name)); err != nil {
			return fmt.Errorf("naming %s: %w", name, err)
		}
	}
	return nil
}

// installPlugins puts the reference CNI plugins where every Kubernetes install has them.
func installPlugins(root string) error {
	for _, name := range cniPlugins {
		if err := tree.CopyFile(filepath.Join(root, "usr/lib/cni", name), filepath.Join(root, "opt/cni/bin",
			name)); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(root, "usr/lib/cni"))
}

// LinkApplets names the applets of a root's busybox where no package has a program of that name; a
// machine's init and wget are such.
func LinkApplets(ctx context.Context, root string) error {
	out, err := exec.CommandContext(ctx, filepath.Join(root, "usr/bin/busybox"), "--list").Output()
	if err != nil {
		return fmt.Errorf("listing busybox's applets: %w", err)
	}
	for _, applet := range append(strings.Fields(string(out)), "init") {
		if slices.ContainsFunc([]string{"usr/bin", "usr/sbin"},
			func(d string) bool { return present(filepath.Join(root, d, applet)) }) {
			continue
		}
		if err := tree.Symlink("/usr/bin/busybox", filepath.Join(root, "usr/sbin", applet)); err != nil {
			return fmt.Errorf("naming a busybox applet: %w", err)
		}
	}
	return nil
}

func present(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// makeDisk writes root into an ext4 file system of that size; in a user namespace, where the
// invoking user's files are root's.
func makeDisk(ctx context.Context, disk, root string, size int64) error {
	f, err := os.Create(disk)
	if err != nil {
		return fmt.Errorf("making the machine's disk: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("making the machine's disk: %w", err)
	}
	mkfs := []string{"mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-O",
		"^metadata_csum", "-J", "size=16", "-d", root, disk}
	if os.Geteuid() != 0 {
		mkfs = append([]string{"unshare", "-r"}, mkfs...)
	}
	return run(ctx, mkfs...)
}

func run(ctx context.Context, argv ...string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", argv[0], err, said.Bytes())
	}
	return nil
}
