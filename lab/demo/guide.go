// SPDX-License-Identifier: Apache-2.0

// Package demo walks the user's guide on the lab, step by step: what the guide
// promises, what happened here, and whether that is the same.
//
// It owns the guide's text, the steps and their judgement. It knows the lab
// only through the few commands of Lab, the same that a person has.
package demo

import (
	_ "embed"
	"fmt"
	"regexp"
	"strings"
)

// guideText is the guide that users follow, to the letter. Its manifests are run as they stand.
//
//go:embed guide.md
var guideText string

// Parts of the guide, by their headings.
const (
	PartSRIOV = "RDMA based on IB-SRIOV"
	PartIPoIB = "IPoIB"
)

// Guide is the guide's text cut into the blocks of its parts.
type Guide struct {
	parts map[string][]string
}

const indent = "        " // code in the guide's numbered steps is indented by eight columns

// ParseGuide cuts text at its second-level headings and collects each part's
// indented blocks without their indentation, blank lines inside a block kept.
func ParseGuide(text string) Guide {
	g := Guide{parts: map[string][]string{}}
	part := ""
	var block []string
	flush := func() {
		if code := strings.TrimRight(strings.Join(block, "\n"), "\n"); code != "" {
			g.parts[part] = append(g.parts[part], code+"\n")
		}
		block = nil
	}
	for _, line := range strings.Split(text, "\n") {
		code, isCode := strings.CutPrefix(line, indent)
		switch {
		case isCode:
			block = append(block, code)
		case strings.TrimSpace(line) == "" && block != nil:
			block = append(block, "")
		default:
			flush()
		}
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			part = heading
		}
	}
	flush()
	return g
}

// Script returns the one shell script of a part (a block that pipes a manifest
// into kubectl) that matches pattern. The text is the guide's own.
func (g Guide) Script(part, pattern string) (string, error) {
	return g.one(part, pattern, func(b string) bool { return strings.Contains(b, "| kubectl apply -f -") })
}

// Promise returns the output that the guide prints below the prompt line
// matching pattern, without that line, up to the next prompt or empty line.
func (g Guide) Promise(part, pattern string) (string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return "", fmt.Errorf("pattern %q: %w", pattern, err)
	}
	for _, b := range g.parts[part] {
		lines := strings.Split(b, "\n")
		for i, line := range lines {
			if strings.HasPrefix(line, "~#") && re.MatchString(line) {
				return strings.Join(untilPrompt(lines[i+1:]), "\n"), nil
			}
		}
	}
	return "", fmt.Errorf("the guide's part %q has no command that matches %q", part, pattern)
}

func untilPrompt(lines []string) []string {
	for i, line := range lines {
		if line == "" || strings.HasPrefix(line, "~#") || strings.HasPrefix(line, "#") {
			return lines[:i]
		}
	}
	return lines
}

func (g Guide) one(part, pattern string, is func(string) bool) (string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return "", fmt.Errorf("pattern %q: %w", pattern, err)
	}
	var found []string
	for _, b := range g.parts[part] {
		if is(b) && re.MatchString(b) {
			found = append(found, b)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("the guide's part %q has %d scripts that match %q, want one", part, len(found), pattern)
	}
	return found[0], nil
}
