// SPDX-License-Identifier: Apache-2.0

package text

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestQuote(t *testing.T) {
	for name, c := range map[string]struct{ value, want string }{
		"empty":          {"", `""`},
		"plain":          {"ib-sriov", `"ib-sriov"`},
		"line break":     {"a\nb", `"a\nb"`},
		"as long as may": {strings.Repeat("x", MaxQuote), `"` + strings.Repeat("x", MaxQuote) + `"`},
		"longer":         {strings.Repeat("x", 5000), `"` + strings.Repeat("x", MaxQuote-1) + `…" (5000 octets)`},
		"at a rune":      {strings.Repeat("€", 100), `"` + strings.Repeat("€", 66) + `…" (300 octets)`},
		"control characters": {strings.Repeat("\x00", 150),
			`"` + strings.Repeat(`\x00`, 49) + `…" (150 octets)`},
	} {
		if got := Quote(c.value); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestExcerpt(t *testing.T) {
	for name, c := range map[string]struct{ value, want string }{
		"one line":      {"[\n  {\"name\":\t\"ipo\"}\n]", `[ {"name": "ipo"} ]`},
		"longer":        {strings.Repeat("y", 201), strings.Repeat("y", 200) + "… (201 octets)"},
		"white space":   {strings.Repeat(" ", 2000) + "z", "… (2001 octets)"},
		"not UTF-8":     {"a\xffb", "a?b"},
		"cut in a rune": {strings.Repeat("€", 300), strings.Repeat("€", 66) + "… (900 octets)"},
	} {
		if got := Excerpt(c.value); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestLists(t *testing.T) {
	if got := Quotes([]string{"a", "b"}); got != `"a", "b"` {
		t.Error(got)
	}
	many := strings.Split(strings.Repeat("p,", 5000)+"p", ",")
	if got := List(many); got != "p, p, p, p, p, p, p, p, p, p and 4991 more" {
		t.Error(got)
	}
}

func TestJSONError(t *testing.T) {
	for value, want := range map[string]string{
		"[\n  {\"ips\": [ \"€\" ]\n]": "line 3, column 1: invalid character ']' after object key:value pair",
		`[{"name":"€",}]`:             "line 1, column 14: invalid character '}' looking for beginning of object key string",
		`[{"name"`:                    "line 1, column 8: unexpected end of JSON input",
		`[1]`:                         "json: cannot unmarshal number into Go value of type string",
	} {
		var into []string
		if got := JSONError(value, json.Unmarshal([]byte(value), &into)); got == nil || got.Error() != want {
			t.Errorf("%s: %v, want %q", value, got, want)
		}
	}
}

func TestNote(t *testing.T) {
	const reason, remedy = "annotation x: syntax error in line 3", "write a list such as [a]"
	for name, c := range map[string]struct {
		message      string
		begins, ends string
	}{
		"short":     {reason + "; " + remedy, reason + "; " + remedy, remedy},
		"long":      {reason + ": " + strings.Repeat("word ", 1000) + "; " + remedy, reason, " … " + remedy},
		"runes":     {reason + strings.Repeat("€", 1000), reason, "€"},
		"no remedy": {reason + strings.Repeat("x", 200_000), reason, "x"},
		"not UTF-8": {reason + strings.Repeat("\xff€", 1000) + "; " + remedy, reason, remedy},
	} {
		got := Note(c.message)
		if len(got) > MaxNote || !utf8.ValidString(got) || !strings.HasPrefix(got, c.begins) ||
			!strings.HasSuffix(got, c.ends) {
			t.Errorf("%s: %d octets, valid %t: %s", name, len(got), utf8.ValidString(got), got)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("a\xff€", 7)
	f.Add(strings.Repeat("€; ", 500), 100)
	f.Fuzz(func(t *testing.T, s string, most int) {
		if most < 40 || most > 10_000 {
			return
		}
		for _, got := range []string{Quote(s), Excerpt(s)} {
			if len(got) > MaxQuote+40 || !utf8.ValidString(got) {
				t.Errorf("%d octets, %q", len(got), got)
			}
		}
		if got := Limit(s, most); len(got) > most || !utf8.ValidString(got) {
			t.Errorf("%d octets of at most %d, %q", len(got), most, got)
		}
	})
}
