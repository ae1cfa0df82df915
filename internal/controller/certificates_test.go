// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"spidernet.io/spiderpool/internal/scheme"
	"spidernet.io/spiderpool/internal/testapi"
	"spidernet.io/spiderpool/internal/testchart"
	"spidernet.io/spiderpool/internal/webhookcert"
)

// TestReplicasShareCertificates has two replicas find the chart's empty Secret at the same moment. They
// end with one certificate that both serve and the API server trusts, and then neither writes again.
func TestReplicasShareCertificates(t *testing.T) {
	admin, err := client.New(testapi.Start(t).Config, client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	const name = "shared-certificates" // apart from those of the process that TestRun starts
	secret := &corev1.Secret{}
	secret.Namespace, secret.Name = testchart.Namespace, name
	validating, mutating := &admissionv1.ValidatingWebhookConfiguration{}, &admissionv1.MutatingWebhookConfiguration{}
	validating.Name, mutating.Name = name, name
	for _, o := range []client.Object{secret, validating, mutating} {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := admin.Delete(context.Background(), o); err != nil {
				t.Error(err)
			}
		})
	}

	// Both read the empty Secret before either writes it.
	read := &sync.WaitGroup{}
	read.Add(2)
	var replicas [2]*certificates
	for i := range replicas {
		c := &afterBothRead{Client: admin, read: read}
		replicas[i] = newCertificates(c,
			Options{Name: name, Namespace: testchart.Namespace, CertificateSecret: name}, time.Now)
	}
	var running sync.WaitGroup
	var results [2]reconcile.Result
	var errs [2]error
	for i, r := range replicas {
		running.Go(func() { results[i], errs[i] = r.Reconcile(t.Context(), reconcile.Request{}) })
	}
	running.Wait()
	second := 0 // replicas that found the other's write
	for i := range replicas {
		if errs[i] != nil {
			t.Errorf("replica %d: %v: must be no error", i, errs[i])
		}
		if results[i].RequeueAfter == time.Second {
			second++
		}
	}
	if second != 1 {
		t.Fatalf("%d replicas lost the race for the Secret, want 1", second)
	}

	for i, r := range replicas {
		if _, err := r.Reconcile(t.Context(), reconcile.Request{}); err != nil {
			t.Fatalf("replica %d, after the race: %v", i, err)
		}
	}
	stored := readSecret(t, admin, secret)
	want, err := webhookcert.FromSecret(stored.Data).Serving()
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range replicas {
		if got := r.serving.Load(); got == nil || !bytes.Equal(got.Certificate[0], want.Certificate[0]) {
			t.Errorf("replica %d serves another certificate than the Secret has", i)
		}
		if err := r.ready(); err != nil {
			t.Errorf("replica %d is not ready: %v", i, err)
		}
	}
	for range 3 {
		for i, r := range replicas {
			if _, err := r.Reconcile(t.Context(), reconcile.Request{}); err != nil {
				t.Errorf("replica %d, at rest: %v", i, err)
			}
		}
	}
	if again := readSecret(t, admin, secret); again.ResourceVersion != stored.ResourceVersion {
		t.Error("the Secret was written again although nothing was due")
	}
}

func readSecret(t *testing.T, c client.Client, secret *corev1.Secret) *corev1.Secret {
	t.Helper()
	found := &corev1.Secret{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(secret), found); err != nil {
		t.Fatal(err)
	}
	return found
}

// afterBothRead delays the first write until two replicas have read the Secret.
type afterBothRead struct {
	client.Client
	read *sync.WaitGroup
	once sync.Once
}

func (c *afterBothRead) Update(ctx context.Context, o client.Object, options ...client.UpdateOption) error {
	c.once.Do(c.read.Done) // it writes what it made of its reading
	done := make(chan struct{})
	go func() { c.read.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		return fmt.Errorf("write %s: the other replica has not read: expected both to meet", o.GetName())
	}
	return c.Client.Update(ctx, o, options...)
}
