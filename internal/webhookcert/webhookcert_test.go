// SPDX-License-Identifier: Apache-2.0

package webhookcert_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spidernet.io/spiderpool/internal/webhookcert"
)

var (
	start  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	policy = webhookcert.NewPolicy("spiderpool-controller", "kube-system")
)

const day = 24 * time.Hour

func renew(t *testing.T, p webhookcert.Policy, m webhookcert.Material, at time.Time) (webhookcert.Material, string) {
	t.Helper()
	m, reason, err := p.Renew(m, at)
	if err != nil {
		t.Fatal(err)
	}
	return m, reason
}

// verify is what an API server does with the bundle.
func verify(t *testing.T, m webhookcert.Material, bundle []byte, at time.Time) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	block, _ := pem.Decode(m.Cert)
	if block == nil {
		t.Fatal("the server certificate is not PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	_, err = cert.Verify(x509.VerifyOptions{
		DNSName: "spiderpool-controller.kube-system.svc", Roots: roots, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		t.Errorf("on %s: %v", at.Format(time.DateOnly), err)
	}
}

func TestFirstCertificatesAreTrustedAndStay(t *testing.T) {
	m, reason := renew(t, policy, webhookcert.Material{}, start)
	if reason == "" {
		t.Fatal("nothing was made from nothing")
	}
	verify(t, m, m.Bundle(), start)
	if _, err := m.Serving(); err != nil {
		t.Error(err)
	}
	again, reason := renew(t, policy, m, start.Add(100*day))
	if reason != "" {
		t.Errorf("renewed after 100 days: %s", reason)
	}
	if diff := cmp.Diff(m, again); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(m, webhookcert.FromSecret(m.SecretData())); diff != "" {
		t.Error(diff)
	}
}

// TestEveryStepIsTrustedByBothSides walks through thirty years. At each renewal it checks that
// servers which have not seen the new certificate are trusted by clients that have the new bundle,
// and the reverse.
func TestEveryStepIsTrustedByBothSides(t *testing.T) {
	m, _ := renew(t, policy, webhookcert.Material{}, start)
	certificates, authorities := 0, 0
	for at := start; at.Before(start.Add(30 * 365 * day)); {
		wait := policy.NextCheck(m, at)
		if _, reason := renew(t, policy, m, at.Add(wait-2*time.Minute)); reason != "" && wait > time.Hour {
			t.Fatalf("%s: due before NextCheck: %s", at, reason)
		}
		at = at.Add(wait + time.Minute)
		next, reason := renew(t, policy, m, at)
		if reason == "" {
			t.Fatalf("%s: NextCheck was too early: nothing to renew", at.Format(time.DateOnly))
		}
		verify(t, m, next.Bundle(), at)
		verify(t, next, m.Bundle(), at)
		if !bytes.Equal(m.CA, next.CA) {
			authorities++
		}
		if !bytes.Equal(m.Cert, next.Cert) {
			certificates++
		}
		m = next
	}
	if authorities < 3 || certificates < 30 {
		t.Errorf("in thirty years %d authorities and %d certificates were made, want at least 3 and 30", authorities,
			certificates)
	}
}

func TestRenewRepairs(t *testing.T) {
	good, _ := renew(t, policy, webhookcert.Material{}, start)
	other, _ := renew(t, policy, webhookcert.Material{}, start)
	tests := map[string]func(*webhookcert.Material){
		"no key":                         func(m *webhookcert.Material) { m.Key = nil },
		"key of another certificate":     func(m *webhookcert.Material) { m.Key = other.Key },
		"certificate of another CA":      func(m *webhookcert.Material) { m.Cert, m.Key = other.Cert, other.Key },
		"authority that is not PEM":      func(m *webhookcert.Material) { m.CA = []byte("x") },
		"authority's key of another":     func(m *webhookcert.Material) { m.CAKey = other.CAKey },
		"server certificate as the CA":   func(m *webhookcert.Material) { m.CA, m.CAKey = m.Cert, m.Key },
		"previous authority in disorder": func(m *webhookcert.Material) { m.PreviousCA = []byte("x") },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			m := good
			spoil(&m)
			m, reason := renew(t, policy, m, start)
			if reason == "" {
				t.Fatal("nothing was renewed")
			}
			verify(t, m, m.Bundle(), start)
		})
	}
	t.Run("other name", func(t *testing.T) {
		_, reason := renew(t, webhookcert.NewPolicy("other", "kube-system"), good, start)
		if reason == "" {
			t.Error("a certificate for another Service was kept")
		}
	})
	t.Run("everything expired", func(t *testing.T) {
		at := start.Add(20 * 365 * day)
		m, _ := renew(t, policy, good, at)
		verify(t, m, m.Bundle(), at)
		if len(m.PreviousCA) > 0 {
			t.Error("an authority that has ended is still trusted")
		}
	})
}
