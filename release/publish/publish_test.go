// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.yaml.in/yaml/v3"

	"spidernet.io/spiderpool/release/chart"
	"spidernet.io/spiderpool/release/image"
	"spidernet.io/spiderpool/release/product"
)

// stub is a source tree of the product's shape that compiles in a moment: its programs print what
// they are stamped with. Chart and CRDs are the real ones.
func stub(t *testing.T, dir string) string {
	t.Helper()
	program := "package main\n\nimport \"spidernet.io/spiderpool/internal/version\"\n\nfunc main() { " +
		"println(version.All()) }\n"
	for file, text := range map[string]string{
		"go.mod":                     "module spidernet.io/spiderpool\n\ngo 1.26.0\n",
		".gitignore":                 "/bin/\n",
		"LICENSE":                    "licence\n",
		"cmd/spiderpool/main.go":     program,
		"cmd/spiderpool-cni/main.go": program,
		"internal/version/version.go": "package version\n\nvar version, commit, built string\n\nfunc All() string { " +
			"return version + \" \" + commit + \" \" + built }\n",
	} {
		file = filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text),
			0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tree := range []string{"charts/spiderpool", "config/crd"} {
		if err := os.CopyFS(filepath.Join(dir, tree), os.DirFS(filepath.Join("../..", tree))); err != nil {
			t.Fatal(err)
		}
	}
	git(t, dir, "init", "-q")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "first")
	return dir
}

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.com"},
		args...)...)
	cmd.Env = append(os.Environ(), "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z", "GIT_AUTHOR_DATE=2026-01-02T03:04:05Z",
		"GIT_CONFIG_GLOBAL=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func options(root string) (Options, *bytes.Buffer) {
	var out bytes.Buffer
	return Options{
		Root: root, Out: filepath.Join(root, "bin"), Version: "v1.2.3", Platforms: product.Platforms,
		SourceURL: "https://example.com/src",
		Print:     &out, Say: NewProgress(io.Discard),
	}, &out
}

// TestImageIsReproducible builds one commit twice: in two directories, with an empty compiler's
// cache, under another umask, and with variables set that change what a compiler makes.
func TestImageIsReproducible(t *testing.T) {
	o, out := options(stub(t, t.TempDir()))
	first, s, err := Image(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if s.Dirty {
		t.Error("the clone of a commit is dirty")
	}
	t.Setenv("GOCACHE", t.TempDir())
	t.Setenv("GOAMD64", "v3")
	t.Setenv("GOARM64", "v9.0")
	t.Setenv("GOFLAGS", "-ldflags=-X=other.thing=1")
	t.Setenv("TZ", "Asia/Tokyo")
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	again, other := options(stub(t, filepath.Join(t.TempDir(), "elsewhere")))
	second, _, err := Image(t.Context(), again)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := digest(t, first), digest(t, second); a != b {
		t.Errorf("two builds of one commit: %s and %s", a, b)
	}
	a, b := read(t, filepath.Join(o.Out, "image/oci.tar")), read(t, filepath.Join(again.Out, "image/oci.tar"))
	if !bytes.Equal(a, b) {
		t.Error("two archives of one image differ")
	}
	if !strings.Contains(out.String(), "linux/arm64") || !strings.Contains(other.String(), digest(t, first)) {
		t.Errorf("the output has no sizes or no digest:\n%s", out)
	}
	stored, err := image.ReadLayout(filepath.Join(o.Out, "image/oci"))
	if err != nil || digest(t, stored) != digest(t, first) {
		t.Errorf("the layout's image: %v", err)
	}
}

func TestImageHoldsWhatThePodsNeed(t *testing.T) {
	o, _ := options(stub(t, t.TempDir()))
	index, s, err := Image(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, d := range m.Manifests {
		platforms = append(platforms, d.Platform.String())
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, img, d.Platform.Architecture, s.Commit)
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); diff != "" {
		t.Error(diff)
	}
}

func checkImage(t *testing.T, img v1.Image, arch, commit string) {
	t.Helper()
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	made := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if c.Architecture != arch || c.OS != "linux" || !c.Created.Equal(made) || !slices.Equal(c.Config.Entrypoint,
		[]string{"/usr/bin/spiderpool"}) {
		t.Errorf("configuration %+v", c)
	}
	want := map[string]string{
		"org.opencontainers.image.title": "spiderpool", "org.opencontainers.image.version": "v1.2.3",
		"org.opencontainers.image.revision": commit, "org.opencontainers.image.created": "2026-01-02T03:04:05Z",
		"org.opencontainers.image.licenses": "Apache-2.0", "org.opencontainers.image.source": "https://example.com/src",
	}
	if diff := cmp.Diff(want, c.Config.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	files := untar(t, r)
	modes := map[string]int64{}
	for name, f := range files {
		modes[name] = f.mode
	}
	wantModes := map[string]int64{"tmp/": 0o1777, "usr/": 0o755, "usr/bin/": 0o755, "usr/bin/spiderpool": 0o755,
		"usr/bin/spiderpool-cni": 0o755, "licenses/": 0o755, "licenses/LICENSE": 0o644}
	if diff := cmp.Diff(wantModes, modes); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	f, err := elf.NewFile(bytes.NewReader(files["usr/bin/spiderpool"].content))
	if err != nil {
		t.Fatal(err)
	}
	if machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]; f.Machine != machine {
		t.Errorf("the program of %s is for %s", arch, f.Machine)
	}
}

type file struct {
	mode    int64
	content []byte
}

func untar(t *testing.T, r io.Reader) map[string]file {
	t.Helper()
	files := map[string]file{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(time.Unix(0, 0)) || h.Uid != 0 || h.Uname != "" {
			t.Errorf("%s has a time or an owner", h.Name)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = file{h.Mode, content}
	}
}

func TestImageTooLarge(t *testing.T) {
	o, _ := options(stub(t, t.TempDir()))
	o.SizeLimit = 1000
	_, _, err := Image(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "linux/arm64") || !strings.Contains(err.Error(),
		"expected less than 0.0 MB") {
		t.Errorf("error %v", err)
	}
}

// serve runs a registry on loopback that forgets everything.
func serve(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// TestPush pulls what was pushed by the digest that was printed.
func TestPush(t *testing.T) {
	host := serve(t)
	o, out := options(stub(t, t.TempDir()))
	o.Registry = host + "/me"
	pushed, stamp, err := Push(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	reference := fmt.Sprintf("%s/me/spiderpool@%s", host, pushed)
	if !strings.Contains(out.String(), "pushed  "+host+"/me/spiderpool:"+stamp.Tag()+"\n        "+reference+"\n") {
		t.Errorf("the output is\n%s", out)
	}
	ref, err := name.NewDigest(reference)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatalf("pulling the digest that was printed: %v", err)
	}
	if m, err := index.IndexManifest(); err != nil || len(m.Manifests) != len(product.Platforms) {
		t.Errorf("the index has %+v, %v; expected %d images", m, err, len(product.Platforms))
	}
}

// TestRelease releases into a registry and then reads image and chart from there, as a cluster and helm do.
func TestRelease(t *testing.T) {
	host := serve(t)
	o, out := options(stub(t, t.TempDir()))
	o.Registry = host + "/me"
	r, err := Release(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	img := pulledImage(t, host+"/me/charts/spiderpool:1.2.3")
	ref, err := name.NewDigest(fmt.Sprintf("%s/%s@%s", img["registry"], img["repository"], img["digest"]))
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatalf("pulling the image that the chart names: %v", err)
	}
	if want := fmt.Sprintf("%s/me/spiderpool:v1.2.3@%s", host, digest(t, index)); r.Image != want ||
		img["registry"] != host {
		t.Errorf("the chart has %v, the result %s; want %s", img, r.Image, want)
	}
	if !strings.Contains(out.String(), r.Image) || !strings.Contains(out.String(), r.Install) ||
		!strings.Contains(r.Install,
			"oci://"+host+"/me/charts/spiderpool --version 1.2.3 --namespace kube-system --reuse-values "+
				"--set sriov.install=true --plain-http") {
		t.Errorf("the output is\n%s", out)
	}
	checkFiles(t, r.Dir)

	// The same again is no change; something else under the same version is refused, before
	// anything is written.
	if again, err := Release(t.Context(), o); err != nil || again != r {
		t.Errorf("the same release again: %+v, %v", again, err)
	}
	git(t, o.Root, "commit", "-q", "--allow-empty", "-m", "second")
	if _, err := Release(t.Context(), o); err == nil || !strings.Contains(err.Error(),
		"already published with digest sha256:") {
		t.Errorf("another commit under the same version: %v", err)
	}
}

// pulledImage pulls the chart as helm does and returns its default values.
func pulledImage(t *testing.T, ref string) map[string]any {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Get(tag)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(d.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	if m.Config.MediaType != chart.ConfigMediaType || len(m.Layers) != 1 ||
		m.Layers[0].MediaType != chart.LayerMediaType ||
		m.Annotations["org.opencontainers.image.title"] != "spiderpool" ||
		m.Annotations["org.opencontainers.image.version"] != "1.2.3" {
		t.Errorf("the chart's manifest is %s", d.Manifest)
	}
	layer, err := remote.Layer(tag.Context().Digest(m.Layers[0].Digest.String()))
	if err != nil {
		t.Fatal(err)
	}
	r, err := layer.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	z, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	files := untar(t, z)
	var img map[string]any
	if err := yaml.Unmarshal(files["spiderpool/release.yaml"].content, &img); err != nil {
		t.Fatal(err)
	}
	return img
}

func checkFiles(t *testing.T, dir string) {
	t.Helper()
	sums := string(read(t, filepath.Join(dir, "SHA256SUMS")))
	want := []string{
		"SHA256SUMS", "spiderpool-1.2.3.tgz", "spiderpool-v1.2.3-crds.yaml", "spiderpool-v1.2.3-image.oci.tar",
		"spiderpool-v1.2.3-linux-amd64.cdx.json", "spiderpool-v1.2.3-linux-amd64.tar.gz",
		"spiderpool-v1.2.3-linux-arm64.cdx.json", "spiderpool-v1.2.3-linux-arm64.tar.gz",
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
		if e.Name() == "SHA256SUMS" {
			continue
		}
		line := fmt.Sprintf("%x  %s\n", sha256.Sum256(read(t, filepath.Join(dir, e.Name()))), e.Name())
		if !strings.Contains(sums, line) {
			t.Errorf("SHA256SUMS lacks %q", line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	z, err := gzip.NewReader(bytes.NewReader(read(t, filepath.Join(dir, "spiderpool-v1.2.3-linux-arm64.tar.gz"))))
	if err != nil {
		t.Fatal(err)
	}
	programs := untar(t, z)
	const base = "spiderpool-v1.2.3-linux-arm64/"
	if programs[base+"spiderpool"].mode != 0o755 || programs[base+"spiderpool-cni"].mode != 0o755 ||
		programs[base+"LICENSE"].mode != 0o644 {
		t.Errorf("the archive of programs is wrong: %d entries", len(programs))
	}
	checkCRDs(t, read(t, filepath.Join(dir, "spiderpool-v1.2.3-crds.yaml")))
}

func checkCRDs(t *testing.T, bundle []byte) {
	t.Helper()
	files, err := filepath.Glob("../../config/crd/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	for d := yaml.NewDecoder(bytes.NewReader(bundle)); ; names++ {
		var o struct{ Kind string }
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil || o.Kind != "CustomResourceDefinition" {
			t.Fatalf("document %d: %+v, %v", names, o, err)
		}
	}
	if names != len(files) {
		t.Errorf("the bundle has %d CRDs, and there are %d", names, len(files))
	}
}

// What is wrong is said before minutes of compiling, and nothing is built.
func TestRefusedAtOnce(t *testing.T) {
	root := stub(t, t.TempDir())
	for name, test := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"no registry":       {func(o *Options) { o.Registry = "" }, "REGISTRY is empty"},
		"no version":        {func(o *Options) { o.Version = "" }, "expected VERSION=v<major>.<minor>.<patch>"},
		"version without v": {func(o *Options) { o.Version = "1.2.3" }, "expected a semantic version with a leading v"},
		"one platform": {func(o *Options) { o.Platforms = product.Platforms[:1] },
			"expected all of [linux/amd64 linux/arm64]"},
		"changes": {func(*Options) {
			if err := os.WriteFile(filepath.Join(root, "new"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "set ALLOW_DIRTY=1"},
	} {
		t.Run(name, func(t *testing.T) {
			o, _ := options(root)
			o.Registry = "127.0.0.1:1"
			test.change(&o)
			if _, err := Release(t.Context(), o); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if _, err := os.Stat(o.Out); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("something was built: %v", err)
			}
			if err := os.Remove(filepath.Join(root, "new")); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		})
	}
	o, _ := options(root)
	o.Registry = ""
	if _, _, err := Push(t.Context(), o); err == nil || !strings.Contains(err.Error(), "REGISTRY is empty") {
		t.Errorf("push: %v", err)
	}
}

// A release whose image is refused leaves no chart that names it.
func TestReleaseWithoutImageHasNoChart(t *testing.T) {
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/me/spiderpool/manifests/") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	defer s.Close()
	o, _ := options(stub(t, t.TempDir()))
	o.Registry = strings.TrimPrefix(s.URL, "http://") + "/me"
	if _, err := Release(t.Context(), o); err == nil || !strings.Contains(err.Error(),
		"may not write to me/spiderpool") {
		t.Errorf("error %v", err)
	}
	if _, found, err := o.Client.Digest(t.Context(), o.Registry+"/charts/spiderpool", "1.2.3"); err != nil || found {
		t.Errorf("the chart was pushed: %t, %v", found, err)
	}
}

func digest(t *testing.T, index v1.ImageIndex) string {
	t.Helper()
	d, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
