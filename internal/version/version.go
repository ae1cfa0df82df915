// SPDX-License-Identifier: Apache-2.0

// Package version holds what a program knows about its own build: version, commit, time of the
// commit, and toolchain.
//
// `make build` stamps the first three by the linker's -X. A program that was compiled by a plain
// `go build` reports what the go command recorded instead. The package links the standard library
// only, because the CNI shim links it, and knows nothing about git or releases: module
// spidernet.io/spiderpool/release reads git.
package version

import (
	"cmp"
	"runtime"
	"runtime/debug"
	"strings"
)

// Stamped by the linker; module spidernet.io/spiderpool/release names these variables in its linker flags.
var (
	version string
	commit  string
	built   string
)

// Unknown stands for what neither the linker nor the go command recorded.
const Unknown = "unknown"

// Info describes a build.
type Info struct {
	// Version is a release such as v0.2.0, what `git describe` says between releases, or "dev".
	Version string `json:"version"`
	// Commit ends in "-dirty" when the tree that was compiled differed from it.
	Commit string `json:"commit"`
	// Built is the time of the commit in RFC 3339, not of the compilation: two builds of one commit
	// are equal.
	Built string `json:"built"`
	Go    string `json:"go"`
	// Platform is such as linux/amd64.
	Platform string `json:"platform"`
}

// Get returns the running program's build.
func Get() Info {
	recorded, _ := debug.ReadBuildInfo() // nil when the program was built without modules
	return describe(Info{Version: version, Commit: commit, Built: built}, recorded)
}

// describe completes what the linker stamped by what the go command recorded.
func describe(i Info, recorded *debug.BuildInfo) Info {
	i.Go, i.Platform = runtime.Version(), runtime.GOOS+"/"+runtime.GOARCH
	if i.Commit == "" && recorded != nil {
		settings := map[string]string{}
		for _, s := range recorded.Settings {
			settings[s.Key] = s.Value
		}
		i.Commit, i.Built = settings["vcs.revision"], cmp.Or(i.Built, settings["vcs.time"])
		if i.Commit != "" && settings["vcs.modified"] == "true" {
			i.Commit += "-dirty"
		}
	}
	if i.Version == "" && recorded != nil && recorded.Main.Version != "(devel)" {
		i.Version = recorded.Main.Version // what `go install module@version` compiled
	}
	i.Version, i.Commit, i.Built = cmp.Or(i.Version, "dev"), cmp.Or(i.Commit, Unknown), cmp.Or(i.Built, Unknown)
	return i
}

// String is all of it on one line.
func (i Info) String() string {
	return i.Version + " (commit " + i.Commit + ", built " + i.Built + ", " + i.Go + " " + i.Platform + ")"
}

// Text is all of it for a person, a line for each.
func (i Info) Text(program string) string {
	return strings.Join([]string{
		program + " " + i.Version, "  commit:   " + i.Commit, "  built:    " + i.Built, "  go:       " + i.Go,
		"  platform: " + i.Platform, "",
	}, "\n")
}

// LogArgs are the key and value pairs for a process's first log line.
func (i Info) LogArgs() []any {
	return []any{"version", i.Version, "commit", i.Commit, "built", i.Built, "go", i.Go, "platform", i.Platform}
}
