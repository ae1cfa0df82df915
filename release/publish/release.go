// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"spidernet.io/spiderpool/release/archive"
	"spidernet.io/spiderpool/release/chart"
	"spidernet.io/spiderpool/release/product"
	"spidernet.io/spiderpool/release/registry"
	"spidernet.io/spiderpool/release/sbom"
	"spidernet.io/spiderpool/release/source"
)

// chartsPath is where charts go below the registry's path; helm adds the chart's name.
const chartsPath = "charts"

// Result is what a release published.
type Result struct {
	Version string
	// Image and Chart are full names with digests.
	Image, Chart string
	// Dir holds the files.
	Dir string
	// Install is the command that installs the release.
	Install string
}

// Release builds everything, pushes image and chart, and leaves the release's files in
// release/<version>. What is already published under the version is not replaced by something else.
func Release(ctx context.Context, o Options) (Result, error) {
	l, err := o.checkRelease(ctx)
	if err != nil {
		return Result{}, err
	}
	index, s, err := Image(ctx, o)
	if err != nil {
		return Result{}, err
	}
	digest, err := index.Digest()
	if err != nil {
		return Result{}, fmt.Errorf("reading the image's digest: %w", err)
	}
	c, err := chart.Package(filepath.Join(o.Root, "charts/spiderpool"), s.Version, chart.Image{
		Registry: l.Host, Repository: l.Repository(product.ImageName), Digest: digest.String(), Tag: s.Tag(),
	})
	if err != nil {
		return Result{}, err
	}
	artifact, err := c.Artifact(chartAnnotations(c, s, o.SourceURL))
	if err != nil {
		return Result{}, err
	}
	chartDigest, err := artifact.Digest()
	if err != nil {
		return Result{}, fmt.Errorf("reading the chart's digest: %w", err)
	}
	dir, err := o.writeFiles(s, c)
	if err != nil {
		return Result{}, err
	}
	chartName := l.Name(chartsPath + "/" + c.Name)
	if err := o.checkUnpublished(ctx, l.Name(product.ImageName), s.Tag(), digest); err != nil {
		return Result{}, err
	}
	if err := o.checkUnpublished(ctx, chartName, c.Tag(), chartDigest); err != nil {
		return Result{}, err
	}
	if _, err := o.pushIndex(ctx, l, s.Tag(), index); err != nil {
		return Result{}, err
	}
	// The chart comes last: it must not be found before the image that it names.
	if _, err := o.Client.PushImage(ctx, chartName, c.Tag(), artifact); err != nil {
		return Result{}, err
	}
	r := Result{
		Version: s.Version, Dir: dir,
		Image: fmt.Sprintf("%s:%s@%s", l.Name(product.ImageName), s.Tag(), digest),
		Chart: fmt.Sprintf("%s:%s@%s", chartName, c.Tag(), chartDigest),
		Install: fmt.Sprintf("helm upgrade --install spiderpool oci://%s --version %s --namespace kube-system "+
			"--reuse-values --set sriov.install=true%s",
			chartName, c.Version, o.plainHTTP(l)),
	}
	return r, o.report(r)
}

func (o Options) checkRelease(ctx context.Context) (registry.Location, error) {
	if err := source.CheckVersion(o.Version); err != nil {
		return registry.Location{}, err
	}
	l, err := registry.Parse(o.Registry)
	if err != nil {
		return l, err
	}
	if len(o.Platforms) != len(product.Platforms) {
		return l, fmt.Errorf("releasing %s: the platforms are %v: expected all of %v: leave out PLATFORMS", o.Version,
			o.Platforms, product.Platforms)
	}
	s, err := source.Read(ctx, o.Root, o.Version)
	if err != nil {
		return l, err
	}
	return l, s.CheckRelease(o.AllowDirty)
}

// checkUnpublished refuses to move a version's tag: who installed it would get something else by
// the same name.
func (o Options) checkUnpublished(ctx context.Context, repository, tag string, digest v1.Hash) error {
	published, found, err := o.Client.Digest(ctx, repository, tag)
	if err != nil || !found || published == digest {
		return err
	}
	return fmt.Errorf("releasing %s:%s: it is already published with digest %s: expected none, or %s: "+
		"choose the next VERSION, or delete the tag at the registry if it was never used", repository, tag, published,
		digest)
}

func (o Options) plainHTTP(l registry.Location) string {
	if o.Client.Insecure || registry.IsLoopback(l.Host) {
		return " --plain-http"
	}
	return ""
}

func chartAnnotations(c chart.Chart, s source.Stamp, sourceURL string) map[string]string {
	a := product.Labels(s, sourceURL)
	a["org.opencontainers.image.title"], a["org.opencontainers.image.version"] = c.Name, c.Version
	return a
}

// writeFiles writes the release's files and their checksums into a new directory.
func (o Options) writeFiles(s source.Stamp, c chart.Chart) (string, error) {
	dir := filepath.Join(o.Out, "release", s.Version)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return "", fmt.Errorf("making the release's directory: %w", err)
	}
	files := map[string][]byte{c.FileName(): c.Archive}
	var err error
	if files["spiderpool-"+s.Version+"-crds.yaml"], err = crdBundle(filepath.Join(o.Root, "config/crd")); err != nil {
		return "", err
	}
	image, err := os.ReadFile(filepath.Join(o.Out, "image/oci.tar"))
	if err != nil {
		return "", fmt.Errorf("reading the image's archive: %w", err)
	}
	files["spiderpool-"+s.Version+"-image.oci.tar"] = image
	for _, p := range o.Platforms {
		base := "spiderpool-" + s.Version + "-" + p.Dir()
		var programs []string
		for _, program := range product.Programs {
			programs = append(programs, filepath.Join(o.programs(p), program))
		}
		if files[base+".tar.gz"], err = o.programArchive(base, programs); err != nil {
			return "", err
		}
		subject := sbom.Subject{Name: product.ImageName, Version: s.Version, Platform: p.String(), Time: s.Time}
		if files[base+".cdx.json"], err = sbom.JSON(subject, programs); err != nil {
			return "", err
		}
	}
	files["SHA256SUMS"] = checksums(files)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return "", fmt.Errorf("writing the release: %w", err)
		}
	}
	return dir, nil
}

// programArchive packs the programs, with the licence where the tree has it.
func (o Options) programArchive(base string, programs []string) ([]byte, error) {
	entries := []archive.Entry{{Name: base, Dir: true, Mode: 0o755}}
	for _, path := range product.Licenses(o.Root) {
		entries = append(entries, archive.Entry{Name: base + "/" + filepath.Base(path), Mode: 0o644, Path: path})
	}
	for _, p := range programs {
		entries = append(entries, archive.Entry{Name: base + "/" + filepath.Base(p), Mode: 0o755, Path: p})
	}
	return archive.TarGz(entries)
}

// crdBundle joins the CRDs into one manifest for kubectl.
func crdBundle(dir string) ([]byte, error) {
	files, err := fs.Glob(os.DirFS(dir), "*.yaml")
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("bundling the CRDs: %s has none: expected those that `make generate` writes (%w)", dir,
			err)
	}
	slices.Sort(files)
	var out bytes.Buffer
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			return nil, fmt.Errorf("bundling the CRDs: %w", err)
		}
		fmt.Fprintf(&out, "---\n%s\n", strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(string(text)), "---")))
	}
	return out.Bytes(), nil
}

// checksums is what `sha256sum -c` reads.
func checksums(files map[string][]byte) []byte {
	var out bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&out, "%x  %s\n", sha256.Sum256(files[name]), name)
	}
	return out.Bytes()
}

func (o Options) report(r Result) error {
	fmt.Fprintf(o.Print, "\nreleased %s\nimage    %s\nchart    %s\nfiles    %s\n", r.Version, r.Image, r.Chart, r.Dir)
	sums, err := os.ReadFile(filepath.Join(r.Dir, "SHA256SUMS"))
	if err != nil {
		return fmt.Errorf("reading the checksums: %w", err)
	}
	fmt.Fprintf(o.Print, "\n%s\ninstall with\n  %s\n", sums, r.Install)
	return nil
}
