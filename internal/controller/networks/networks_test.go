// SPDX-License-Identifier: Apache-2.0

package networks

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	cncfv1 "spidernet.io/spiderpool/api/cncf/v1"
	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
	"spidernet.io/spiderpool/internal/testapi"
)

func TestMain(m *testing.M) { testapi.Main(m) }

// warnings collects what the API server tells kubectl's user beside the answer.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

func (w *warnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

func (w *warnings) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := strings.Join(w.texts, "\n")
	w.texts = nil
	return out
}

// start runs a manager with this package's webhooks and controllers until the test ends, and
// returns a client of a user. Only one test of the package may call it: the webhooks are cluster-wide.
func start(t *testing.T) (client.Client, *warnings) {
	t.Helper()
	api := testapi.Start(t)
	mgr, err := ctrl.NewManager(api.Config, ctrl.Options{
		Scheme: api.Scheme, WebhookServer: api.WebhookServer(), Metrics: metricsserver.Options{BindAddress: "0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := SetupWithManager(mgr, Options{Resync: 200 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("manager: %v", err)
		}
	})
	eventually(t, "webhook server", func() error { return mgr.GetWebhookServer().StartedChecker()(nil) })
	api.InstallWebhooks(t,
		testapi.Hook{Kind: v2beta1.GroupVersion.WithKind("SpiderMultusConfig"), Resource: "spidermultusconfigs",
			Mutate: true, Validate: true},
		testapi.Hook{Kind: v2beta1.GroupVersion.WithKind("SpiderCoordinator"), Resource: "spidercoordinators",
			Mutate: true, Validate: true},
	)
	w := &warnings{}
	config := rest.CopyConfig(api.Config)
	config.WarningHandler = w
	c, err := client.New(config, client.Options{Scheme: api.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	// The API server notices webhook configurations a moment later.
	eventually(t, "webhooks in force", func() error {
		probe := smc("probe", "{cniType: ipoib}")
		err := c.Create(t.Context(), probe, client.DryRunAll)
		if err == nil {
			return errors.New("an invalid object is admitted")
		}
		return nil
	})
	w.take()
	return c, w
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// smc is a SpiderMultusConfig in namespace default as a user writes it.
func smc(name, spec string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	var s map[string]any
	if err := yaml.Unmarshal([]byte(spec), &s); err != nil {
		panic(err)
	}
	u.Object["spec"] = s
	u.SetGroupVersionKind(v2beta1.GroupVersion.WithKind("SpiderMultusConfig"))
	u.SetNamespace("default")
	u.SetName(name)
	return u
}

const ipoibSpec = "{cniType: ib-sriov, ipoib: {master: ibs5f0, ippools: {ipv4: [v4-91]}}}"

func TestNetworks(t *testing.T) {
	c, w := start(t)
	t.Run("refusals", func(t *testing.T) { testRefusals(t, c) })
	t.Run("the guide's ipoib", func(t *testing.T) { testContradiction(t, c, w) })
	t.Run("definition", func(t *testing.T) { testDefinition(t, c) })
	t.Run("name taken", func(t *testing.T) { testNameTaken(t, c) })
	t.Run("old owner", func(t *testing.T) { testOldOwner(t, c) })
	t.Run("coordinator", func(t *testing.T) { testCoordinator(t, c, w) })
	t.Run("quiet", func(t *testing.T) { testQuiet(t, c) })
}

// testQuiet: what is in place is not written again, or each write would call for the next.
func testQuiet(t *testing.T, c client.Client) {
	for name, spec := range map[string]string{"quiet-ipoib": ipoibSpec,
		"quiet-custom":   `{cniType: custom, customCNI: ""}`,
		"quiet-ib-sriov": "{cniType: ib-sriov, ibsriov: {resourceName: spidernet.io/vf, ippools: {ipv4: [v4-91]}}}"} {
		if err := c.Create(t.Context(), smc(name, spec)); err != nil {
			t.Fatal(err)
		}
		eventually(t, name, func() error {
			return c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name},
				&cncfv1.NetworkAttachmentDefinition{})
		})
	}
	time.Sleep(time.Second) // their status
	versions := func() map[string]string {
		out := map[string]string{}
		for _, list := range []client.ObjectList{&cncfv1.NetworkAttachmentDefinitionList{},
			&v2beta1.SpiderMultusConfigList{}, &v2beta1.SpiderCoordinatorList{}} {
			if err := c.List(t.Context(), list); err != nil {
				t.Fatal(err)
			}
			if err := meta.EachListItem(list, func(o runtime.Object) error {
				one := o.(client.Object)
				out[fmt.Sprintf("%T %s/%s", one, one.GetNamespace(), one.GetName())] = one.GetResourceVersion()
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	before := versions()
	if len(before) < 6 {
		t.Fatalf("objects: %v", before)
	}
	time.Sleep(2 * time.Second)
	if diff := cmp.Diff(before, versions()); diff != "" {
		t.Errorf("written while nothing changed: %s", diff)
	}
}

func testRefusals(t *testing.T, c client.Client) {
	for _, tt := range []struct{ name, spec, want string }{
		{"unknown type", "{cniType: infiniband, ibsriov: {resourceName: a.io/b}}",
			`SpiderMultusConfig.spiderpool.spidernet.io "bad" is invalid: spec.cniType: Unsupported value: "infiniband": supported values: "macvlan", "ipvlan", "vlan", "sriov", "ovs", "ib-sriov", "ipoib", "custom"`},
		{"two stanzas", "{cniType: ib-sriov, ibsriov: {resourceName: a.io/b}, ipoib: {master: ib0}}",
			`SpiderMultusConfig.spiderpool.spidernet.io "bad" is invalid: spec: Forbidden: 2 stanzas are present, spec.ibsriov and spec.ipoib: want exactly one; spec.cniType is "ib-sriov": remove spec.ipoib`},
		{"no stanza", "{cniType: ib-sriov}",
			`is invalid: spec.ibsriov: Required value: spec.cniType is "ib-sriov" and no stanza is present: give spec.ibsriov`},
		{"no resource", "{cniType: ib-sriov, ibsriov: {ippools: {ipv4: [v4-91]}}}",
			`is invalid: spec.ibsriov.resourceName: Required value: want the extended resource with its prefix`},
		{"wrong kind", "{cniType: ipoib, ipoib: {master: [ib0]}}",
			`spec.ipoib.master: Invalid value: "array": spec.ipoib.master in body must be of type string`},
	} {
		err := c.Create(t.Context(), smc("bad", tt.spec))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s:\n got  %v\n want %s", tt.name, err, tt.want)
		}
	}
	var none v2beta1.SpiderMultusConfigList
	if err := c.List(t.Context(), &none); err != nil || len(none.Items) != 0 {
		t.Errorf("%d objects are left behind, %v", len(none.Items), err)
	}
}

func testContradiction(t *testing.T, c client.Client, w *warnings) {
	if err := c.Create(t.Context(), smc("ipoib", ipoibSpec)); err != nil {
		t.Fatal(err)
	}
	want := `spec.cniType is "ib-sriov", but the only stanza is spec.ipoib and spec.ibsriov is absent: the stanza wins`
	if got := w.take(); strings.Count(got, want) != 1 {
		t.Errorf("warnings %q, want one %q", got, want)
	}
	var got v2beta1.SpiderMultusConfig
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "ipoib"}, &got); err != nil {
		t.Fatal(err)
	}
	if *got.Spec.CniType != "ipoib" || !*got.Spec.EnableCoordinator {
		t.Errorf("cniType %q, enableCoordinator %v; want ipoib and true", *got.Spec.CniType,
			*got.Spec.EnableCoordinator)
	}
}

// ready waits until a configuration has the wanted reason for its current generation.
func ready(t *testing.T, c client.Client, name, reason string) v2beta1.SpiderMultusConfig {
	t.Helper()
	var got v2beta1.SpiderMultusConfig
	eventually(t, "SpiderMultusConfig "+name+" "+reason, func() error {
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, &got); err != nil {
			return err
		}
		cond := meta.FindStatusCondition(got.Status.Conditions, ConditionReady)
		if cond == nil || cond.Reason != reason || cond.ObservedGeneration != got.Generation {
			return errors.New("status " + marshal(got.Status))
		}
		return nil
	})
	return got
}

func marshal(v any) string {
	text, _ := yaml.Marshal(v)
	return string(text)
}

func definition(t *testing.T, c client.Client, name string) (cncfv1.NetworkAttachmentDefinition, error) {
	var n cncfv1.NetworkAttachmentDefinition
	err := c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, &n)
	return n, err
}

func testDefinition(t *testing.T, c client.Client) {
	created := smc("ib",
		"{cniType: ib-sriov, ibsriov: {resourceName: spidernet.io/mellanoxibsriov, ippools: {ipv4: [v4-91]}}}")
	created.SetAnnotations(map[string]string{"example.io/team": "hpc"})
	if err := c.Create(t.Context(), created); err != nil {
		t.Fatal(err)
	}
	got := ready(t, c, "ib", ReasonApplied)
	if got.Status.NetworkAttachmentDefinition != "default/ib" {
		t.Errorf("status names %q, want default/ib", got.Status.NetworkAttachmentDefinition)
	}
	n, err := definition(t, c, "ib")
	if err != nil {
		t.Fatal(err)
	}
	wantConfig := `{"cniVersion":"0.3.1","name":"ib","plugins":[{"type":"ib-sriov","link_state":"enable","ibKubernetesEnabled":false,"capabilities":{"infinibandGUID":true,"ips":true},"ipam":{"type":"spiderpool","default_ipv4_ippool":["v4-91"]}},{"type":"coordinator"}]}`
	if n.Spec.Config != wantConfig {
		t.Errorf("config %s\nwant   %s", n.Spec.Config, wantConfig)
	}
	if n.ResourceName() != "spidernet.io/mellanoxibsriov" || n.Annotations["example.io/team"] != "hpc" {
		t.Errorf("annotations %v", n.Annotations)
	}
	if owner := metav1.GetControllerOf(&n); owner == nil || owner.UID != got.UID || !*owner.BlockOwnerDeletion {
		t.Errorf("owner %+v, want %s", owner, got.UID)
	}
	eventually(t, "event", func() error { return hasEvent(t, c, "ib", ReasonApplied) })

	// Somebody edits it: what is ours is put right, what is theirs stays.
	if err := testapi.Change(t.Context(), c, &n, func() {
		n.Spec.Config = "{}"
		n.Annotations[cncfv1.AnnotationResourceName] = "other.io/x"
		n.Annotations["foreign.io/note"] = "kept"
		n.OwnerReferences = nil
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "repair", func() error {
		n, err = definition(t, c, "ib")
		if err != nil || n.Spec.Config != wantConfig || n.ResourceName() != "spidernet.io/mellanoxibsriov" ||
			metav1.GetControllerOf(&n) == nil {
			return errors.New(marshal(n))
		}
		return nil
	})
	if n.Annotations["foreign.io/note"] != "kept" {
		t.Errorf("a foreign annotation is lost: %v", n.Annotations)
	}

	// An update takes away what it no longer says, and leaves what is foreign.
	live := ready(t, c, "ib", ReasonApplied)
	if err := testapi.Change(t.Context(), c, &live, func() {
		delete(live.Annotations, "example.io/team")
		live.Spec.IbSriovConfig.LinkState = new("auto")
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "update", func() error {
		n, err = definition(t, c, "ib")
		_, stale := n.Annotations["example.io/team"]
		if err != nil || !strings.Contains(n.Spec.Config, `"link_state":"auto"`) || stale ||
			n.Annotations["foreign.io/note"] != "kept" {
			return errors.New(marshal(n))
		}
		return nil
	})

	// A partition key is refused, and none is none.
	pkey := func(value string) error {
		return testapi.Change(t.Context(), c, &live, func() { live.Spec.IbSriovConfig.Pkey = &value })
	}
	if err := pkey(""); err != nil {
		t.Fatal(err)
	}
	const want = "spec.ibsriov.pkey: Forbidden: partitions are not implemented, and the pod would be in the default " +
		"partition: remove the field"
	if err := pkey("0x8001"); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("a partition key: %v, want %q", err, want)
	}

	// Somebody deletes it.
	before := n.UID
	if err := c.Delete(t.Context(), &n); err != nil {
		t.Fatal(err)
	}
	eventually(t, "recreation", func() error {
		n, err = definition(t, c, "ib")
		if err == nil && n.UID == before {
			err = errors.New("still the old one")
		}
		return err
	})
}

func hasEvent(t *testing.T, c client.Client, name, reason string) error {
	var list eventsv1.EventList
	if err := c.List(t.Context(), &list, client.InNamespace("default")); err != nil {
		return err
	}
	for _, e := range list.Items {
		if e.Regarding.Kind == "SpiderMultusConfig" && e.Regarding.Name == name && e.Reason == reason {
			return nil
		}
	}
	return errors.New("no event " + reason + " of " + name)
}

func testNameTaken(t *testing.T, c client.Client) {
	// An unowned definition of the name is taken over.
	unowned := &cncfv1.NetworkAttachmentDefinition{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "legacy",
			Annotations: map[string]string{"foreign.io/note": "kept"}},
		Spec: cncfv1.NetworkAttachmentDefinitionSpec{Config: "{}"},
	}
	if err := c.Create(t.Context(), unowned); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), smc("legacy", ipoibSpec)); err != nil {
		t.Fatal(err)
	}
	ready(t, c, "legacy", ReasonApplied)
	n, err := definition(t, c, "legacy")
	if err != nil || !strings.Contains(n.Spec.Config, "ipoib") || n.Annotations["foreign.io/note"] != "kept" ||
		metav1.GetControllerOf(&n) == nil {
		t.Errorf("not taken over: %s, %v", marshal(n), err)
	}

	// One of another configuration is not.
	second := smc("second", ipoibSpec)
	second.SetAnnotations(map[string]string{v2beta1.AnnotationMultusConfigNADName: "legacy"})
	err = c.Create(t.Context(), second)
	want := "metadata.name: Forbidden: NetworkAttachmentDefinition default/legacy belongs to SpiderMultusConfig " +
		"legacy: want a free name; choose another with the annotation multus.spidernet.io/cr-name"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v\nwant %s", err, want)
	}

	// Nor one that comes in between, past admission.
	racing := smc("racing", ipoibSpec)
	if err := c.Create(t.Context(), racing); err != nil {
		t.Fatal(err)
	}
	ready(t, c, "racing", ReasonApplied)
	var pod corev1.ConfigMap
	pod.Namespace, pod.Name = "default", "owner"
	if err := c.Create(t.Context(), &pod); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another owner", func() error {
		n, err := definition(t, c, "racing")
		if err != nil {
			return err
		}
		n.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(&pod,
			corev1.SchemeGroupVersion.WithKind("ConfigMap"))}
		return c.Update(t.Context(), &n)
	})
	got := ready(t, c, "racing", ReasonNameTaken)
	if m := meta.FindStatusCondition(got.Status.Conditions, ConditionReady).Message; !strings.Contains(m,
		"belongs to ConfigMap owner") {
		t.Errorf("message %q", m)
	}
	eventually(t, "warning event", func() error { return hasEvent(t, c, "racing", ReasonNameTaken) })
}

// testOldOwner has a definition whose owner was deleted and made anew, and one that hangs in deletion.
func testOldOwner(t *testing.T, c client.Client) {
	gone := &v2beta1.SpiderMultusConfig{ObjectMeta: metav1.ObjectMeta{Name: "again", Namespace: "default",
		UID: "00000000-0000-0000-0000-000000000001"}}
	old := &cncfv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: "again", Finalizers: []string{"example.io/hold"},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(gone,
			v2beta1.GroupVersion.WithKind("SpiderMultusConfig"))},
	}}
	if err := c.Create(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), old); err != nil { // as garbage collection would
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), smc("again", ipoibSpec)); err != nil {
		t.Fatal(err)
	}
	ready(t, c, "again", ReasonTerminating)
	n, err := definition(t, c, "again")
	if err != nil {
		t.Fatal(err)
	}
	if err := testapi.Change(t.Context(), c, &n, func() { n.Finalizers = nil }); err != nil {
		t.Fatal(err)
	}
	ready(t, c, "again", ReasonApplied)
}

func testCoordinator(t *testing.T, c client.Client, w *warnings) {
	bad := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "default"},
		Spec: v2beta1.CoordinatorSpec{PodMACPrefix: new("01:02")}}
	if err := c.Create(t.Context(), bad); err == nil || !strings.Contains(err.Error(),
		"spec.podMACPrefix: Invalid value: \"01:02\"") {
		t.Errorf("group address prefix: %v", err)
	}
	w.take()
	other := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	if err := c.Create(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if got := w.take(); !strings.Contains(got, `only the one named "default" is read`) {
		t.Errorf("warnings %q", got)
	}

	one := &v2beta1.SpiderCoordinator{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if err := c.Create(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if *one.Spec.Mode != "auto" || *one.Spec.HostRuleTable != 500 || one.Spec.HijackCIDR[0] != "169.254.0.0/16" {
		t.Errorf("defaults: %s", marshal(one.Spec))
	}
	// The API server itself makes the ServiceCIDR; nobody tells the pod networks yet.
	status := coordinatorStatus(t, c, v2beta1.CoordinatorNotReady)
	if len(status.ServiceCIDR) == 0 || !strings.Contains(status.Reason,
		"pod networks unknown (looked at: Calico's IPPools, Cilium's configuration,") {
		t.Errorf("status %s", marshal(status))
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{PodCIDR: "10.244.1.0/24",
		PodCIDRs: []string{"10.244.1.0/24"}}}
	if err := c.Create(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	status = coordinatorStatus(t, c, v2beta1.CoordinatorSynced)
	if len(status.OverlayPodCIDR) != 1 || status.OverlayPodCIDR[0] != "10.244.1.0/24" {
		t.Errorf("status %s", marshal(status))
	}
	// kubeadm's word is better than the nodes', and comes without an event.
	kubeadm := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kubeadm-config"},
		Data: map[string]string{
			"ClusterConfiguration": "networking:\n  podSubnet: 10.244.0.0/16,fd00:10::/48\n  serviceSubnet: " +
				"10.96.0.0/16\n"},
	}
	if err := c.Create(t.Context(), kubeadm); apierrors.IsNotFound(err) {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}}
		if err := errors.Join(c.Create(t.Context(), ns), c.Create(t.Context(), kubeadm)); err != nil {
			t.Fatal(err)
		}
	} else if err != nil {
		t.Fatal(err)
	}
	eventually(t, "kubeadm's networks", func() error {
		status := coordinatorStatus(t, c, v2beta1.CoordinatorSynced)
		if strings.Join(status.OverlayPodCIDR, " ") != "10.244.0.0/16 fd00:10::/48" {
			return errors.New(marshal(status))
		}
		return nil
	})
}

func coordinatorStatus(t *testing.T, c client.Client, phase string) v2beta1.CoordinatorStatus {
	t.Helper()
	var got v2beta1.SpiderCoordinator
	eventually(t, "SpiderCoordinator "+phase, func() error {
		if err := c.Get(t.Context(), client.ObjectKey{Name: "default"}, &got); err != nil {
			return err
		}
		if got.Status.Phase != phase {
			return errors.New(marshal(got.Status))
		}
		return nil
	})
	return got.Status
}
