// SPDX-License-Identifier: Apache-2.0

// Package pki makes the certificates and kubeconfigs of one lab.
//
// A single authority signs everything: right for a cluster that nobody else can reach and that
// lives for an afternoon, and for no other. The package knows names and addresses only from its
// arguments.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Subject is somebody who gets a certificate.
type Subject struct {
	File   string   // base name of the files written: File.crt, File.key and, if Server is set, File.kubeconfig
	Name   string   // common name: the Kubernetes user
	Group  string   // organization: the Kubernetes group, or ""
	SANs   []string // addresses and DNS names it serves under
	Server string   // API server URL that its kubeconfig names, or "" for no kubeconfig
}

// Authority signs the certificates of one directory.
type Authority struct {
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
	next int64
}

// New makes a certificate authority and writes its certificate to dir/ca.crt. Its key is never written.
func New(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the certificate directory: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the authority's key: %w", err)
	}
	a := &Authority{dir: dir, key: key, next: 1}
	a.cert = a.template("lab-ca", "")
	a.cert.IsCA, a.cert.BasicConstraintsValid = true, true
	a.cert.KeyUsage, a.cert.ExtKeyUsage = x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature, nil
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("signing the authority's certificate: %w", err)
	}
	a.pem = encode("CERTIFICATE", der)
	return a, a.write("ca.crt", a.pem)
}

// Issue writes the files of each subject.
func (a *Authority) Issue(subjects ...Subject) error {
	for _, s := range subjects {
		if err := a.issue(s); err != nil {
			return fmt.Errorf("making the certificate of %s: %w", s.Name, err)
		}
	}
	return nil
}

func (a *Authority) issue(s Subject) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	t := a.template(s.Name, s.Group)
	for _, san := range s.SANs {
		if ip := net.ParseIP(san); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, san)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	cert, keyPEM := encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER)
	if err := a.write(s.File+".crt", cert); err != nil {
		return err
	}
	if err := a.write(s.File+".key", keyPEM); err != nil || s.Server == "" {
		return err
	}
	return a.kubeconfig(s, cert, keyPEM)
}

func (a *Authority) kubeconfig(s Subject, cert, key []byte) error {
	c := clientcmdapi.NewConfig()
	c.Clusters["lab"] = &clientcmdapi.Cluster{Server: s.Server, CertificateAuthorityData: a.pem}
	c.AuthInfos[s.Name] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	c.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: s.Name}
	c.CurrentContext = "lab"
	b, err := clientcmd.Write(*c)
	if err != nil {
		return err
	}
	return a.write(s.File+".kubeconfig", b)
}

// ServiceAccountKeys writes the pair that signs and checks service account tokens: sa.key and sa.pub.
func (a *Authority) ServiceAccountKeys() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("making the service account key: %w", err)
	}
	pub, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return fmt.Errorf("encoding the service account key: %w", err)
	}
	if err := a.write("sa.pub", encode("PUBLIC KEY", pub)); err != nil {
		return err
	}
	return a.write("sa.key", encode("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)))
}

func (a *Authority) template(cn, org string) *x509.Certificate {
	a.next++
	subject := pkix.Name{CommonName: cn}
	if org != "" {
		subject.Organization = []string{org}
	}
	from := time.Now().Add(-24 * time.Hour) // a guest's clock may be behind the host's
	return &x509.Certificate{
		SerialNumber: big.NewInt(a.next), Subject: subject, NotBefore: from, NotAfter: from.AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
}

func (a *Authority) write(name string, b []byte) error {
	if err := os.WriteFile(filepath.Join(a.dir, name), b, 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
