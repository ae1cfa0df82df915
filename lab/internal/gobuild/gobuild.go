// SPDX-License-Identifier: Apache-2.0

// Package gobuild builds the Go programs the lab runs: static, and without paths of the machine in them.
//
// The Kubernetes programs are kept in the lab's cache, keyed by what they are compiled from,
// because linking them takes a quarter of a minute even when the go command has everything
// compiled. The small ones are left to the go command's own cache.
package gobuild

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"spidernet.io/spiderpool/lab/internal/cache"
)

// LabModule is the path of the lab's Go module.
const LabModule = "spidernet.io/spiderpool/lab"

const kubernetesModule = "k8s.io/kubernetes"

// kubeBinaries are the names that each of the lab's two multicall binaries answers to.
var kubeBinaries = map[string][]string{
	"kube":     {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"},
	"kubenode": {"kubelet", "kube-proxy"},
}

// Source is where the lab's Go module lies.
type Source struct{ Lab string }

// FindSource looks for the lab's module in dir and its parents: as the module itself or as its folder "lab".
func FindSource(dir string) (Source, error) {
	for d := dir; ; d = filepath.Dir(d) {
		for _, candidate := range []string{d, filepath.Join(d, "lab")} {
			b, err := os.ReadFile(filepath.Join(candidate, "go.mod"))
			if err == nil && bytes.HasPrefix(b, []byte("module "+LabModule+"\n")) {
				return Source{Lab: candidate}, nil
			}
		}
		if d == filepath.Dir(d) {
			return Source{},
				fmt.Errorf("module %s not found in %s or above: run the command inside a clone of the project",
					LabModule, dir)
		}
	}
}

// Product is the root of the product's Go module, which contains the lab's.
func (s Source) Product() string { return filepath.Dir(s.Lab) }

// Build compiles the package pkg of the module in dir to the file out. ldflags are added to those
// every build has.
func Build(ctx context.Context, dir, pkg, out, ldflags string) error {
	args := []string{"build", "-trimpath", "-ldflags", strings.TrimSpace("-s -w " + ldflags), "-o", out, pkg}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("compiling %s: %w\n%s", pkg, err, said.Bytes())
	}
	return nil
}

// Kube returns a directory that holds the Kubernetes programs, each under its own name in bin/,
// built at most once per machine. Beside bin/ lie the binaries behind the names: kube for the host,
// kubenode for the machines.
func Kube(ctx context.Context, c cache.Dir, s Source) (string, error) {
	version, err := moduleVersion(ctx, s.Lab, kubernetesModule)
	if err != nil {
		return "", err
	}
	key, err := dependencyKey(ctx, s.Lab, "./cmd/kube", "./cmd/kubenode")
	if err != nil {
		return "", err
	}
	key.Words(version).Tree(filepath.Join(s.Lab, "cmd/kube"), filepath.Join(s.Lab, "cmd/kubenode"))
	return c.Get("kube", key, func(dir string) error {
		for binary, names := range kubeBinaries {
			if err := Build(ctx, s.Lab, "./cmd/"+binary, filepath.Join(dir, binary),
				versionFlags(version)); err != nil {
				return err
			}
			if err := linkPrograms(dir, binary, names); err != nil {
				return err
			}
		}
		return nil
	})
}

// Helm returns the path of the helm program, built at most once per machine.
func Helm(ctx context.Context, c cache.Dir, s Source) (string, error) {
	const pkg = "helm.sh/helm/v4/cmd/helm"
	key, err := dependencyKey(ctx, s.Lab, pkg)
	if err != nil {
		return "", err
	}
	dir, err := c.Get("helm", key, func(dir string) error {
		return Build(ctx, s.Lab, pkg, filepath.Join(dir, "helm"), "")
	})
	return filepath.Join(dir, "helm"), err
}

func linkPrograms(dir, binary string, names []string) error {
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("making the directory of Kubernetes programs: %w", err)
	}
	for _, name := range names {
		if err := os.Symlink("../"+binary, filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("naming a Kubernetes program: %w", err)
		}
	}
	return nil
}

// versionFlags set what Kubernetes' own build sets: kubelet reports it as the node's version, and
// charts ask for it.
func versionFlags(version string) string {
	major, minor, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	var flags []string
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, set := range []string{"gitVersion=" + version, "gitMajor=" + major, "gitMinor=" + minor,
			"gitTreeState=clean"} {
			flags = append(flags, "-X "+pkg+"."+set)
		}
	}
	return strings.Join(flags, " ")
}

// dependencyKey is the key of a program's foreign code: the go command's version and each module's
// version and checksum.
func dependencyKey(ctx context.Context, dir string, packages ...string) (*cache.Key, error) {
	pkg := strings.Join(packages, " ")
	out, err := output(ctx, dir, "go", append([]string{"list", "-deps", "-json=Module"}, packages...)...)
	if err != nil {
		return nil, fmt.Errorf("listing what %s is made of: %w", pkg, err)
	}
	modules, err := parseModules(bytes.NewReader(out))
	if err != nil {
		return nil, fmt.Errorf("reading what %s is made of: %w", pkg, err)
	}
	return cache.NewKey(runtime.Version(), runtime.GOARCH).Words(modules...), nil
}

type module struct {
	Path, Version, Sum string
	Main               bool
	Replace            *module
}

// parseModules reads `go list -deps -json=Module` and returns each foreign module once, in order of
// first use.
func parseModules(r io.Reader) ([]string, error) {
	var words []string
	seen := map[string]bool{}
	for dec := json.NewDecoder(r); ; {
		var p struct{ Module *module }
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return words, nil
		} else if err != nil {
			return nil, err
		}
		m := p.Module
		if m == nil || m.Main || seen[m.Path] {
			continue
		}
		seen[m.Path] = true
		if m.Replace != nil {
			m = m.Replace
		}
		words = append(words, m.Path+"@"+m.Version+" "+m.Sum)
	}
}

func moduleVersion(ctx context.Context, dir, path string) (string, error) {
	out, err := output(ctx, dir, "go", "list", "-m", "-f", "{{.Version}}", path)
	if err != nil {
		return "", fmt.Errorf("asking for the version of %s: %w", path, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func output(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, stderr.Bytes())
	}
	return out, nil
}
