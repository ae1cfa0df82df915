// SPDX-License-Identifier: Apache-2.0

package cniinstall

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestBinariesInstallAndRemove(t *testing.T) {
	dir, src := t.TempDir(), write(t, t.TempDir(), "shim", "shim 1")
	write(t, dir, "ib-sriov", "another product's")
	write(t, dir, "bridge", "bridge")
	plugins := []string{"ib-sriov", "ipoib"}
	for range 2 {
		if err := InstallBinaries(src, dir, plugins); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range plugins {
		if got := read(t, filepath.Join(dir, name)); got != "shim 1" || !Ours(dir, name) {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if Ours(dir, "bridge") {
		t.Error("bridge is taken for ours")
	}
	write(t, filepath.Dir(src), "shim", "shim 2")
	if err := InstallBinaries(src, dir, plugins); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(dir, "ipoib")); got != "shim 2" {
		t.Errorf("after an upgrade ipoib holds %q", got)
	}
	if err := RemoveBinaries(dir, plugins); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"bridge", "ib-sriov"}, names(t, dir)); diff != "" {
		t.Errorf("left after removal (-want +got):\n%s", diff)
	}
	if got := read(t, filepath.Join(dir, "ib-sriov")); got != "another product's" {
		t.Errorf("the other product's plugin came back as %q", got)
	}
}

func TestFindPrimary(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
		err   error
	}{
		{name: "empty", err: ErrNoPrimary},
		{name: "conflist",
			files: map[string]string{"10-cali.conflist": `{"name":"k8s-pod-network","plugins":[{"type":"calico"}]}`},
			want:  "k8s-pod-network"},
		{name: "first wins", files: map[string]string{"20-b.conf": `{"name":"b","type":"bridge"}`,
			"10-a.conf": `{"name":"a","type":"ptp"}`}, want: "a"},
		{name: "meta plugins are passed over",
			files: map[string]string{ConfName: `{"name":"m","type":"multus","owner":"spiderpool"}`,
				"10-a.conf": `{"name":"a","type":"ptp"}`}, want: "a"},
		{name: "broken file is passed over", files: map[string]string{"05-x.conf": `{`,
			"10-a.conf": `{"name":"a","type":"ptp"}`}, want: "a"},
		{name: "only a broken file", files: map[string]string{"05-x.conf": `{`}, err: ErrNoPrimary},
		{name: "other endings do not count", files: map[string]string{"10-a.conf.bak": `{"name":"a","type":"ptp"}`},
			err: ErrNoPrimary},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range c.files {
				write(t, dir, name, text)
			}
			got, err := FindPrimary(dir)
			if got.Name != c.want || !errors.Is(err, c.err) {
				t.Errorf("FindPrimary = %+v, %v; want %q, %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestWriteConf(t *testing.T) {
	dir := t.TempDir()
	o := ConfOptions{Dir: dir, Namespace: "kube-system", Socket: "/run/s.sock"}
	if _, err := WriteConf(o); !errors.Is(err, ErrNoPrimary) {
		t.Fatalf("without a primary network: %v", err)
	}
	if n := names(t, dir); len(n) != 0 {
		t.Fatalf("without a primary network there are %v", n)
	}
	write(t, dir, "10-lab.conflist", `{"name":"lab","plugins":[{"type":"bridge"}]}`)
	for range 2 {
		p, err := WriteConf(o)
		if err != nil || p.Name != "lab" || filepath.Base(p.File) != "10-lab.conflist" {
			t.Fatalf("WriteConf = %+v, %v", p, err)
		}
	}
	o.ClusterNetwork = "chosen"
	if p, err := WriteConf(o); err != nil || p.Name != "chosen" {
		t.Fatalf("WriteConf = %+v, %v", p, err)
	}
	if diff := cmp.Diff([]string{ConfName, "10-lab.conflist"}, names(t, dir)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if err := RemoveConf(dir); err != nil {
		t.Fatal(err)
	}
	foreign := write(t, dir, ConfName, `{"name":"multus","type":"multus"}`)
	if _, err := WriteConf(o); !errors.Is(err, ErrForeign) {
		t.Errorf("over another product's file: %v", err)
	}
	if err := RemoveConf(dir); err != nil || read(t, foreign) == "" {
		t.Errorf("another product's file was touched: %v", err)
	}
}
