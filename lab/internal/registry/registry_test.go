// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// serve opens the registry of a directory and returns its address and how to end it.
func serve(t *testing.T, dir string) (address string, end func()) {
	t.Helper()
	h, err := Open(dir, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	return strings.TrimPrefix(s.URL, "http://"), s.Close
}

func reference(t *testing.T, text string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(text)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// TestContentOutlivesTheProcess pushes an image of two platforms and a tag that is moved, and pulls
// them from a second registry on the same directory.
func TestContentOutlivesTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "registry")
	address, end := serve(t, dir)
	index, err := random.Index(1024, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	var images []v1.Image
	for range 2 {
		image, err := random.Image(1024, 1)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, image)
	}
	if err := remote.WriteIndex(reference(t, address+"/a/b:both"), index); err != nil {
		t.Fatal(err)
	}
	for _, image := range images {
		if err := remote.Write(reference(t, address+"/a/b:moves"), image); err != nil {
			t.Fatal(err)
		}
	}
	end()

	f, err := os.OpenFile(filepath.Join(dir, manifests), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"Path":"/v2/a/b/manif`); err != nil { // killed while it wrote
		t.Fatal(err)
	}
	f.Close()
	for range 2 { // the second start finds what the first one has repaired
		address, end = serve(t, dir)
		got, err := remote.Index(reference(t, address+"/a/b:both"))
		if err != nil {
			t.Fatal(err)
		}
		checkSame(t, "index", index, got)
		image, err := remote.Image(reference(t, address+"/a/b:moves"))
		if err != nil {
			t.Fatal(err)
		}
		checkSame(t, "the tag that moved", images[1], image)
		layers, err := image.Layers()
		if err != nil {
			t.Fatal(err)
		}
		digest, err := layers[0].Digest()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(Blob(dir, digest.String())); err != nil {
			t.Errorf("the layer's file: %v", err)
		}
		end()
	}
}

func checkSame(t *testing.T, what string, want, got interface{ Digest() (v1.Hash, error) }) {
	t.Helper()
	w, err := want.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if g, err := got.Digest(); err != nil || g != w {
		t.Errorf("%s has digest %s, %v; expected %s", what, g, err, w)
	}
}

// TestRefusedManifestsAreNotKept pushes what the registry refuses: a start afterwards must not fail
// on it.
func TestRefusedManifestsAreNotKept(t *testing.T) {
	dir := t.TempDir()
	address, end := serve(t, dir)
	ref := reference(t, address+"/a/b:1")
	index, err := random.Index(16, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Put(ref, index); err == nil { // without the image that it lists
		t.Error("an index without its image was accepted")
	}
	if err := remote.Delete(ref); err == nil {
		t.Error("a manifest was deleted")
	}
	end()
	_, end = serve(t, dir)
	end()
}

func TestBrokenDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, manifests), []byte("{\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, t.Output()); err == nil || !strings.Contains(err.Error(), "manifests") {
		t.Errorf("error %v; expected one that names the manifests", err)
	}
}
