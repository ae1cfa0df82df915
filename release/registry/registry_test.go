// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// serve runs a registry on loopback behind fault, which answers itself and returns true, or lets a
// request through.
func serve(t *testing.T, fault func(http.ResponseWriter, *http.Request) bool) (host string, tags func() int) {
	t.Helper()
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	tagged := make(chan struct{}, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fault != nil && fault(w, r) {
			return
		}
		if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/v1") {
			tagged <- struct{}{}
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), func() int { return len(tagged) }
}

var fast = Client{Backoff: remote.Backoff{Duration: time.Millisecond, Steps: 2}}

func TestPush(t *testing.T) {
	host, tags := serve(t, nil)
	index, err := random.Index(1000, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, found, err := fast.Digest(t.Context(), host+"/me/x", "v1"); err != nil || found {
		t.Errorf("before the push: found %t, %v", found, err)
	}
	var done, total int64
	c := fast
	c.Progress = func(d, t int64) { done, total = d, t }
	digest, err := c.PushIndex(t.Context(), host+"/me/x", "v1", index)
	if err != nil {
		t.Fatal(err)
	}
	got, found, err := fast.Digest(t.Context(), host+"/me/x", "v1")
	if err != nil || !found || got != digest || tags() != 1 {
		t.Errorf("after the push: %v, found %t, %v, %d tags; want %v", got, found, err, tags(), digest)
	}
	if done == 0 || done != total {
		t.Errorf("progress ended at %d of %d", done, total)
	}
}

func TestPushFails(t *testing.T) {
	status := func(code int, when func(*http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if when(r) {
				w.WriteHeader(code)
			}
			return when(r)
		}
	}
	always := func(*http.Request) bool { return true }
	upload := func(r *http.Request) bool { return r.Method == http.MethodPost }
	blobs := 0
	cut := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch {
			return false
		}
		if blobs++; blobs == 1 {
			return false
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
		return true
	}
	for name, test := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request) bool
		want  string
	}{
		"unauthorised":     {status(http.StatusUnauthorized, always), "does not accept the credentials"},
		"forbidden":        {status(http.StatusForbidden, upload), "the account may not write to me/x"},
		"read-only":        {status(http.StatusMethodNotAllowed, upload), "is read-only"},
		"no registry":      {status(http.StatusNotFound, always), "is not a container registry"},
		"no project":       {status(http.StatusNotFound, upload), "has no place for me/x"},
		"too large":        {status(http.StatusRequestEntityTooLarge, upload), "limits the size of uploads"},
		"limited":          {status(http.StatusTooManyRequests, upload), "limits the number of requests"},
		"full":             {status(http.StatusInsufficientStorage, upload), "has no space left"},
		"broken":           {status(http.StatusBadGateway, upload), "failed (status 502)"},
		"cut half-way":     {cut, "the connection to 127.0.0.1:"},
		"without a reason": {status(http.StatusTeapot, upload), "refused (status 418)"},
	} {
		t.Run(name, func(t *testing.T) {
			host, tags := serve(t, test.fault)
			index, err := random.Index(1000, 2, 2)
			if err != nil {
				t.Fatal(err)
			}
			_, err = fast.PushIndex(t.Context(), host+"/me/x", "v1", index)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(),
				"nothing was tagged") {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
			if n := tags(); n != 0 {
				t.Errorf("%d tags written", n)
			}
		})
	}
}

func TestNoRegistryListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	_, _, err = fast.Digest(t.Context(), host+"/me/x", "v1")
	if err == nil || !strings.Contains(err.Error(), "no registry listens at "+host) {
		t.Errorf("error %v", err)
	}
}

// Plain HTTP must not leave the machine by itself, not even to the private addresses to which the
// library falls back.
func TestPlainHTTPStaysOnTheMachine(t *testing.T) {
	var asked []string
	c := fast
	c.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		asked = append(asked, r.URL.Scheme)
		return nil, io.ErrUnexpectedEOF
	})
	_, _, err := c.Digest(t.Context(), "10.0.0.1:5000/me/x", "v1")
	if err == nil {
		t.Fatal("no error")
	}
	if len(asked) == 0 {
		t.Error("nothing was asked by HTTPS either")
	}
	for _, scheme := range asked {
		if scheme == "http" {
			t.Error("plain HTTP was tried without INSECURE=1")
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestParse(t *testing.T) {
	for in, want := range map[string]Location{
		"registry.example.com/me":   {"registry.example.com", "me"},
		"registry.example.com/a/b/": {"registry.example.com", "a/b"},
		"127.0.0.1:5000":            {"127.0.0.1:5000", ""},
		"localhost/x":               {"localhost", "x"},
		"[::1]:5000/x":              {"[::1]:5000", "x"},
		"registry:5000":             {"registry:5000", ""},
	} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "me", "me/x", "https://registry.example.com/me", "registry.example.com/Me",
		"registry.example.com//x", "a b/c"} {
		if got, err := Parse(in); err == nil || !strings.Contains(err.Error(), "expected a host") {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}
