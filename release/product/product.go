// SPDX-License-Identifier: Apache-2.0

// Package product compiles the product's programs and lays out its image: which programs, for which
// platforms, by which compiler settings, where in the image. It knows nothing of registries and
// charts.
package product

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"spidernet.io/spiderpool/release/archive"
	"spidernet.io/spiderpool/release/image"
	"spidernet.io/spiderpool/release/source"
)

// Programs are the product's commands; the first is the image's entry point.
var Programs = []string{"spiderpool", "spiderpool-cni"}

// ImageName is the last part of the image's name in a registry.
const ImageName = "spiderpool"

// SizeLimit is what an image may have on each platform, compressed or not.
const SizeLimit = 80_000_000

// Platform is an operating system and an architecture.
type Platform struct{ OS, Arch string }

// Platforms are those that the product is built for.
var Platforms = []Platform{{"linux", "amd64"}, {"linux", "arm64"}}

func (p Platform) String() string { return p.OS + "/" + p.Arch }

// Dir is the platform as part of a file's name.
func (p Platform) Dir() string { return p.OS + "-" + p.Arch }

// ParsePlatforms reads a list with commas or blanks; an empty one is all platforms.
func ParsePlatforms(list string) ([]Platform, error) {
	var out []Platform
	for _, word := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		i := slices.IndexFunc(Platforms, func(p Platform) bool { return p.String() == word })
		if i < 0 {
			return nil, fmt.Errorf("reading the platforms: %q is not one: expected some of %v", word, Platforms)
		}
		if !slices.Contains(out, Platforms[i]) {
			out = append(out, Platforms[i])
		}
	}
	if len(out) == 0 {
		return Platforms, nil
	}
	return out, nil
}

// Build compiles the programs of the module at root for the platform into the directory out. They are static.
func Build(ctx context.Context, root string, p Platform, s source.Stamp, out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("making a directory for %s: %w", p, err)
	}
	for _, program := range Programs {
		file := filepath.Join(out, program)
		if err := compile(ctx, root, p, s, "./cmd/"+program, file); err != nil {
			return err
		}
		if err := checkStatic(file); err != nil {
			return err
		}
	}
	return nil
}

func compile(ctx context.Context, root string, p Platform, s source.Stamp, pkg, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= "+s.LDFlags(), "-o", out, pkg)
	cmd.Dir = root
	// What a builder may have set and would change the result is set here; GOFLAGS not to nothing,
	// because then what `go env -w` stored counts.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.OS, "GOARCH="+p.Arch, "GOAMD64=v1", "GOARM64=v8.0",
		"GOFLAGS=-mod=readonly", "GOFIPS140=off", "GOEXPERIMENT=", "GOWORK=off")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("compiling %s for %s: %w\n%s", pkg, p, err, said.Bytes())
	}
	return nil
}

// checkStatic refuses a program that needs a dynamic loader: the image has none.
func checkStatic(file string) (err error) {
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("reading the program %s: %w", file, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("checking the program %s: it needs a dynamic loader: expected a static program", file)
		}
	}
	return nil
}

// Licenses are the paths of the licence texts that have to go wherever the programs go, of those that
// the tree at root has: a tree of an older version may have none.
func Licenses(root string) []string {
	var found []string
	for _, name := range []string{"LICENSE", "NOTICE", "THIRD_PARTY_LICENSES"} {
		path := filepath.Join(root, name)
		if _, err := os.Stat(path); err == nil {
			found = append(found, path)
		}
	}
	return found
}

// Layer lays out the image's files: the programs of the directory bin, the licence texts in
// /licenses, where scanners of images look, and an empty /tmp. Modes are given here, not read,
// because those of files depend on the builder's umask.
func Layer(bin string, licenses []string) (image.Layer, error) {
	entries := []archive.Entry{
		{Name: "tmp", Dir: true, Mode: 0o777 | fs.ModeSticky},
		{Name: "usr", Dir: true, Mode: 0o755},
		{Name: "usr/bin", Dir: true, Mode: 0o755},
	}
	for _, program := range Programs {
		entries = append(entries, archive.Entry{Name: "usr/bin/" + program, Mode: 0o755,
			Path: filepath.Join(bin, program)})
	}
	if len(licenses) > 0 {
		entries = append(entries, archive.Entry{Name: "licenses", Dir: true, Mode: 0o755})
	}
	for _, path := range licenses {
		entries = append(entries, archive.Entry{Name: "licenses/" + filepath.Base(path), Mode: 0o644, Path: path})
	}
	return image.FromEntries(entries)
}

// Config is the image's configuration. It names no user: the chart gives each container its own.
func Config(p Platform, s source.Stamp, sourceURL string) image.Config {
	return image.Config{
		Entrypoint: []string{"/usr/bin/" + Programs[0]}, Architecture: p.Arch, Created: s.Time,
		Labels: Labels(s, sourceURL),
	}
}

// Labels say what the image is, in the keys of the OCI image specification. An unknown one is left out.
func Labels(s source.Stamp, sourceURL string) map[string]string {
	labels := map[string]string{
		"org.opencontainers.image.title":    ImageName,
		"org.opencontainers.image.version":  s.Version,
		"org.opencontainers.image.revision": s.Commit,
		"org.opencontainers.image.created":  s.Built(),
		"org.opencontainers.image.licenses": "Apache-2.0",
		"org.opencontainers.image.source":   sourceURL,
	}
	for key, value := range labels {
		if value == "" {
			delete(labels, key)
		}
	}
	return labels
}
