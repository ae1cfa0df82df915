// SPDX-License-Identifier: Apache-2.0

// Package webhookcert decides when the webhook server's certificates are renewed, and makes the new ones.
//
// It is a function from (what there is, now) to (what there shall be): it knows no client, no
// Secret object and no server. Certificates are made by cert-controller's rotator.
//
// A renewal never leaves a moment in which a server's certificate is not trusted: a new authority
// is trusted for as long as a server certificate lives before it signs one, and the old one until
// it ends.
package webhookcert

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
)

// Keys of the Secret's data. The first four are those that cert-controller and kubernetes.io/tls use.
const (
	keyCA         = "ca.crt"
	keyCAKey      = "ca.key"
	keyCert       = "tls.crt"
	keyKey        = "tls.key"
	keyPreviousCA = "ca-previous.crt"
)

// Material is everything the webhook server's trust rests on, in PEM. The zero value is nothing yet.
type Material struct {
	CA, CAKey []byte
	// PreviousCA is trusted too, until it ends; empty when there is none.
	PreviousCA []byte
	// Cert and Key are the server's.
	Cert, Key []byte
}

// FromSecret reads the data of a Secret; absent keys are empty.
func FromSecret(data map[string][]byte) Material {
	return Material{CA: data[keyCA], CAKey: data[keyCAKey], PreviousCA: data[keyPreviousCA], Cert: data[keyCert],
		Key: data[keyKey]}
}

// SecretData is the reverse of FromSecret.
func (m Material) SecretData() map[string][]byte {
	data := map[string][]byte{keyCA: m.CA, keyCAKey: m.CAKey, keyCert: m.Cert, keyKey: m.Key}
	if len(m.PreviousCA) > 0 {
		data[keyPreviousCA] = m.PreviousCA
	}
	return data
}

// Bundle is what clients of the server trust: one or two certificates in PEM.
func (m Material) Bundle() []byte {
	return append(bytes.Clone(m.CA), m.PreviousCA...)
}

// Serving is the certificate for the TLS server.
func (m Material) Serving() (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(m.Cert, m.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the webhook server's certificate: %w", err)
	}
	return &cert, nil
}

// Policy says what certificates are made. Each is renewed when a third of its life is left.
type Policy struct {
	// DNSNames of the server; the first is also its common name. At least one.
	DNSNames []string
	// CALife is more than three times CertLife, so that an authority that is about to end has no
	// certificates left.
	CALife, CertLife time.Duration
}

// NewPolicy returns the policy for a server that is reached by a Service: an authority for ten
// years, a certificate for one.
func NewPolicy(service, namespace string) Policy {
	name := fmt.Sprintf("%s.%s.svc", service, namespace)
	// API servers use the first name; localhost is for webhooks that are given by a URL on the same machine.
	return Policy{
		DNSNames: []string{name, name + ".cluster.local", "localhost"},
		CALife:   10 * 365 * 24 * time.Hour, CertLife: 365 * 24 * time.Hour,
	}
}

// authorityName is the common name of the certificate authorities.
const authorityName = "spiderpool-ca"

// Renew returns what there shall be at a time, and why it differs from what there is; an empty
// reason means that nothing changed. Whatever cannot be read is replaced.
func (p Policy) Renew(m Material, now time.Time) (renewed Material, reason string, err error) {
	if why := p.authorityFault(m, now); why != "" {
		return p.renewAuthority(m, now, why)
	}
	if why := p.certificateFault(m, now); why != "" {
		m, err = p.sign(m, now)
		return m, why, err
	}
	if len(m.PreviousCA) > 0 && !usable(m.PreviousCA, now) {
		m.PreviousCA = nil
		return m, "the previous certificate authority has ended", nil
	}
	return m, "", nil
}

// NextCheck is how long nothing will have to be renewed; at least a minute.
func (p Policy) NextCheck(m Material, now time.Time) time.Duration {
	next := p.CertLife
	for _, c := range []struct {
		text  []byte
		spare time.Duration
	}{{m.CA, p.CALife / 3}, {m.Cert, p.CertLife / 3}, {m.PreviousCA, 0}} {
		if cert, err := parse(c.text); err == nil {
			next = min(next, cert.NotAfter.Add(-c.spare).Sub(now))
		}
	}
	return max(next, time.Minute)
}

// renewAuthority makes a new authority. A certificate of the old one goes on being served until its
// own renewal.
func (p Policy) renewAuthority(m Material, now time.Time, why string) (Material, string, error) {
	artifacts, err := p.rotator().CreateCACert(now.Add(-clockSkew), now.Add(p.CALife))
	if err != nil {
		return Material{}, "", fmt.Errorf("making a certificate authority: %w", err)
	}
	if usable(m.CA, now) {
		m.PreviousCA = m.CA
	} else {
		m.PreviousCA = nil
	}
	m.CA, m.CAKey = artifacts.CertPEM, artifacts.KeyPEM
	if p.certificateFault(m, now) != "" {
		m, err = p.sign(m, now)
	}
	return m, why, err
}

// clockSkew is how far behind ours the clock of a client may be.
const clockSkew = time.Hour

func (p Policy) sign(m Material, now time.Time) (Material, error) {
	ca, err := tls.X509KeyPair(m.CA, m.CAKey)
	if err != nil {
		return Material{}, fmt.Errorf("reading the certificate authority: %w", err)
	}
	key, ok := ca.PrivateKey.(*rsa.PrivateKey)
	if !ok {
		return Material{}, fmt.Errorf("the certificate authority's key is a %T, want an RSA key", ca.PrivateKey)
	}
	authority := &rotator.KeyPairArtifacts{Cert: ca.Leaf, Key: key}
	m.Cert, m.Key, err = p.rotator().CreateCertPEM(authority, now.Add(-clockSkew), now.Add(p.CertLife))
	if err != nil {
		return Material{}, fmt.Errorf("making the webhook server's certificate: %w", err)
	}
	return m, nil
}

func (p Policy) rotator() *rotator.CertRotator {
	return &rotator.CertRotator{
		CAName: authorityName, CAOrganization: "spiderpool", DNSName: p.DNSNames[0], ExtraDNSNames: p.DNSNames[1:],
		ExtKeyUsages: &[]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

// authorityFault says why the authority must be replaced; empty when it need not.
func (p Policy) authorityFault(m Material, now time.Time) string {
	if len(m.CA) == 0 || len(m.CAKey) == 0 {
		return "there is no certificate authority yet"
	}
	pair, err := tls.X509KeyPair(m.CA, m.CAKey)
	if err != nil {
		return fmt.Sprintf("the certificate authority cannot be read: %v", err)
	}
	if _, rsaKey := pair.PrivateKey.(*rsa.PrivateKey); !rsaKey || !pair.Leaf.IsCA {
		return "the certificate authority is not one that signs with RSA"
	}
	if now.After(pair.Leaf.NotAfter.Add(-p.CALife / 3)) {
		return fmt.Sprintf("the certificate authority ends on %s", pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	return ""
}

// certificateFault says why the server's certificate must be replaced; empty when it need not.
func (p Policy) certificateFault(m Material, now time.Time) string {
	if len(m.Cert) == 0 || len(m.Key) == 0 {
		return "there is no server certificate yet"
	}
	pair, err := tls.X509KeyPair(m.Cert, m.Key)
	if err != nil {
		return fmt.Sprintf("the server certificate cannot be read: %v", err)
	}
	if now.After(pair.Leaf.NotAfter.Add(-p.CertLife / 3)) {
		return fmt.Sprintf("the server certificate ends on %s", pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(m.Bundle())
	for _, name := range p.DNSNames {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now}); err != nil {
			return fmt.Sprintf("the server certificate is not good for %s: %v", name, err)
		}
	}
	return ""
}

func usable(text []byte, now time.Time) bool {
	cert, err := parse(text)
	return err == nil && now.Before(cert.NotAfter)
}

func parse(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	return x509.ParseCertificate(block.Bytes)
}
