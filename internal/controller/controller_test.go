// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/process"
	"spidernet.io/spiderpool/internal/scheme"
	"spidernet.io/spiderpool/internal/settings"
	"spidernet.io/spiderpool/internal/testapi"
	"spidernet.io/spiderpool/internal/testchart"
)

func TestMain(m *testing.M) { testapi.Main(m) }

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// eventually repeats a check until it returns nil; it fails the test with the last error.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, time.Minute, true,
		func(ctx context.Context) (bool, error) {
			last = check(ctx)
			return last == nil, nil
		})
	if err != nil {
		t.Fatalf("%s: %v: %v", what, err, last)
	}
}

// installChart installs what the controller needs of the chart; API servers reach its webhooks on a
// local port.
func installChart(t *testing.T, c client.Client, port int) {
	t.Helper()
	testchart.Install(t, c, testchart.Objects(t, "sriov.yaml", append(testchart.RBACKinds, "Secret")...))
	configurations := testchart.Objects(t, "sriov.yaml", "ValidatingWebhookConfiguration",
		"MutatingWebhookConfiguration")
	for _, o := range configurations {
		useURL(t, o, port)
		t.Cleanup(func() {
			// The test's own context has ended by now.
			if err := c.Delete(context.Background(), o); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		})
	}
	testchart.Install(t, c, configurations)
}

func useURL(t *testing.T, configuration *unstructured.Unstructured, port int) {
	t.Helper()
	hooks, _, err := unstructured.NestedSlice(configuration.Object, "webhooks")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hooks {
		hook := h.(map[string]any)
		path, _, _ := unstructured.NestedString(hook, "clientConfig", "service", "path")
		hook["clientConfig"] = map[string]any{"url": fmt.Sprintf("https://localhost:%d%s", port, path)}
	}
	if err := unstructured.SetNestedSlice(configuration.Object, hooks, "webhooks"); err != nil {
		t.Fatal(err)
	}
}

// get asks one of the process's health endpoints.
func get(ctx context.Context, address, endpoint string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/v1/runtime/"+endpoint, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, body)
	}
	return nil
}

// run starts the process under the rights that the chart gives it, and waits until it is ready.
// When the test ends it is asked to end, and must have been refused nothing.
func run(t *testing.T) client.Client {
	t.Helper()
	api := testapi.Start(t)
	admin, err := client.New(api.Config, client.Options{Scheme: scheme.New()})
	if err != nil {
		t.Fatal(err)
	}
	webhookPort := freePort(t)
	installChart(t, admin, webhookPort)

	output := &testchart.Log{}
	log := slog.New(slog.NewTextHandler(output, nil))
	klog.SetSlogLogger(log)
	o := Options{
		Config: testchart.As(api.Config, "spiderpool-controller", ""), Log: log,
		Name: "spiderpool-controller", Namespace: testchart.Namespace,
		CertificateSecret: "spiderpool-controller-server-certs",
		HealthAddress:     process.Address("127.0.0.1", freePort(t)), WebhookHost: "localhost",
		WebhookPort: webhookPort,
		SRIOV:       true, Settings: settings.Default(),
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, o) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the process ended with: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the process did not end when it was asked to")
		}
		output.RequireNoRefusals(t)
		if t.Failed() {
			t.Logf("log of the process:\n%s", output)
		}
	})
	eventually(t, "readiness", func(ctx context.Context) error {
		select {
		case err := <-done:
			done <- err
			t.Fatalf("the process ended: %v", err)
		default:
		}
		return get(ctx, o.HealthAddress, "readiness")
	})
	return admin
}

// TestRun runs one process through its life: a process cannot hold two managers, whose controllers
// have the same names.
func TestRun(t *testing.T) {
	admin := run(t)
	t.Run("every webhook of the chart is served", func(t *testing.T) { everyWebhookServed(t, admin) })
	t.Run("webhooks refuse", func(t *testing.T) { webhooksRefuse(t, admin) })
	t.Run("controllers act", func(t *testing.T) { controllersAct(t, admin) })
	t.Run("trust comes back", func(t *testing.T) { trustComesBack(t, admin) })
	t.Run("certificates are made anew", func(t *testing.T) { certificatesMadeAnew(t, admin) })
}

func webhooksRefuse(t *testing.T, admin client.Client) {
	refused := &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Name: "two-stanzas", Namespace: "default"},
		Spec: v2beta1.MultusCNIConfigSpec{
			IbSriovConfig: &v2beta1.SpiderIBSRIOVCniConfig{ResourceName: ptr.To("spidernet.io/a")},
			IpoibConfig:   &v2beta1.SpiderIPoIBCniConfig{Master: "ib0"},
		}}
	if err := admin.Create(t.Context(), refused); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
		t.Errorf("a SpiderMultusConfig with two stanzas: %v, want a refusal by the webhook", err)
	}
}

// controllersAct gives each controller something to do; run fails the test when one lacks a right for it.
func controllersAct(t *testing.T, admin client.Client) {
	for _, o := range []client.Object{
		&v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Name: "ib-sriov", Namespace: "default"},
			Spec: v2beta1.MultusCNIConfigSpec{
				CniType: ptr.To("ib-sriov"), IbSriovConfig: &v2beta1.SpiderIBSRIOVCniConfig{
					ResourceName: ptr.To("spidernet.io/a")},
			}},
		&v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: v2beta1.CoordinatorSpec{
			Mode: ptr.To(v2beta1.CoordinatorAuto), PodCIDRType: ptr.To("auto"),
		}},
		&v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "v4-91"}, Spec: v2beta1.IPPoolSpec{
			Subnet: "172.91.0.0/16", IPs: []string{"172.91.0.100-172.91.0.120"}, Gateway: ptr.To("172.91.0.1"),
		}},
		&v2beta1.SpiderReservedIP{ObjectMeta: metav1.ObjectMeta{Name: "reserved"},
			Spec: v2beta1.ReservedIPSpec{IPs: []string{"172.91.0.100"}}},
		&sriovv1.SriovNetworkNodePolicy{ObjectMeta: metav1.ObjectMeta{Name: "ib-sriov", Namespace: testchart.Namespace},
			Spec: sriovv1.SriovNetworkNodePolicySpec{
				ResourceName: "mellanoxibsriov", NodeSelector: map[string]string{"kubernetes.io/os": "linux"},
				NumVfs:      12,
				NicSelector: sriovv1.SriovNetworkNicSelector{Vendor: "15b3"},
			}},
	} {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the network of a SpiderMultusConfig", func(ctx context.Context) error {
		return admin.Get(ctx, client.ObjectKey{Namespace: "default", Name: "ib-sriov"},
			&cncfv1.NetworkAttachmentDefinition{})
	})
	eventually(t, "the status of the SpiderCoordinator", func(ctx context.Context) error {
		c := &v2beta1.SpiderCoordinator{}
		if err := admin.Get(ctx, client.ObjectKey{Name: "default"}, c); err != nil || c.Status.Phase == "" {
			return fmt.Errorf("phase %q: %v", c.Status.Phase, err)
		}
		return nil
	})

	eventually(t, "the status of the SpiderIPPool", func(ctx context.Context) error {
		p := &v2beta1.SpiderIPPool{}
		if err := admin.Get(ctx, client.ObjectKey{Name: "v4-91"}, p); err != nil || ptr.Deref(p.Status.TotalIPCount,
			0) != 21 {
			return fmt.Errorf("total %d: %v", ptr.Deref(p.Status.TotalIPCount, 0), err)
		}
		return nil
	})
	t.Run("a pool goes when it is deleted", func(t *testing.T) {
		pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "v4-91"}}
		if err := admin.Delete(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		eventually(t, "its end", func(ctx context.Context) error {
			if err := admin.Get(ctx, client.ObjectKeyFromObject(pool), pool); !apierrors.IsNotFound(err) {
				return fmt.Errorf("it is there, finalizers %v, error %v", pool.Finalizers, err)
			}
			return nil
		})
	})
}

// trustComesBack writes the configurations anew, as a helm upgrade might.
func trustComesBack(t *testing.T, admin client.Client) {
	configuration := &admissionv1.ValidatingWebhookConfiguration{}
	key := client.ObjectKey{Name: "spiderpool-controller"}
	if err := admin.Get(t.Context(), key, configuration); err != nil {
		t.Fatal(err)
	}
	before := configuration.DeepCopy()
	for i := range configuration.Webhooks {
		configuration.Webhooks[i].ClientConfig.CABundle = nil
	}
	if err := admin.Patch(t.Context(), configuration, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "trust", func(ctx context.Context) error { return trusted(ctx, admin) })
}

func certificatesMadeAnew(t *testing.T, admin client.Client) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: testchart.Namespace, Name: "spiderpool-controller-server-certs"}
	if err := admin.Get(t.Context(), key, secret); err != nil {
		t.Fatal(err)
	}
	old := secret.DeepCopy()
	secret.Data = nil
	if err := admin.Patch(t.Context(), secret, client.MergeFrom(old)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "new certificates", func(ctx context.Context) error {
		if err := admin.Get(ctx, key, secret); err != nil {
			return err
		}
		if len(secret.Data["tls.crt"]) == 0 || bytes.Equal(secret.Data["tls.crt"], old.Data["tls.crt"]) {
			return fmt.Errorf("the Secret has no new certificate")
		}
		return trusted(ctx, admin)
	})
	eventually(t, "webhook", func(ctx context.Context) error {
		probe := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "default"},
			Spec: v2beta1.CoordinatorSpec{Mode: ptr.To(v2beta1.CoordinatorAuto)}}
		return client.IgnoreAlreadyExists(admin.Create(ctx, probe, client.DryRunAll))
	})
}

// trusted says whether both configurations trust what the Secret holds and go with the namespace.
func trusted(ctx context.Context, c client.Client) error {
	secret := &corev1.Secret{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: testchart.Namespace, Name: "spiderpool-controller-server-certs"},
		secret); err != nil {
		return err
	}
	validating, mutating := &admissionv1.ValidatingWebhookConfiguration{}, &admissionv1.MutatingWebhookConfiguration{}
	bundles := map[string][]byte{}
	for _, o := range []client.Object{validating, mutating} {
		if err := c.Get(ctx, client.ObjectKey{Name: "spiderpool-controller"}, o); err != nil {
			return err
		}
		if owners := o.GetOwnerReferences(); len(owners) != 1 || owners[0].Kind != "Namespace" {
			return fmt.Errorf("%T: owners %v, want the namespace", o, owners)
		}
	}
	for _, h := range validating.Webhooks {
		bundles["validating "+h.Name] = h.ClientConfig.CABundle
	}
	for _, h := range mutating.Webhooks {
		bundles["mutating "+h.Name] = h.ClientConfig.CABundle
	}
	for name, bundle := range bundles {
		if !bytes.HasPrefix(bundle, secret.Data["ca.crt"]) || len(bundle) == 0 {
			return fmt.Errorf("%s does not trust the authority of the Secret", name)
		}
	}
	return nil
}

// everyWebhookServed compares the chart's webhook configurations with what the process answers.
func everyWebhookServed(t *testing.T, admin client.Client) {
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	urls := 0
	for _, o := range []client.ObjectList{&admissionv1.ValidatingWebhookConfigurationList{},
		&admissionv1.MutatingWebhookConfigurationList{}} {
		if err := admin.List(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`"url":"([^"]+)"`).FindAllSubmatch(text, -1) {
			answer, err := insecure.Post(string(match[1]), "application/json", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode == http.StatusNotFound {
				t.Errorf("nobody serves %s", match[1])
			}
			urls++
		}
	}
	if urls != 12 {
		t.Errorf("%d webhooks, want 12", urls)
	}
}
