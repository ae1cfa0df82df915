// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestGetMakesAnEntryOnce(t *testing.T) {
	d := Dir(t.TempDir())
	made := 0
	get := func() string {
		p, err := d.Get("thing", NewKey("a"), func(dir string) error {
			made++
			return os.WriteFile(filepath.Join(dir, "f"), nil, 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first, second := get(), get()
	if first != second || made != 1 {
		t.Errorf("made %d times, at %s and %s; want once, at one place", made, first, second)
	}
	if !exists(filepath.Join(first, "f")) {
		t.Error("the entry lost its content")
	}
}

func TestAFailedEntryLeavesNothing(t *testing.T) {
	d := Dir(t.TempDir())
	boom := errors.New("boom")
	if _, err := d.Get("thing", NewKey("a"), func(string) error { return boom }); !errors.Is(err, boom) {
		t.Fatalf("error is %v, want boom", err)
	}
	left, _ := filepath.Glob(filepath.Join(string(d), "thing-*"))
	if len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestOldEntriesGo(t *testing.T) {
	d := Dir(t.TempDir())
	for _, w := range []string{"a", "b", "c", "d"} {
		if _, err := d.Get("thing", NewKey(w), func(string) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(string(d), "thing-????????????????"))
	if len(left) != keep {
		t.Errorf("%d entries stay, want %d", len(left), keep)
	}
}

func TestKeySeesEveryDifference(t *testing.T) {
	base := func(t *testing.T) string {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "a"), "1")
		write(t, filepath.Join(dir, "sub/b"), "2")
		return dir
	}
	same := NewKey("w").Tree(base(t)).sum()
	if again := NewKey("w").Tree(base(t)).sum(); again != same {
		t.Fatalf("the same content gives %s and %s", same, again)
	}
	changes := map[string]func(dir string) error{
		"content": func(dir string) error { return os.WriteFile(filepath.Join(dir, "a"), []byte("x"), 0o644) },
		"name":    func(dir string) error { return os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "c")) },
		"mode":    func(dir string) error { return os.Chmod(filepath.Join(dir, "a"), 0o755) },
		"link":    func(dir string) error { return os.Symlink("a", filepath.Join(dir, "l")) },
		"removal": func(dir string) error { return os.Remove(filepath.Join(dir, "sub/b")) },
	}
	for name, change := range changes {
		dir := base(t)
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if NewKey("w").Tree(dir).sum() == same {
			t.Errorf("a change of %s goes unseen", name)
		}
	}
	if NewKey("ab", "c").sum() == NewKey("a", "bc").sum() {
		t.Error("word boundaries do not count")
	}
}

func TestKeyReportsWhatItCannotRead(t *testing.T) {
	_, err := Dir(t.TempDir()).Get("thing", NewKey().Tree("/does/not/exist"), func(string) error { return nil })
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v, want a missing file", err)
	}
}
