// SPDX-License-Identifier: Apache-2.0

package vhca

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// hostPrograms maps every program that the checks run on this machine to the
// Debian package that has it.
var hostPrograms = map[string]string{
	"apt-cache":          "apt",
	"apt-get":            "apt",
	"cpio":               "cpio",
	"dpkg-deb":           "dpkg",
	"gcc-12":             "gcc-12",
	"gzip":               "gzip",
	"make":               "make",
	"qemu-system-x86_64": "qemu-system-x86",
}

// guestPackages are unpacked into the cache, never installed. The guest gets
// the guestPrograms out of them with the libraries that those link to.
var guestPackages = strings.Fields(`
	bash busybox-static coreutils ibverbs-providers ibverbs-utils infiniband-diags
	iproute2 iputils-ping pci.ids pciutils perftest rdmacm-utils util-linux

	libacl1 libattr1 libbpf1 libbsd0 libc6 libcap2 libcom-err2 libdb5.3 libelf1
	libgcc-s1 libgmp10 libgssapi-krb5-2 libibmad5 libibnetdisc5 libibumad3
	libibverbs1 libidn2-0 libk5crypto3 libkeyutils1 libkmod2 libkrb5-3 libkrb5support0
	liblzma5 libmd0 libmnl0 libnl-3-200 libnl-route-3-200 libpci3 libpcre2-8-0
	librdmacm1 libselinux1 libssl3 libtinfo6 libtirpc3 libudev1 libunistring2 libxtables12
	libzstd1 zlib1g`)

var guestPrograms = strings.Fields(`
	bash busybox env ibstat ibv_devices ibv_devinfo ibv_rc_pingpong ibv_srq_pingpong
	ibv_uc_pingpong ibv_ud_pingpong ip lspci nohup nsenter ping rdma rping sleep
	smpquery timeout unshare`)

// perftestPrograms start through a wrapper, see README.md.
var perftestPrograms = strings.Fields(`
	ib_read_bw ib_read_lat ib_send_bw ib_send_lat ib_write_bw ib_write_lat`)

// guestModules go into the guest with all they depend on.
var guestModules = strings.Fields(`
	9p 9pnet_virtio ib_ipoib ib_umad ib_uverbs rdma_ucm rdmavt virtio_net virtio_pci`)

// kernel says where the parts of one Debian kernel lie.
type kernel struct {
	version string // as uname -r
	image   string // bzImage
	modules string // lib/modules/version
	headers string // root of the unpacked header packages
}

// checkHost returns an error that names every program this machine lacks.
func checkHost() error {
	var missing []string
	for prog, pkg := range hostPrograms {
		if _, err := exec.LookPath(prog); err != nil {
			missing = append(missing, prog+" (package "+pkg+")")
		}
	}
	if missing == nil {
		return nil
	}
	sort.Strings(missing)
	return fmt.Errorf("programs missing on this machine: %s; install their packages with apt-get",
		strings.Join(missing, ", "))
}

// findKernel unpacks the image and headers of the kernel that VHCA_KVER names,
// by default the one that Debian's linux-headers-amd64 depends on.
func findKernel(cache string) (kernel, error) {
	version := os.Getenv("VHCA_KVER")
	if version == "" {
		out, err := run("", "apt-cache", "depends", "linux-headers-amd64")
		if err != nil {
			return kernel{}, err
		}
		_, rest, _ := strings.Cut(out, "Depends: linux-headers-")
		version, _, _ = strings.Cut(rest, "\n")
	}
	if version == "" {
		return kernel{},
			errors.New(
				"apt knows no package linux-headers-amd64: run apt-get update, or set VHCA_KVER to a kernel version")
	}
	headers, err := headerPackages(version)
	if err != nil {
		return kernel{}, err
	}
	root, err := unpack(cache, "kernel", append(headers, "linux-image-"+version))
	if err != nil {
		return kernel{}, err
	}
	return kernel{
		version: version,
		image:   filepath.Join(root, "boot", "vmlinuz-"+version),
		modules: filepath.Join(root, "lib", "modules", version),
		headers: root,
	}, nil
}

// headerPackages lists linux-headers-VERSION and the two packages it needs.
func headerPackages(version string) ([]string, error) {
	pkgs := []string{"linux-headers-" + version}
	out, err := run("", "apt-cache", "depends", pkgs[0])
	if err != nil {
		return nil, fmt.Errorf("looking up the headers of kernel %s: %w", version, err)
	}
	for _, line := range strings.Split(out, "\n") {
		dep, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if ok && (strings.HasPrefix(dep, "linux-headers-") || strings.HasPrefix(dep, "linux-kbuild-")) {
			pkgs = append(pkgs, dep)
		}
	}
	return pkgs, nil
}

// unpack downloads Debian packages and unpacks them into one folder of the
// cache, whose name tells their versions. It returns that folder.
func unpack(cache, name string, pkgs []string) (string, error) {
	args := append([]string{"download", "--print-uris", "-q"}, pkgs...)
	uris, err := run("", "apt-get", args...)
	if err != nil {
		return "", fmt.Errorf("apt has no candidate for all of %s: run apt-get update: %w", strings.Join(pkgs, " "),
			err)
	}
	sum := sha256.Sum256([]byte(uris))
	dir := filepath.Join(cache, name+"-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(cache, name+"-new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if _, err := run(tmp, "apt-get", append([]string{"download", "-q"}, pkgs...)...); err != nil {
		return "", fmt.Errorf("downloading %s: %w", strings.Join(pkgs, " "), err)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return "", err
	}
	root := filepath.Join(tmp, "root")
	for _, deb := range debs {
		if _, err := run("", "dpkg-deb", "-x", deb, root); err != nil {
			return "", err
		}
	}
	// Another test may have been faster: its folder is as good.
	if err := os.Rename(root, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return dir, nil
}

// buildModule runs this folder's Makefile and returns the path of vhca.ko.
func buildModule(cache string, k kernel) (string, error) {
	out := filepath.Join(cache, "module-"+k.version)
	_, err := run("", "make", "module", "KVER="+k.version, "OUT="+out, "HEADERS="+k.headers)
	return filepath.Join(out, "vhca.ko"), err
}

// run returns a program's standard output; its error holds what went to
// standard error.
func run(dir, prog string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(prog, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// guestTree is the root file system of a guest while it is put together.
type guestTree struct {
	dir   string // what is made
	tools string // folder with guestPackages unpacked
}

const libDir = "usr/lib/x86_64-linux-gnu"

// buildInitramfs writes a bootable initramfs to file.
func buildInitramfs(file, tools, module string, k kernel) error {
	dir, err := os.MkdirTemp("", "vhca-root-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	g := guestTree{dir: dir, tools: tools}
	steps := []func() error{g.skeleton, g.programs, g.verbsProvider, g.scripts,
		func() error { return g.modules(k, module) }}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("building the guest's root file system: %w", err)
		}
	}
	// A rename, so that a machine that still boots keeps the file it has.
	const pack = `find . | cpio -o -H newc -R +0:+0 --quiet | gzip -1 > "$0.new" && mv "$0.new" "$0"`
	cmd := exec.Command("sh", "-c", pack, file)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("packing the initramfs: %w: %s", err, out)
	}
	return nil
}

func (g guestTree) skeleton() error {
	for _, d := range strings.Fields("usr/bin usr/lib64 usr/libexec/busybox usr/share/misc " + libDir +
		" dev etc/libibverbs.d host proc root run sys tmp var/lib") {
		if err := os.MkdirAll(filepath.Join(g.dir, d), 0o755); err != nil {
			return err
		}
	}
	links := map[string]string{"bin": "usr/bin", "sbin": "usr/bin", "usr/sbin": "bin", "lib": "usr/lib",
		"lib64": "usr/lib64", "usr/bin/sh": "bash"}
	for from, to := range links {
		if err := os.Symlink(to, filepath.Join(g.dir, from)); err != nil {
			return err
		}
	}
	files := map[string]string{
		"etc/passwd":        "root:x:0:0:root:/root:/bin/sh\n",
		"etc/hosts":         "127.0.0.1 localhost\n",
		"etc/nsswitch.conf": "hosts: files\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(g.dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return g.copy("usr/share/misc/pci.ids", "usr/share/misc/pci.ids")
}

func (g guestTree) programs() error {
	for _, prog := range guestPrograms {
		if err := g.program(prog, "usr/bin/"+prog); err != nil {
			return err
		}
	}
	for _, prog := range perftestPrograms {
		if err := g.program(prog, "usr/libexec/"+prog); err != nil {
			return err
		}
		wrapper := fmt.Sprintf("#!/bin/bash\nexec /usr/libexec/%s --use_old_post_send \"$@\"\n", prog)
		if err := os.WriteFile(filepath.Join(g.dir, "usr/bin", prog), []byte(wrapper), 0o755); err != nil {
			return err
		}
	}
	// glibc opens this one by name when a thread ends.
	return g.library("libgcc_s.so.1")
}

// verbsProvider adds the user space half of rdmavt's verbs ABI.
func (g guestTree) verbsProvider() error {
	const pattern = libDir + "/libibverbs/libhfi1verbs-rdmav*.so"
	found, err := filepath.Glob(filepath.Join(g.tools, pattern))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("want one file %s in ibverbs-providers, found %v", pattern, found)
	}
	if err := os.MkdirAll(filepath.Join(g.dir, libDir, "libibverbs"), 0o755); err != nil {
		return err
	}
	rel, err := filepath.Rel(g.tools, found[0])
	if err != nil {
		return err
	}
	if err := g.copy(rel, rel); err != nil {
		return err
	}
	return g.copy("etc/libibverbs.d/hfi1verbs.driver", "etc/libibverbs.d/hfi1verbs.driver")
}

// scripts adds guest/: init becomes process 1, the rest lies in /root.
func (g guestTree) scripts() error {
	entries, err := os.ReadDir("guest")
	if err != nil {
		return err
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join("guest", e.Name()))
		if err != nil {
			return err
		}
		to := filepath.Join(g.dir, "root", e.Name())
		if e.Name() == "init" {
			to = filepath.Join(g.dir, "init")
		}
		if err := os.WriteFile(to, text, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (g guestTree) program(name, to string) error {
	for _, d := range []string{"usr/bin", "usr/sbin", "bin", "sbin"} {
		from := filepath.Join(d, name)
		if _, err := os.Lstat(filepath.Join(g.tools, from)); err != nil {
			continue
		}
		if err := g.copy(from, to); err != nil {
			return err
		}
		return g.libraries(filepath.Join(g.dir, to))
	}
	return fmt.Errorf("program %s is in none of the guest's packages", name)
}

// libraries adds the shared libraries that an ELF file needs, and theirs.
func (g guestTree) libraries(file string) error {
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	defer f.Close()
	needed, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("reading what %s links to: %w", file, err)
	}
	for _, lib := range needed {
		if err := g.library(lib); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

func (g guestTree) library(name string) error {
	to := filepath.Join(libDir, name)
	if strings.HasPrefix(name, "ld-linux") { // its path is part of the ABI
		to = filepath.Join("usr/lib64", name)
	}
	if _, err := os.Lstat(filepath.Join(g.dir, to)); err == nil {
		return nil
	}
	for _, d := range []string{libDir, "lib/x86_64-linux-gnu"} {
		from := filepath.Join(d, name)
		if _, err := os.Lstat(filepath.Join(g.tools, from)); err != nil {
			continue
		}
		if err := g.copy(from, to); err != nil {
			return err
		}
		return g.libraries(filepath.Join(g.dir, to))
	}
	return fmt.Errorf("library %s is in none of the guest's packages", name)
}

// copy takes a file of the unpacked packages, following links, into the guest.
func (g guestTree) copy(from, to string) error {
	return copyFile(filepath.Join(g.tools, from), filepath.Join(g.dir, to))
}

func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, data, info.Mode().Perm())
}

// modules copies guestModules and vhca.ko and writes the modules.dep by which
// the guest's modprobe finds them.
func (g guestTree) modules(k kernel, vhca string) error {
	index, err := indexModules(k.modules)
	if err != nil {
		return err
	}
	index["vhca"] = vhca
	to := filepath.Join(g.dir, "lib/modules", k.version)
	var dep strings.Builder
	done := map[string]bool{}
	var add func(name string) ([]string, error)
	add = func(name string) ([]string, error) {
		file, ok := index[name]
		if !ok {
			return nil, fmt.Errorf("kernel %s has no module %s", k.version, name)
		}
		names, err := moduleDepends(file)
		if err != nil {
			return nil, err
		}
		var all []string // each needs those after it, as modprobe reads the list
		for _, n := range names {
			below, err := add(n)
			if err != nil {
				return nil, err
			}
			all = append(append(all, n+".ko"), below...)
		}
		if !done[name] {
			done[name] = true
			fmt.Fprintf(&dep, "%s.ko: %s\n", name, strings.Join(dropEarlier(all), " "))
			return all, copyFile(file, filepath.Join(to, name+".ko"))
		}
		return all, nil
	}
	for _, name := range append(guestModules, "vhca") {
		if _, err := add(name); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(to, "modules.dep"), []byte(dep.String()), 0o644)
}

// dropEarlier keeps only the last of equal entries.
func dropEarlier(list []string) []string {
	var kept []string
	for i, s := range list {
		last := true
		for _, later := range list[i+1:] {
			last = last && later != s
		}
		if last {
			kept = append(kept, s)
		}
	}
	return kept
}

// indexModules maps the name of each module below dir to its file.
func indexModules(dir string) (map[string]string, error) {
	index := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok && err == nil {
			index[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing kernel modules: %w", err)
	}
	return index, nil
}

// moduleDepends reads the names in a module's "depends=" line.
func moduleDepends(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading module %s: %w", file, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("module %s has no .modinfo section", file)
	}
	data, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("reading module %s: %w", file, err)
	}
	for _, entry := range strings.Split(string(data), "\x00") {
		if names, ok := strings.CutPrefix(entry, "depends="); ok {
			return strings.FieldsFunc(strings.ReplaceAll(names, "-", "_"), func(r rune) bool { return r == ',' }), nil
		}
	}
	return nil, nil
}
