// SPDX-License-Identifier: Apache-2.0

package version

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDescribe(t *testing.T) {
	vcs := func(modified string) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"},
			{Key: "vcs.modified", Value: modified},
		}}
	}
	stamped := Info{Version: "v1.2.3", Commit: "def", Built: "2026-05-06T07:08:09Z"}
	for name, test := range map[string]struct {
		stamped  Info
		recorded *debug.BuildInfo
		want     Info
	}{
		"stamped":     {stamped, vcs("true"), stamped},
		"plain build": {Info{}, vcs("false"), Info{Version: "dev", Commit: "abc", Built: "2026-01-02T03:04:05Z"}},
		"dirty build": {Info{}, vcs("true"), Info{Version: "dev", Commit: "abc-dirty", Built: "2026-01-02T03:04:05Z"}},
		"installed": {Info{}, &debug.BuildInfo{Main: debug.Module{Version: "v0.9.0"}},
			Info{"v0.9.0", Unknown, Unknown, "", ""}},
		"without git": {Info{}, &debug.BuildInfo{}, Info{Version: "dev", Commit: Unknown, Built: Unknown}},
		"no record":   {Info{}, nil, Info{Version: "dev", Commit: Unknown, Built: Unknown}},
		"version only": {Info{Version: "v1.0.0"}, &debug.BuildInfo{}, Info{Version: "v1.0.0", Commit: Unknown,
			Built: Unknown}},
	} {
		t.Run(name, func(t *testing.T) {
			test.want.Go, test.want.Platform = runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH
			if diff := cmp.Diff(test.want, describe(test.stamped, test.recorded)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestForms(t *testing.T) {
	i := Info{"v1.2.3", "def", "2026-05-06T07:08:09Z", "go1.26.0", "linux/arm64"}
	if got, want := i.String(), "v1.2.3 (commit def, built 2026-05-06T07:08:09Z, go1.26.0 linux/arm64)"; got != want {
		t.Errorf("String is %q, want %q", got, want)
	}
	want := "tool v1.2.3\n  commit:   def\n  built:    2026-05-06T07:08:09Z\n  go:       go1.26.0\n  platform: " +
		"linux/arm64\n"
	if diff := cmp.Diff(want, i.Text("tool")); diff != "" {
		t.Errorf("Text (-want +got):\n%s", diff)
	}
	args := []any{"version", "v1.2.3", "commit", "def", "built", "2026-05-06T07:08:09Z", "go", "go1.26.0", "platform",
		"linux/arm64"}
	if diff := cmp.Diff(args, i.LogArgs()); diff != "" {
		t.Errorf("LogArgs (-want +got):\n%s", diff)
	}
}
