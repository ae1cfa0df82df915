// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What would be refused later, when it had to be undone by what is missing, is refused before
// anything is run.
func TestInstalled(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "disk", diskResult)
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := &Runner{Plugins: map[string]Plugin{"ours": &spy{}, "spiderpool": &spy{}}, BinDirs: []string{dir}}
	for name, c := range map[string]struct{ config, refused string }{
		"ours":                    {`{"name":"n","type":"ours"}`, ""},
		"our addresses":           {`{"name":"n","type":"ours","ipam":{"type":"spiderpool"}}`, ""},
		"addresses on disk":       {`{"name":"n","type":"ours","ipam":{"type":"disk"}}`, ""},
		"ipam without a type":     {`{"name":"n","type":"disk","ipam":{}}`, ""},
		"name of one letter":      {`{"name":"_.-x","type":"ours"}`, `name "_.-x" is not valid`},
		"absent plugin":           {`{"name":"n","type":"none"}`, `network "n": plugin 1: failed to find plugin "none"`},
		"absent second plugin":    {`{"name":"n","plugins":[{"type":"ours"},{"type":"none"}]}`, `plugin 2: failed to find`},
		"absent ipam":             {`{"name":"n","type":"ours","ipam":{"type":"wa"}}`, `ipam: failed to find plugin "wa" in`},
		"absent ipam, disk":       {`{"name":"n","type":"disk","ipam":{"type":"wa"}}`, `ipam: failed to find plugin "wa"`},
		"ipam that is a path":     {`{"name":"n","type":"ours","ipam":{"type":"../bin/sh"}}`, `"../bin/sh" is not a file name`},
		"ipam that is a folder":   {`{"name":"n","type":"ours","ipam":{"type":"folder"}}`, `failed to find plugin "folder"`},
		"name that is a path":     {`{"name":"../../tmp/x","type":"ours"}`, `name "../../tmp/x" is not valid`},
		"name with a slash":       {`{"name":"a/b","type":"ours"}`, `name "a/b" is not valid`},
		"name with white space":   {`{"name":"a b","type":"ours"}`, `name "a b" is not valid`},
		"name with a line break":  {`{"name":"a\n","type":"ours"}`, `name "a\n" is not valid`},
		"name longer than a file": {`{"name":"` + strings.Repeat("a", 256) + `","type":"ours"}`, "256 octets: must have at most 255"},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := Parse([]byte(strings.Replace(c.config, "{", `{"cniVersion":"1.0.0",`, 1)))
			if err != nil {
				t.Fatal(err)
			}
			err = r.Installed(list, nil)
			if (err == nil) != (c.refused == "") || err != nil && (!strings.Contains(err.Error(), c.refused) ||
				Wire(err).Code != CodeInvalidConfig || Wire(err).Details == "" ||
				strings.Count(err.Error(), Wire(err).Details) != 1) {
				t.Errorf("error %v, want %q and a remedy, once", err, c.refused)
			}
		})
	}
	for config, refused := range map[string]string{
		`{"name":"n","type":"ours","ipam":{"type":"wa"}}`:      `failed to find plugin "wa"`,
		`{"name":"../n","type":"ours","ipam":{"type":"disk"}}`: "is not valid",
	} {
		if err := r.InstalledDirect([]byte(config), nil); err == nil || !strings.Contains(err.Error(), refused) {
			t.Errorf("called by itself: %v, want %q", err, refused)
		}
	}
	if err := r.InstalledDirect([]byte(`{"name":"n","type":"macvlan","ipam":{"type":"spiderpool"}}`), nil); err != nil {
		t.Error(err)
	}
}

// A DEL goes on without a plugin on disk that cannot do its part, and fails with one that may
// succeed later.
func TestDelWithoutPlugin(t *testing.T) {
	says := func(code, msg string) string {
		return `echo '{"cniVersion":"1.0.0","code":` + code + `,"msg":"` + msg + `"}'; exit 1`
	}
	for name, c := range map[string]struct {
		prepare func(t *testing.T, path string)
		ok      bool
	}{
		"not there":              {func(*testing.T, string) {}, true},
		"a link to nothing":      {func(t *testing.T, path string) { link(t, "/nowhere/at/all", path) }, true},
		"not executable":         {func(t *testing.T, path string) { write(t, path, "#!/bin/sh\n", 0o644) }, true},
		"no program":             {func(t *testing.T, path string) { write(t, path, "\x00\x01\x02\x03", 0o755) }, true},
		"interpreter is missing": {func(t *testing.T, path string) { write(t, path, "#!/no/such/sh\n", 0o755) }, true},
		"incompatible version":   {body(says("1", "incompatible CNI versions")), true},
		"unsupported field":      {body(says("2", "x")), true},
		"container unknown":      {body(says("3", "x")), true},
		"invalid environment":    {body(says("4", "x")), true},
		"does not decode":        {body(says("6", "x")), true},
		"invalid configuration":  {body(says("7", "invalid characters found in network name")), true},
		"namespace is gone":      {body(says("8", "x")), true},
		"its own ipam is missing": {body(says("999",
			`failed to find plugin \"wa\" in path [/opt/cni/bin]`)), true},
		"its delegate is missing": {body(says("999",
			`plugin type=\"bridge\" failed (delete): failed to find plugin \"bridge\" in path`)), true},
		"input or output":  {body(says("5", "x")), false},
		"try again later":  {body(says("11", "x")), false},
		"internal error":   {body(says("999", "x")), false},
		"error of its own": {body(says("100", "x")), false},
		"exit status":      {body(`echo oops >&2; exit 3`), false},
	} {
		for _, kind := range []string{"plugin", "ipam"} {
			t.Run(name+", "+kind, func(t *testing.T) {
				dir := t.TempDir()
				c.prepare(t, filepath.Join(dir, "foreign"))
				ours := &spy{}
				r := &Runner{Plugins: map[string]Plugin{"ours": ours}}
				config := `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ours"},{"type":"foreign"}]}`
				if kind == "ipam" {
					config = `{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ours","ipam":{"type":"foreign"}}]}`
				}
				list, err := Parse([]byte(config))
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Del(t.Context(), list, testCall(dir), nil); (err == nil) != c.ok {
					t.Errorf("error %v", err)
				}
				if len(ours.calls) != 1 {
					t.Errorf("our part was called %d times", len(ours.calls))
				}
			})
		}
	}
}

func body(text string) func(*testing.T, string) {
	return func(t *testing.T, path string) { script(t, filepath.Dir(path), filepath.Base(path), text) }
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
}

// The caller hears of every failure, with what is known of it, and decides.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "foreign", `echo '{"code":11,"msg":"later"}'; exit 1`)
	r := &Runner{Plugins: map[string]Plugin{"ours": &spy{}}}
	list, err := Parse([]byte(`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ours","ipam":{"type":"absent"}},
		{"type":"foreign"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	var heard []Refusal
	call := testCall(dir)
	call.Refused = func(r Refusal) bool {
		heard = append(heard, r)
		return true
	}
	if err := r.Del(t.Context(), list, call, nil); err != nil {
		t.Error(err)
	}
	if len(heard) != 2 || heard[0].Plugin != "foreign" || !heard[0].Temporary || heard[0].Permanent ||
		heard[1].Plugin != "absent" || !heard[1].Permanent {
		t.Errorf("heard %+v", heard)
	}
	only, err := Parse([]byte(`{"cniVersion":"1.0.0","name":"n","type":"foreign"}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Add(t.Context(), only, call); err == nil || heard[2].Command != "ADD" {
		t.Errorf("ADD: %v, heard %+v", err, heard)
	}
	call.Refused = func(r Refusal) bool { return !r.Temporary }
	if err := r.Del(t.Context(), list, call, nil); err == nil || !strings.Contains(err.Error(), "later") {
		t.Errorf("DEL: %v", err)
	}
	if !temporary(errors.Join(context.DeadlineExceeded)) {
		t.Error("a plugin that took too long counts as one that never ends")
	}
}

// The addresses of a plugin that was removed are released by its address management.
func TestDelReleasesAddressesOfAMissingPlugin(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "host-local", "true")
	list, err := Parse([]byte(`{"cniVersion":"1.0.0","name":"n","type":"gone","ipam":{"type":"host-local"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := (&Runner{}).Del(t.Context(), list, testCall(dir), nil); err != nil {
		t.Error(err)
	}
	if !strings.Contains(read(t, dir, "host-local.in.DEL"), `"gone"`) {
		t.Error("the address management was not called with the network's configuration")
	}
}

// A result that the list's version cannot say keeps no DEL from its end.
func TestDelWithAResultOfANewerVersion(t *testing.T) {
	dir := t.TempDir()
	script(t, dir, "disk", `[ $CNI_COMMAND = DEL ] || echo '{"cniVersion":"0.2.0","ip6":{"ip":"fd00::2/64"}}'`)
	list, err := Parse([]byte(`{"cniVersion":"0.2.0","name":"n","type":"disk"}`))
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&Runner{}).Add(t.Context(), list, testCall(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := (&Runner{}).Del(t.Context(), list, testCall(dir), res); err != nil {
		t.Error(err)
	}
}
