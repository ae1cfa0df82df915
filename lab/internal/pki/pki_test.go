// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

func TestIssue(t *testing.T) {
	dir := t.TempDir()
	a, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	const server = "https://127.0.0.1:6443"
	err = a.Issue(Subject{File: "node", Name: "system:node:n", Group: "system:nodes", SANs: []string{"10.0.0.1", "n"},
		Server: server})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key"))
	if err != nil {
		t.Fatal(err)
	}
	leaf := pair.Leaf
	if leaf.Subject.CommonName != "system:node:n" || leaf.Subject.Organization[0] != "system:nodes" {
		t.Errorf("subject is %v", leaf.Subject)
	}
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots.AppendCertsFromPEM(ca)
	for _, name := range []string{"10.0.0.1", "n"} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("as %s: %v", name, err)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "other"}); err == nil {
		t.Error("valid for a name it was not issued for")
	}
	c, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "node.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Host != server {
		t.Errorf("kubeconfig names %s, want %s", c.Host, server)
	}
}

func TestKeysAreForTheOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	a, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.ServiceAccountKeys(); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(dir, "sa.key"))
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("sa.key has mode %o", fi.Mode().Perm())
	}
}
