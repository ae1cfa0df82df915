// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"spidernet.io/spiderpool/lab/internal/cache"
	"spidernet.io/spiderpool/lab/internal/gobuild"
	"spidernet.io/spiderpool/lab/internal/noderoot"
	"spidernet.io/spiderpool/lab/internal/topology"
	"spidernet.io/spiderpool/lab/internal/tree"
	"spidernet.io/spiderpool/release/image"
	"spidernet.io/spiderpool/release/product"
	"spidernet.io/spiderpool/release/source"
)

// productFile is the name under which the product's image is served to the machines.
const productFile = "spiderpool"

// pauseImage returns the path of the image of every pod's sandbox.
func pauseImage(ctx context.Context, c cache.Dir, s gobuild.Source) (string, error) {
	key := cache.NewKey("1").Tree(filepath.Join(s.Lab, "cmd/pause"))
	dir, err := c.Get("image-pause", key, func(dir string) error {
		root := filepath.Join(dir, "root")
		if err := gobuild.Build(ctx, s.Lab, "./cmd/pause", filepath.Join(root, "pause"), ""); err != nil {
			return err
		}
		layer, err := image.FromDirectory(root)
		if err != nil {
			return err
		}
		return image.Pack(layer, topology.PauseImage, image.Config{Entrypoint: []string{"/pause"}},
			filepath.Join(dir, "image.tar"))
	})
	return filepath.Join(dir, "image.tar"), err
}

// testImage returns the path of the image that the guide's pods run.
func testImage(ctx context.Context, c cache.Dir, p noderoot.Packages, lab string) (string, error) {
	key := cache.NewKey("3", p.Dir).Words(testPrograms...).Words(testFiles...).Tree(filepath.Join(lab,
		"guest/test-image"))
	dir, err := c.Get("image-test", key, func(dir string) error {
		root := filepath.Join(dir, "root")
		if err := assembleTestImage(ctx, root, p.Test(), filepath.Join(lab, "guest/test-image")); err != nil {
			return err
		}
		layer, err := image.FromDirectory(root)
		if err != nil {
			return err
		}
		return image.Pack(layer, topology.TestImage, image.Config{Cmd: []string{"/bin/bash"}},
			filepath.Join(dir, "image.tar"))
	})
	return filepath.Join(dir, "image.tar"), err
}

// testPrograms are the programs of the test image: what the guide types in a pod, and what one
// wants beside it.
var testPrograms = []string{
	"bash", "busybox", "cat", "chmod", "cp", "cut", "date", "echo", "env", "false", "grep", "head", "id", "ln", "ls",
	"mkdir", "mv", "printf", "ps", "rm",
	"seq", "sleep", "sort", "stat", "tail", "tee", "test", "timeout", "touch", "tr", "true", "uname", "wc", "curl",
	"ip", "rdma", "ping",
	"ib_read_lat", "ib_read_bw", "ib_write_lat", "ib_write_bw", "ib_send_lat", "ib_send_bw",
	"ibstat", "ibv_devices", "ibv_devinfo", "ibv_rc_pingpong", "ibv_ud_pingpong", "rping", "ucmatose",
}

// testFiles are loaded by name at run time, so that no program's list of libraries has them: the
// verbs provider that speaks the virtual card's user ABI (rdmavt's, which is hfi1's), and what
// glibc loads at a thread's end.
var testFiles = []string{
	"/usr/lib/x86_64-linux-gnu/libibverbs/libhfi1verbs-rdmav34.so", "/lib/x86_64-linux-gnu/libgcc_s.so.1",
}

func assembleTestImage(ctx context.Context, root, packages, extra string) error {
	for _, d := range []string{"tmp", "root", "run", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return fmt.Errorf("making the test image: %w", err)
		}
	}
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.MkdirAll(filepath.Join(root, "usr", d), 0o755); err != nil {
			return fmt.Errorf("making the test image: %w", err)
		}
		if err := tree.Symlink("usr/"+d, filepath.Join(root, d)); err != nil {
			return fmt.Errorf("making the test image: %w", err)
		}
	}
	programs, err := findPrograms(packages, testPrograms)
	if err != nil {
		return err
	}
	if err := tree.CopyPrograms(packages, root, append(programs, testFiles...)...); err != nil {
		return err
	}
	if err := tree.CopyFile(filepath.Join(packages, "etc/libibverbs.d/hfi1verbs.driver"),
		filepath.Join(root, "etc/libibverbs.d/hfi1verbs.driver")); err != nil {
		return err
	}
	if err := wrapPerftest(root); err != nil {
		return err
	}
	if err := tree.Symlink("bash", filepath.Join(root, "usr/bin/sh")); err != nil {
		return fmt.Errorf("making the test image: %w", err)
	}
	if err := noderoot.LinkApplets(ctx, root); err != nil {
		return err
	}
	return tree.Copy(extra, root)
}

func findPrograms(root string, names []string) ([]string, error) {
	var paths []string
	for _, n := range names {
		found := ""
		for _, d := range []string{"/usr/bin/", "/usr/sbin/"} {
			if _, err := os.Lstat(filepath.Join(root, d, n)); err == nil {
				found = d + n
				break
			}
		}
		if found == "" {
			return nil, fmt.Errorf("no package of the test image has a program %s", n)
		}
		paths = append(paths, found)
	}
	return paths, nil
}

// wrapPerftest makes perftest's programs use the older way to post work, which the virtual card's
// verbs provider knows, and keeps quiet a library's remark that another provider does not fit.
func wrapPerftest(root string) error {
	programs, err := filepath.Glob(filepath.Join(root, "usr/bin/ib_*"))
	if err != nil {
		return fmt.Errorf("listing perftest's programs: %w", err)
	}
	for _, p := range programs {
		program := filepath.Join(root, "usr/libexec", filepath.Base(p))
		if err := tree.CopyFile(p, program); err != nil {
			return err
		}
		script := fmt.Sprintf(
			"#!/bin/bash\nexec /usr/libexec/%s --use_old_post_send \"$@\" 2> >(grep -v 'does not support the kernel "+
				"ABI' >&2)\n", filepath.Base(p))
		if err := tree.Write(p, 0o755, strings.NewReader(script)); err != nil {
			return err
		}
	}
	return nil
}

// productSources tells whether the product's commands are there to be built, and if not, what is missing.
func productSources(s gobuild.Source) (missing string) {
	for _, p := range product.Programs {
		dir := filepath.Join("cmd", p)
		if _, err := os.Stat(filepath.Join(s.Product(), dir, "main.go")); err != nil {
			return dir
		}
	}
	return ""
}

// machines is the platform of the lab's machines.
var machines = product.Platform{OS: "linux", Arch: "amd64"}

// packProduct compiles the product and packs its image into a docker-archive.
func packProduct(ctx context.Context, s gobuild.Source, out string) error {
	layer, config, err := buildProduct(ctx, s, filepath.Dir(out))
	if err != nil {
		return err
	}
	return image.Pack(layer, topology.ProductImage, config, out)
}

// splitProduct compiles the product and lays out its image for machines that run: layer, rest and
// digest, as package image has them and guest/rootfs/usr/lib/lab/load-image takes them.
func splitProduct(ctx context.Context, s gobuild.Source, dir string) error {
	layer, config, err := buildProduct(ctx, s, dir)
	if err != nil {
		return err
	}
	file := func(part string) string { return filepath.Join(dir, productFile+"."+part) }
	digest, err := image.Split(layer, topology.ProductImage, config, file("layer"), file("rest"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(file("digest"), []byte(digest+"\n"), 0o644); err != nil {
		return fmt.Errorf("writing the digest of the product's image: %w", err)
	}
	return nil
}

// buildProduct compiles the product below dir and lays out its image, by the builder that `make
// image` uses: what the lab tests is what is released, but for the compression. Compiled packages
// come from the go command's cache, so it takes about as long as linking.
func buildProduct(ctx context.Context, s gobuild.Source, dir string) (image.Layer, image.Config, error) {
	stamp, err := source.Read(ctx, s.Product(), "")
	if err != nil {
		return nil, image.Config{}, err
	}
	bin, err := os.MkdirTemp(dir, "product-")
	if err != nil {
		return nil, image.Config{}, fmt.Errorf("creating a directory for the product's programs: %w", err)
	}
	defer os.RemoveAll(bin)
	if err := product.Build(ctx, s.Product(), machines, stamp, bin); err != nil {
		return nil, image.Config{}, err
	}
	layer, err := product.Layer(bin, product.Licenses(s.Product()))
	return layer, product.Config(machines, stamp, ""), err
}
