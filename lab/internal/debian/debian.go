// SPDX-License-Identifier: Apache-2.0

// Package debian fetches Debian packages with apt's own programs and unpacks them into directories,
// as an ordinary user and without touching what is installed: apt is given a state of its own, in
// which nothing is installed, so that it resolves every dependency. Maintainer scripts never run.
// The host's package sources and keyrings are used as they are.
package debian

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Apt is a private state of apt.
type Apt struct{ dir string }

// Open returns the private apt state in dir, with current package lists. It downloads them: some seconds.
func Open(ctx context.Context, dir string) (*Apt, error) {
	a := &Apt{dir: dir}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "empty/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("making apt's private state: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "status"), nil, 0o644); err != nil {
		return nil, fmt.Errorf("making apt's private state: %w", err)
	}
	if _, err := a.run(ctx, "apt-get", "update"); err != nil {
		return nil, fmt.Errorf("fetching package lists: %w", err)
	}
	return a, nil
}

// options point every apt program at the private state.
func (a *Apt) options() []string {
	var args []string
	for _, o := range []string{
		"Dir::State=" + a.dir + "/state",
		"Dir::State::status=" + a.dir + "/status",
		"Dir::Cache=" + a.dir + "/cache",
		"Debug::NoLocking=1",        // the cache's lock serves
		"APT::Sandbox::User=",       // no change of user
		"Acquire::Languages=none",   // no translations
		"APT::Install-Recommends=0", // only what is needed
		"Binary::apt::Keep-Downloaded-Packages=1",
	} {
		args = append(args, "-o", o)
	}
	return args
}

// Kernel returns the release (as in "6.1.0-56-amd64") of the kernel that the distribution installs
// by default.
func (a *Apt) Kernel(ctx context.Context) (string, error) {
	const meta = "linux-image-amd64"
	out, err := a.run(ctx, "apt-cache", "depends", meta)
	if err != nil {
		return "", fmt.Errorf("asking for the default kernel: %w", err)
	}
	return parseKernel(out)
}

var kernelDependency = regexp.MustCompile(`(?m)^\s*Depends: linux-image-([0-9]\S*)$`)

func parseKernel(depends []byte) (string, error) {
	m := kernelDependency.FindSubmatch(depends)
	if m == nil {
		return "",
			fmt.Errorf("linux-image-amd64 names no kernel: expected a line \"Depends: linux-image-VERSION\", found %q",
				depends)
	}
	return string(m[1]), nil
}

// Download fetches packages and, if withDependencies, all they depend on. It returns the files' paths.
func (a *Apt) Download(ctx context.Context, withDependencies bool, packages ...string) ([]string, error) {
	verb := "download"
	if withDependencies {
		verb = "install"
	}
	// The plan leaves out what was downloaded before, so it is made with an empty place for downloads.
	ask := []string{"-o", "Dir::Cache::archives=" + a.dir + "/empty", "--print-uris", "-qq", "-y", verb}
	plan, err := a.run(ctx, "apt-get", append(ask, packages...)...)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", strings.Join(packages, " "), err)
	}
	archives := filepath.Join(a.dir, "cache/archives")
	if withDependencies {
		_, err = a.run(ctx, "apt-get", append([]string{"--download-only", "-y", "install"}, packages...)...)
	} else {
		_, err = a.runIn(ctx, archives, "apt-get", append([]string{"download"}, packages...)...)
	}
	if err != nil {
		return nil, fmt.Errorf("downloading %s: %w", strings.Join(packages, " "), err)
	}
	return planned(archives, plan), nil
}

// planned turns the lines of apt-get --print-uris ('uri' file size hash) into the paths of the
// downloaded files.
func planned(archives string, plan []byte) []string {
	var files []string
	for line := range strings.Lines(string(plan)) {
		if f := strings.Fields(line); len(f) >= 3 && strings.HasPrefix(f[0], "'") {
			files = append(files, filepath.Join(archives, f[1]))
		}
	}
	return files
}

// Unpack lays the packages' files into root, whose /bin, /sbin and /lib are links into /usr as on
// every current Debian.
func Unpack(ctx context.Context, root string, files []string) error {
	if err := mergedUsr(root); err != nil {
		return err
	}
	for _, f := range files {
		if err := unpackOne(ctx, root, f); err != nil {
			return fmt.Errorf("unpacking %s: %w", filepath.Base(f), err)
		}
	}
	return nil
}

func mergedUsr(root string) error {
	for _, d := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		if err := os.MkdirAll(filepath.Join(root, "usr", d), 0o755); err != nil {
			return fmt.Errorf("making the root's skeleton: %w", err)
		}
		if err := os.Symlink("usr/"+d, filepath.Join(root, d)); err != nil && !os.IsExist(err) {
			return fmt.Errorf("making the root's skeleton: %w", err)
		}
	}
	return nil
}

// unpackOne is dpkg-deb -x, with tar told to follow the links that mergedUsr made.
func unpackOne(ctx context.Context, root, file string) error {
	deb := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", file)
	tar := exec.CommandContext(ctx, "tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-p", "-C", root)
	var said bytes.Buffer
	deb.Stderr, tar.Stderr = &said, &said
	pipe, err := deb.StdoutPipe()
	if err != nil {
		return err
	}
	tar.Stdin = pipe
	if err := deb.Start(); err != nil {
		return err
	}
	tarErr := tar.Run()
	if err := deb.Wait(); err != nil {
		return fmt.Errorf("dpkg-deb: %w\n%s", err, said.Bytes())
	}
	if tarErr != nil {
		return fmt.Errorf("tar: %w\n%s", tarErr, said.Bytes())
	}
	return nil
}

func (a *Apt) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	return a.runIn(ctx, "", name, args...)
}

func (a *Apt) runIn(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, append(a.options(), args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", name, args[0], err, stderr.Bytes())
	}
	return out, nil
}
