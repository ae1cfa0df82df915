// SPDX-License-Identifier: Apache-2.0

package initjob_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	sriovv1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/initjob"
	"spidernet.io/spiderpool/internal/scheme"
	"spidernet.io/spiderpool/internal/testapi"
	"spidernet.io/spiderpool/internal/testchart"
)

func TestMain(m *testing.M) { testapi.Main(m) }

// clients returns an administrator and the service account that the init and clean pods have.
func clients(t *testing.T) (admin, own client.Client) {
	t.Helper()
	api := testapi.Start(t)
	var err error
	if admin, err = client.New(api.Config, client.Options{Scheme: scheme.New()}); err != nil {
		t.Fatal(err)
	}
	testchart.Install(t, admin, testchart.Objects(t, "sriov.yaml", testchart.RBACKinds...))
	config := testchart.As(api.Config, "spiderpool-controller", "")
	config.QPS = -1
	if own, err = client.New(config, client.Options{Scheme: scheme.New()}); err != nil {
		t.Fatal(err)
	}
	return admin, own
}

// defaults returns what the chart tells its init pod.
func defaults(t *testing.T, golden string) initjob.Defaults {
	t.Helper()
	for _, o := range testchart.Objects(t, golden, "Pod") {
		containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "containers")
		variables, _, _ := unstructured.NestedSlice(containers[0].(map[string]any), "env")
		for _, v := range variables {
			if v := v.(map[string]any); v["name"] == "SPIDERPOOL_INIT_DEFAULTS" {
				d, err := initjob.ParseDefaults(v["value"].(string))
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
		}
	}
	t.Fatalf("%s has no init pod with SPIDERPOOL_INIT_DEFAULTS", golden)
	return initjob.Defaults{}
}

func run(t *testing.T, c client.Client, d initjob.Defaults, timeout time.Duration) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := initjob.Run(t.Context(), initjob.Options{
		Client: c, Namespace: testchart.Namespace, Defaults: d, Timeout: timeout, Interval: 50 * time.Millisecond,
		Out: &out,
	})
	return out.String(), err
}

// have creates an object for the time of a test.
func have(t *testing.T, c client.Client, o client.Object) {
	t.Helper()
	if err := c.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, c, o) })
}

func remove(t *testing.T, c client.Client, o client.Object) {
	t.Helper()
	// The test's own context may have ended by now.
	if err := c.Delete(context.Background(), o, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
		t.Error(err)
	}
}

// haveWorkloads creates the chart's workloads and reports them as rolled out, as the controllers of
// a cluster would.
func haveWorkloads(t *testing.T, admin client.Client) {
	t.Helper()
	for _, o := range testchart.Objects(t, "sriov.yaml", "Deployment", "DaemonSet") {
		have(t, admin, o)
		status := map[string]any{"observedGeneration": int64(1), "replicas": int64(1), "updatedReplicas": int64(1),
			"availableReplicas": int64(1), "readyReplicas": int64(1)}
		if o.GetKind() == "DaemonSet" {
			status = map[string]any{
				"observedGeneration": int64(1), "desiredNumberScheduled": int64(2), "currentNumberScheduled": int64(2),
				"numberMisscheduled": int64(0), "numberReady": int64(2), "updatedNumberScheduled": int64(2),
			}
		}
		o.Object["status"] = status
		if err := admin.Status().Update(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}

// noNewPools refuses to create a pool, as the webhook does when its addresses belong to another one.
type noNewPools struct{ client.Client }

func (c noNewPools) Create(ctx context.Context, o client.Object, options ...client.CreateOption) error {
	if pool, ok := o.(*v2beta1.SpiderIPPool); ok {
		return apierrors.NewInvalid(v2beta1.GroupVersion.WithKind("SpiderIPPool").GroupKind(), pool.Name, nil)
	}
	return c.Client.Create(ctx, o, options...)
}

func TestRunCreatesTheDefaultsAndIsRepeatable(t *testing.T) {
	admin, own := clients(t)
	haveWorkloads(t, admin)
	d := defaults(t, "everything.yaml")
	for range 2 {
		out, err := run(t, own, d, 30*time.Second)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if !strings.Contains(out, "all done") {
			t.Errorf("output %q does not end well", out)
		}
	}
	coordinator := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	operator := &sriovv1.SriovOperatorConfig{ObjectMeta: metav1.ObjectMeta{Name: "default",
		Namespace: testchart.Namespace}}
	pool := &v2beta1.SpiderIPPool{ObjectMeta: metav1.ObjectMeta{Name: "default-v4-ippool"}}
	for _, o := range []client.Object{coordinator, operator, pool} {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { remove(t, admin, o) })
	}
	if got := ptr.Deref(coordinator.Spec.Mode, ""); got != v2beta1.CoordinatorAuto {
		t.Errorf("mode %q", got)
	}
	if !ptr.Deref(operator.Spec.DisableDrain,
		false) || operator.Spec.ConfigDaemonNodeSelector["kubernetes.io/os"] != "linux" {
		t.Errorf("operator settings %+v", operator.Spec)
	}
	if pool.Spec.Subnet != "10.6.0.0/16" || !ptr.Deref(pool.Spec.Default, false) || ptr.Deref(pool.Spec.Gateway,
		"") != "10.6.0.1" {
		t.Errorf("pool %+v", pool.Spec)
	}

	// A pool that is there is not judged again: its addresses may have gone to another pool since.
	if out, err := run(t, noNewPools{own}, d, 30*time.Second); err != nil {
		t.Fatalf("with a pool that is there: %v\n%s", err, out)
	}

	// An upgrade changes what nobody has touched, and leaves what somebody has.
	d.Coordinator.Spec["vethMTU"] = int64(9000)
	if out, err := run(t, own, d, 30*time.Second); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(coordinator), coordinator); err != nil {
		t.Fatal(err)
	}
	if got := ptr.Deref(coordinator.Spec.VethMTU, 0); got != 9000 {
		t.Errorf("vethMTU %d after an upgrade, want 9000", got)
	}
	coordinator.Spec.Mode = ptr.To(v2beta1.CoordinatorOverlay)
	if err := admin.Update(t.Context(), coordinator); err != nil {
		t.Fatal(err)
	}
	out, err := run(t, own, d, 30*time.Second)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(out, "kept as it is") || !strings.Contains(out, ".spec.mode") {
		t.Errorf("output does not name what was kept:\n%s", out)
	}
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(coordinator), coordinator); err != nil {
		t.Fatal(err)
	}
	if got := ptr.Deref(coordinator.Spec.Mode, ""); got != v2beta1.CoordinatorOverlay {
		t.Errorf("mode %q: a change by hand was lost", got)
	}
}

func TestRunEndsWithTheReason(t *testing.T) {
	admin, own := clients(t)
	t.Run("webhook cannot be reached", func(t *testing.T) {
		fail, none := admissionv1.Fail, admissionv1.SideEffectClassNone
		have(t, admin, &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "unreachable"},
			Webhooks: []admissionv1.ValidatingWebhook{{
				Name: "unreachable.example.com", FailurePolicy: &fail, SideEffects: &none,
				AdmissionReviewVersions: []string{"v1"},
				ClientConfig:            admissionv1.WebhookClientConfig{URL: ptr.To("https://127.0.0.1:1/")},
				Rules: []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule: admissionv1.Rule{
						APIGroups: []string{v2beta1.GroupVersion.Group}, APIVersions: []string{"*"},
						Resources: []string{"spidercoordinators"},
					}}},
			}}})
		var err error
		for range 50 { // API servers take up a webhook some time after it is stored
			if _, err = run(t, own, initjob.Defaults{}, time.Second); err != nil {
				break
			}
		}
		for _, want := range []string{"the controller's webhook answers", "gave up after 1s",
			"failed calling webhook"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want one with %q", err, want)
			}
		}
	})
	t.Run("nothing is rolled out", func(t *testing.T) {
		_, err := run(t, own, initjob.Defaults{Deployments: []string{"spiderpool-controller"}}, time.Second)
		if err == nil || !strings.Contains(err.Error(), "Deployment spiderpool-controller: gave up after 1s") ||
			!strings.Contains(err.Error(), "not found") {
			t.Errorf("error %v, want one that names the Deployment", err)
		}
	})
	t.Run("wrong object", func(t *testing.T) {
		d := initjob.Defaults{Coordinator: &initjob.Coordinator{Name: "default",
			Spec: map[string]any{"mode": "bridge"}}}
		start := time.Now()
		_, err := run(t, own, d, time.Minute)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "bridge") {
			t.Errorf("error %v, want the API server's refusal", err)
		}
		if time.Since(start) > 30*time.Second {
			t.Error("it waited although the answer could not change")
		}
	})
}

func TestCleanLetsGoAndKeepsObjects(t *testing.T) {
	admin, own := clients(t)
	testchart.Install(t, admin, testchart.Objects(t, "sriov.yaml", "ValidatingWebhookConfiguration",
		"MutatingWebhookConfiguration"))
	haveWorkloads(t, admin)
	testchart.Install(t, admin, testchart.Objects(t, "sriov.yaml", "Pod"))
	foreign := "example.com/theirs"
	pool := &v2beta1.SpiderIPPool{
		ObjectMeta: metav1.ObjectMeta{Name: "kept", Finalizers: []string{v2beta1.Finalizer, foreign}},
		Spec:       v2beta1.IPPoolSpec{Subnet: "10.9.0.0/16"},
	}
	lease := &v2beta1.SpiderIPLease{
		ObjectMeta: metav1.ObjectMeta{Name: "kept.10-9-0-1", Finalizers: []string{v2beta1.Finalizer}},
		Spec:       v2beta1.IPLeaseSpec{Pool: "kept", IP: "10.9.0.1", Node: "n"},
	}
	network := &sriovv1.SriovIBNetwork{
		ObjectMeta: metav1.ObjectMeta{Namespace: testchart.Namespace, Name: "kept",
			Finalizers: []string{sriovv1.FinalizerNetwork, foreign}},
		Spec: sriovv1.SriovIBNetworkSpec{ResourceName: "mellanoxibsriov", NetworkNamespace: "default"},
	}
	clean := func() string {
		t.Helper()
		var out bytes.Buffer
		err := initjob.Clean(t.Context(), initjob.CleanOptions{Client: own, Namespace: testchart.Namespace,
			Controller: "spiderpool-controller", Operator: "spiderpool-sriov-operator", InitPod: "spiderpool-init",
			Timeout: 30 * time.Second, Out: &out})
		if err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	out := clean()
	for _, want := range []string{"stopped Deployment spiderpool-controller",
		"stopped Deployment spiderpool-sriov-operator", "Pod spiderpool-init", "ValidatingWebhookConfiguration",
		"MutatingWebhookConfiguration"} {
		if !strings.Contains(out, want) {
			t.Fatalf("output %q does not say %q", out, want)
		}
	}
	// Without the webhooks, objects can be created, but it takes an API server some time to notice.
	for _, o := range []client.Object{pool, lease, network} {
		var err error
		for range 100 {
			if err = admin.Create(t.Context(), o); err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	clean()
	if out := clean(); out != "" {
		t.Errorf("a third run still did: %s", out)
	}
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(pool), pool); err != nil {
		t.Fatal(err)
	}
	if got := pool.Finalizers; len(got) != 1 || got[0] != foreign {
		t.Errorf("finalizers %v, want only %s", got, foreign)
	}
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(network), network); err != nil ||
		len(network.Finalizers) != 1 || network.Finalizers[0] != foreign {
		t.Errorf("network: %v, finalizers %v, want only %s", err, network.Finalizers, foreign)
	}
	network.Finalizers = nil
	if err := admin.Update(t.Context(), network); err != nil {
		t.Error(err)
	}
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(lease), lease); err != nil ||
		len(lease.Finalizers) > 0 {
		t.Errorf("lease: %v, finalizers %v", err, lease.Finalizers)
	}
	pool.Finalizers = nil
	if err := admin.Update(t.Context(), pool); err != nil {
		t.Error(err)
	}
	remove(t, admin, pool)
	remove(t, admin, lease)
}
