// SPDX-License-Identifier: Apache-2.0

// Package registry writes images and charts to a container registry, and says what is wrong when it
// cannot. It knows nothing of what it writes.
//
// Credentials are those of `docker login`. Plain HTTP is for loopback, and elsewhere only on
// demand. A tag is written last: a push that fails leaves no tag that names half an image.
package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Location is where everything of one project goes: a registry's host, and a path in it that may be empty.
type Location struct{ Host, Path string }

var (
	validHost = regexp.MustCompile(
		`^(localhost|\[[0-9a-fA-F:]+\]|[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+)(:[0-9]{1,5})?$|^[a-zA-Z0-9-]+:[0-9]{1,5}$`)
	validPath = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
)

// Parse reads what the variable REGISTRY has, such as registry.example.com/me.
func Parse(location string) (Location, error) {
	const expected = "expected a host and an optional path in lower case, such as registry.example.com/me or " +
		"127.0.0.1:5000"
	if location == "" {
		return Location{}, errors.New("reading the registry: REGISTRY is empty: " + expected +
			": run `make push REGISTRY=registry.example.com/me`")
	}
	if scheme, rest, found := strings.Cut(location, "://"); found {
		return Location{}, fmt.Errorf("reading the registry: REGISTRY is %q: %s: leave out %s://, as in REGISTRY=%s",
			location, expected, scheme, rest)
	}
	host, path, _ := strings.Cut(strings.TrimSuffix(location, "/"), "/")
	if !validHost.MatchString(host) || (path != "" && !validPath.MatchString(path)) {
		return Location{}, fmt.Errorf("reading the registry: REGISTRY is %q: %s", location, expected)
	}
	return Location{Host: host, Path: path}, nil
}

// Repository is the path of what is named so, without the host.
func (l Location) Repository(last string) string {
	if l.Path == "" {
		return last
	}
	return l.Path + "/" + last
}

// Name is the full name without a tag.
func (l Location) Name(last string) string { return l.Host + "/" + l.Repository(last) }

// Client writes to registries.
type Client struct {
	// Insecure allows plain HTTP, and certificates of unknown authorities, on hosts other than this machine.
	Insecure bool
	// Keychain has the credentials; nil is that of `docker login`.
	Keychain authn.Keychain
	// Transport is nil but in tests.
	Transport http.RoundTripper
	// Backoff says how often, and with what waits, a request is repeated; the zero value is three
	// times in four seconds.
	Backoff remote.Backoff
	// Progress is called with what was written so far of all that there is to write; nil is silent.
	Progress func(done, total int64)
}

// PushIndex writes a multi-architecture image and then the tag, and returns the digest.
func (c Client) PushIndex(ctx context.Context, repository, tag string, index v1.ImageIndex) (v1.Hash, error) {
	digest, err := index.Digest()
	if err != nil {
		return v1.Hash{}, fmt.Errorf("reading the image to push: %w", err)
	}
	return digest, c.push(ctx, repository, tag, func(ref name.Tag, options []remote.Option) error {
		return remote.WriteIndex(ref, index, options...)
	})
}

// PushImage writes an image of one platform, or what has an image's form, as a chart does, and then the tag.
func (c Client) PushImage(ctx context.Context, repository, tag string, img v1.Image) (v1.Hash, error) {
	digest, err := img.Digest()
	if err != nil {
		return v1.Hash{}, fmt.Errorf("reading what to push: %w", err)
	}
	return digest, c.push(ctx, repository, tag, func(ref name.Tag, options []remote.Option) error {
		return remote.Write(ref, img, options...)
	})
}

// Digest returns what a tag names; found is false when the registry has no such tag.
func (c Client) Digest(ctx context.Context, repository, tag string) (digest v1.Hash, found bool, err error) {
	ref, err := c.tag(repository, tag)
	if err != nil {
		return v1.Hash{}, false, err
	}
	d, err := remote.Head(ref, c.options(ctx)...)
	if refusal := (*transport.Error)(nil); errors.As(err, &refusal) && refusal.StatusCode == http.StatusNotFound {
		return v1.Hash{}, false, nil
	}
	if err != nil {
		return v1.Hash{}, false, explain("looking for "+ref.Name(), ref, err)
	}
	return d.Digest, true, nil
}

func (c Client) push(ctx context.Context, repository, tag string, write func(name.Tag, []remote.Option) error) error {
	ref, err := c.tag(repository, tag)
	if err != nil {
		return err
	}
	options := c.options(ctx)
	ended := make(chan struct{})
	if c.Progress == nil {
		close(ended)
	} else {
		updates := make(chan v1.Update, 64)
		options = append(options, remote.WithProgress(updates))
		go func() {
			defer close(ended)
			for u := range updates { // the writer closes it
				if u.Error == nil {
					c.Progress(u.Complete, u.Total)
				}
			}
		}()
	}
	err = write(ref, options)
	<-ended
	if err != nil {
		return explain("pushing "+ref.Name(), ref, err)
	}
	return nil
}

func (c Client) tag(repository, tag string) (name.Tag, error) {
	options := []name.Option{name.StrictValidation}
	if c.Insecure {
		options = append(options, name.Insecure)
	}
	ref, err := name.NewTag(repository+":"+tag, options...)
	if err != nil {
		return name.Tag{}, fmt.Errorf("reading the name %s:%s: %w", repository, tag, err)
	}
	return ref, nil
}

func (c Client) options(ctx context.Context) []remote.Option {
	t := c.Transport
	if t == nil {
		t = transportFor(c.Insecure)
	}
	keychain := c.Keychain
	if keychain == nil {
		keychain = authn.DefaultKeychain
	}
	options := []remote.Option{
		remote.WithContext(ctx), remote.WithAuthFromKeychain(keychain), remote.WithUserAgent("spiderpool-release"),
		remote.WithTransport(plainGuard{next: t, allowed: c.Insecure}),
	}
	if c.Backoff.Steps > 0 {
		options = append(options, remote.WithRetryBackoff(c.Backoff))
	}
	return options
}

// plainGuard refuses plain HTTP to other machines. The library falls back to it by itself for
// private addresses and for .local names, and would send credentials in the clear.
type plainGuard struct {
	next    http.RoundTripper
	allowed bool
}

var errPlain = errors.New("plain HTTP to another machine is refused")

func (g plainGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" && !g.allowed && !isLoopback(r.URL.Hostname()) {
		return nil, errPlain
	}
	return g.next.RoundTrip(r)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// IsLoopback reports whether the host, with a port or without, is this machine.
func IsLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return isLoopback(strings.Trim(host, "[]"))
}
