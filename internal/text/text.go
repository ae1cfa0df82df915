// SPDX-License-Identifier: Apache-2.0

// Package text bounds what messages carry: values that users wrote, which may be
// as long as an annotation, and whole messages, whose carriers have limits.
//
// It knows neither what is quoted nor who reads it.
package text

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxQuote is how many octets of a user's value a message shows.
const MaxQuote = 200

// MaxNote is the limit of the API server for the note of an event, in octets
// (k8s.io/kubernetes/pkg/apis/core/validation/events.go, NoteLengthLimit). It refuses a longer one.
const MaxNote = 1024

// MaxMessage is the limit of a whole error as logs and container runtimes get it, in octets.
const MaxMessage = 4096

// maxListed is how many members of a list a message shows.
const maxListed = 10

// ellipsis marks what was cut.
const ellipsis = "…"

// Quote is a value in quotation marks, as %q has it, of about MaxQuote octets at most. One that is
// cut is followed by its length.
func Quote(s string) string {
	if len(s) <= MaxQuote {
		if q := strconv.Quote(s); len(q) <= MaxQuote+2 {
			return q
		}
	}
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); {
		_, size := utf8.DecodeRuneInString(s[i:])
		q := strconv.Quote(s[i : i+size])
		if q = q[1 : len(q)-1]; b.Len()+len(q) > MaxQuote {
			return b.String() + ellipsis + `" (` + strconv.Itoa(len(s)) + " octets)"
		}
		b.WriteString(q)
		i += size
	}
	return b.String() + `"`
}

// Excerpt is a value without quotation marks, such as JSON, on one line and of about MaxQuote octets
// at most. One that is cut is followed by its length.
func Excerpt(s string) string {
	// of the white space that goes, this much may come before what is shown
	head := s[:min(len(s), 4*MaxQuote)]
	line := strings.Join(strings.Fields(strings.ToValidUTF8(head, "?")), " ")
	if len(head) == len(s) && len(line) <= MaxQuote {
		return line
	}
	return line[:boundary(line, MaxQuote)] + ellipsis + " (" + strconv.Itoa(len(s)) + " octets)"
}

// Quotes is a list of values, each as Quote has it.
func Quotes[S ~string](list []S) string {
	quoted := make([]string, 0, min(len(list), maxListed))
	for _, s := range list[:min(len(list), maxListed)] {
		quoted = append(quoted, Quote(string(s)))
	}
	return join(quoted, len(list))
}

// List is a list of names with commas between them, of which the first few are shown.
func List(names []string) string {
	shown := slices.Clone(names[:min(len(names), maxListed)])
	for i, name := range shown {
		shown[i] = Excerpt(name)
	}
	return join(shown, len(names))
}

func join(shown []string, all int) string {
	list := strings.Join(shown, ", ")
	if n := all - len(shown); n > 0 {
		list += fmt.Sprintf(" and %d more", n)
	}
	return list
}

// JSONError is what the decoder found wrong with a text, with the place when it is known.
func JSONError(value string, err error) error {
	var syntax *json.SyntaxError
	if !errors.As(err, &syntax) {
		return err
	}
	// the offset is behind the octet that is wrong
	before := value[:max(0, min(int(syntax.Offset)-1, len(value)))]
	line := strings.Count(before, "\n") + 1
	column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
	return fmt.Errorf("line %d, column %d: %w", line, column, err)
}

// Note is a message that fits into an event.
func Note(message string) string { return Limit(message, MaxNote) }

// Limit cuts a message out of its middle to at most that many octets: the reason is at its beginning,
// and the remedy at its end, behind the last semicolons.
func Limit(message string, most int) string {
	message = strings.ToValidUTF8(message, "?")
	if len(message) <= most {
		return message
	}
	const gap = " " + ellipsis + " "
	tail := message[len(message)-2*most/5:]
	if i := strings.Index(tail, "; "); i >= 0 {
		tail = tail[i+len("; "):]
	} else {
		for len(tail) > 0 && !utf8.RuneStart(tail[0]) {
			tail = tail[1:]
		}
	}
	head := message[:len(message)-len(tail)]
	return head[:boundary(head, most-len(gap)-len(tail))] + gap + tail
}

// boundary is the place at or before n where a rune of s begins.
func boundary(s string, n int) int {
	n = min(n, len(s))
	for n > 0 && n < len(s) && !utf8.RuneStart(s[n]) {
		n--
	}
	return n
}
