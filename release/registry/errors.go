// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// explain says of a request's error what was found, what was expected, and what helps. The error
// itself stays wrapped.
func explain(action string, ref name.Tag, err error) error {
	found, remedy := diagnose(ref, err)
	if found == "" {
		return fmt.Errorf("%s: %w: nothing was tagged", action, err)
	}
	return fmt.Errorf("%s: %s: %w: nothing was tagged: %s", action, found, err, remedy)
}

func diagnose(ref name.Tag, err error) (found, remedy string) {
	host := ref.RegistryStr()
	if refusal := (*transport.Error)(nil); errors.As(err, &refusal) {
		return diagnoseAnswer(ref, refusal)
	}
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		record    tls.RecordHeaderError
	)
	switch {
	case errors.Is(err, context.Canceled):
		return "it was interrupted", "run the same command again: what the registry already has is not sent again"
	case errors.Is(err, errPlain), errors.As(err, &record), strings.Contains(err.Error(),
		"server gave HTTP response to HTTPS client"):
		return "the registry " + host + " answers by plain HTTP: expected HTTPS",
			"give the registry a certificate, or set INSECURE=1 where the network between is trusted"
	case errors.As(err, &dns):
		return "the host " + host + " has no address", "check the name in REGISTRY and this machine's DNS"
	case errors.As(err, &authority), errors.As(err, &hostname):
		return "the certificate of " + host + " is not trusted on this machine",
			"install its authority (SSL_CERT_FILE names a file of them), or set INSECURE=1 where the network " +
				"between is trusted"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "no registry listens at " + host, "check host and port in REGISTRY, and that the registry runs"
	case isTimeout(err):
		return "the registry " + host + " does not answer in time", "check the network, a firewall, and HTTPS_PROXY"
	case isCut(err):
		return "the connection to " + host + " was cut",
			"run the same command again: what the registry already has is not sent again"
	}
	return "", ""
}

func diagnoseAnswer(ref name.Tag, refusal *transport.Error) (found, remedy string) {
	host, repository := ref.RegistryStr(), ref.RepositoryStr()
	upload := refusal.Request != nil && refusal.Request.Method != http.MethodGet &&
		refusal.Request.Method != http.MethodHead
	switch refusal.StatusCode {
	case http.StatusUnauthorized:
		return "the registry " + host + " does not accept the credentials, or there are none",
			"log in with `docker login " + host +
				"` (or podman, skopeo or helm: the file of DOCKER_CONFIG or ~/.docker/config.json is read)"
	case http.StatusForbidden:
		return "the account may not write to " + repository + " at " + host,
			"use an account with the right to push, or another path in REGISTRY; a registry that is read-only " +
				"answers so too"
	case http.StatusMethodNotAllowed:
		return "the registry " + host + " is read-only",
			"push to a registry that takes uploads: a mirror or a registry in maintenance does not"
	case http.StatusNotFound:
		if upload {
			return "the registry " + host + " has no place for " + repository,
				"create the project or repository first, or check the path in REGISTRY"
		}
		return host + " is not a container registry", "check the host in REGISTRY: GET /v2/ is what a registry answers"
	case http.StatusRequestEntityTooLarge:
		return "the registry " + host + " or a proxy before it limits the size of uploads",
			"raise that limit above 80 MB"
	case http.StatusTooManyRequests:
		return "the registry " + host + " limits the number of requests", "wait and run the same command again"
	case http.StatusInsufficientStorage:
		return "the registry " + host + " has no space left", "free some, or raise the project's quota"
	}
	if refusal.StatusCode >= 500 {
		return fmt.Sprintf("the registry %s failed (status %d)", host, refusal.StatusCode),
			"see its log; run the same command again: what the registry already has is not sent again"
	}
	return fmt.Sprintf("the registry %s refused (status %d)", host, refusal.StatusCode), "see the registry's log"
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

func isCut(err error) bool {
	var u *url.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) || errors.As(err, &u) &&
		strings.Contains(u.Err.Error(), "EOF")
}

// transportFor is the library's transport, which on demand takes any certificate.
func transportFor(insecure bool) http.RoundTripper {
	if !insecure {
		return remote.DefaultTransport
	}
	t := remote.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // INSECURE=1 asks for it
	return t
}
