// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/testapi"
)

func TestMain(m *testing.M) { testapi.Main(m) }

const namespace = "kube-system"

// patience bounds every wait of these tests; they end as soon as what they wait for is there.
const patience = 60 * time.Second

// rig is an API server on which the operator and its webhooks run.
type rig struct {
	t *testing.T
	client.Client
	warnings *warnings
}

// warnings are those of the API server's answers since they were last taken.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
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

// start runs controllers and webhooks until the test ends.
func start(t *testing.T) *rig { return startWith(t, Options{Namespace: namespace}) }

func startWith(t *testing.T, o Options) *rig {
	t.Helper()
	api := testapi.Start(t)
	mgr, err := ctrl.NewManager(api.Config, ctrl.Options{
		Scheme: api.Scheme, Metrics: metricsserver.Options{BindAddress: "0"}, WebhookServer: api.WebhookServer(),
		Cache:      cache.Options{ByObject: map[client.Object]cache.ByObject{&corev1.Pod{}: failedPods()}},
		Controller: config.Controller{SkipNameValidation: new(true)}, // -count runs it again in one process
	})
	must(t, err)
	must(t, SetupWithManager(mgr, o))
	must(t, SetupWebhooks(mgr, o))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("manager: %v", err)
		}
	})
	w := &warnings{}
	warned := rest.CopyConfig(api.Config)
	warned.WarningHandler = w
	c, err := client.New(warned, client.Options{Scheme: api.Scheme})
	must(t, err)
	r := &rig{t: t, Client: c, warnings: w}
	started := mgr.GetWebhookServer().StartedChecker()
	r.wait("the webhook server", func() string {
		if err := started(nil); err != nil {
			return err.Error()
		}
		return ""
	})
	api.InstallWebhooks(t, testapi.Hook{Kind: v1.GroupVersion.WithKind("SriovNetworkNodePolicy"),
		Resource: "sriovnetworknodepolicies", Mutate: true, Validate: true},
		testapi.Hook{Kind: v1.GroupVersion.WithKind("SriovIBNetwork"), Resource: "sriovibnetworks", Validate: true},
		testapi.Hook{Kind: v1.GroupVersion.WithKind("SriovOperatorConfig"), Resource: "sriovoperatorconfigs",
			Validate: true})
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wait runs problem until it returns "".
func (r *rig) wait(what string, problem func() string) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		text := problem()
		if text == "" {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("waiting for %s: %s", what, text)
		}
	}
}

func (r *rig) addNode(name string, labels map[string]string) {
	r.t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	must(r.t, r.Create(context.Background(), node))
	r.t.Cleanup(func() { must(r.t, client.IgnoreNotFound(r.Delete(context.Background(), node))) })
}

// waitState waits until a node's state is as wanted.
func (r *rig) waitState(node string, problem func(*v1.SriovNetworkNodeState) string) *v1.SriovNetworkNodeState {
	r.t.Helper()
	state := &v1.SriovNetworkNodeState{}
	r.wait("the state of node "+node, func() string {
		*state = v1.SriovNetworkNodeState{}
		if err := r.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: node}, state); err != nil {
			return err.Error()
		}
		return problem(state)
	})
	return state
}

func always(*v1.SriovNetworkNodeState) string { return "" }

// report does what the node's agent does: it writes only over the object that it knows, and leaves
// others' conditions.
func (r *rig) report(node string, status v1.SriovNetworkNodeStateStatus) {
	r.t.Helper()
	must(r.t, retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		state := r.waitState(node, always)
		before := state.DeepCopy()
		state.Status = *status.DeepCopy()
		state.Status.ObservedGeneration = state.Generation
		state.Status.Conditions = before.Status.Conditions
		return r.Status().Patch(context.Background(), state, client.MergeFromWithOptions(before,
			client.MergeFromWithOptimisticLock{}))
	}))
}

func (r *rig) waitPolicy(name, reason string, parts ...string) {
	r.t.Helper()
	r.wait("policy "+name, func() string {
		p := &v1.SriovNetworkNodePolicy{}
		if err := r.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, p); err != nil {
			return err.Error()
		}
		c := meta.FindStatusCondition(p.Status.Conditions, v1.ConditionReady)
		if c == nil || c.Reason != reason {
			return fmt.Sprintf("condition %+v, want reason %s", c, reason)
		}
		for _, part := range parts {
			if !strings.Contains(c.Message, part) {
				return fmt.Sprintf("message lacks %q: %s", part, c.Message)
			}
		}
		return ""
	})
}

// TestOperator goes through the life of the guide's policy.
func TestOperator(t *testing.T) {
	r := start(t)
	r.addNode("10-20-1-10", linux)
	r.addNode("10-20-1-20", linux)
	r.addNode("windows", map[string]string{"kubernetes.io/os": "windows"})
	ethernet := v1.InterfaceExt{PciAddress: "0000:01:00.0", Name: "eno1", Vendor: "8086", DeviceID: "1521",
		LinkType: "ETH"}

	t.Run("states before any policy", func(t *testing.T) {
		for _, node := range []string{"10-20-1-10", "10-20-1-20"} {
			state := r.waitState(node, always)
			if state.Annotations[v1.AnnotationCurrentState] != "Idle" || len(state.Spec.Interfaces) != 0 {
				t.Errorf("%+v", state)
			}
		}
		var all v1.SriovNetworkNodeStateList
		must(t, r.List(t.Context(), &all, client.InNamespace(namespace)))
		if len(all.Items) != 2 {
			t.Errorf("%d states, want those of the two Linux nodes", len(all.Items))
		}
	})

	t.Run("policy before the agents report", func(t *testing.T) {
		must(t, r.Create(t.Context(), policyOf(t)))
		if got := r.warnings.take(); !strings.Contains(got, "selects no card") ||
			!strings.Contains(got, "node 10-20-1-10: its agent has not reported") {
			t.Errorf("warnings:\n%s", got)
		}
		r.waitPolicy("ib-sriov", reasonSelectsNothing, "node 10-20-1-20: its agent has not reported")
	})

	t.Run("a card appears on one node", func(t *testing.T) {
		r.report("10-20-1-10", v1.SriovNetworkNodeStateStatus{Interfaces: v1.InterfaceExts{ethernet, guideCard(0, 0)}})
		r.report("10-20-1-20", v1.SriovNetworkNodeStateStatus{Interfaces: v1.InterfaceExts{ethernet}})
		state := r.waitState("10-20-1-10", func(s *v1.SriovNetworkNodeState) string {
			if len(s.Spec.Interfaces) != 1 {
				return fmt.Sprintf("spec %+v", s.Spec)
			}
			return ""
		})
		got, err := json.Marshal(state.Spec.Interfaces[0])
		must(t, err)
		const want = `{"pciAddress":"0000:86:00.0","numVfs":12,"name":"ibs5f0","vfGroups":[{"resourceName":"mellanoxibsriov","deviceType":"netdevice","vfRange":"0-11","policyName":"ib-sriov","isRdma":true}]}`
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Error(diff)
		}
		r.waitPolicy("ib-sriov", reasonConfiguring, "1 of 1 cards", "node 10-20-1-10 card 0000:86:00.0")
		if other := r.waitState("10-20-1-20", always); len(other.Spec.Interfaces) != 0 {
			t.Errorf("the node without a card: %+v", other.Spec)
		}
	})

	t.Run("in force", func(*testing.T) {
		r.report("10-20-1-10", v1.SriovNetworkNodeStateStatus{Interfaces: v1.InterfaceExts{ethernet, guideCard(12, 12)},
			SyncStatus: v1.SyncStatusSucceeded})
		r.waitPolicy("ib-sriov", reasonInForce, "12 VFs ready", "node 10-20-1-10 card 0000:86:00.0: 12")
	})

	t.Run("bad policies", func(t *testing.T) { badPolicies(t, r) })

	t.Run("RDMA mode", func(t *testing.T) {
		config := &v1.SriovNetworkPoolConfig{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "exclusive"},
			Spec: v1.SriovNetworkPoolConfigSpec{RdmaMode: "exclusive",
				NodeSelector: &metav1.LabelSelector{MatchLabels: linux}}}
		must(t, r.Create(t.Context(), config))
		mode := func(want string) func(*v1.SriovNetworkNodeState) string {
			return func(s *v1.SriovNetworkNodeState) string {
				if s.Spec.System.RdmaMode != want {
					return fmt.Sprintf("mode %q, want %q", s.Spec.System.RdmaMode, want)
				}
				return ""
			}
		}
		r.waitState("10-20-1-20", mode("exclusive"))
		must(t, r.Delete(t.Context(), config))
		r.waitState("10-20-1-20", mode(""))
	})

	t.Run("nodes that are not selected", func(t *testing.T) {
		config := &v1.SriovOperatorConfig{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"},
			Spec: v1.SriovOperatorConfigSpec{ConfigDaemonNodeSelector: map[string]string{"fabric": "ib"}}}
		must(t, r.Create(t.Context(), config))
		none := func() string {
			var all v1.SriovNetworkNodeStateList
			must(t, r.List(t.Context(), &all, client.InNamespace(namespace)))
			if len(all.Items) > 0 {
				return fmt.Sprintf("%d states are left", len(all.Items))
			}
			return ""
		}
		r.wait("no states", none)
		must(t, r.Delete(t.Context(), config))
		r.waitState("10-20-1-10", always)
		r.report("10-20-1-10", v1.SriovNetworkNodeStateStatus{Interfaces: v1.InterfaceExts{ethernet, guideCard(12, 12)},
			SyncStatus: v1.SyncStatusSucceeded})
		r.waitPolicy("ib-sriov", reasonConfiguring)
	})

	t.Run("policy gone", func(t *testing.T) {
		must(t, r.Delete(t.Context(), policyOf(t)))
		r.waitState("10-20-1-10", func(s *v1.SriovNetworkNodeState) string {
			if want := (v1.Interfaces{{PciAddress: "0000:86:00.0", Name: "ibs5f0"}}); !cmp.Equal(want,
				s.Spec.Interfaces) {
				return fmt.Sprintf("spec %+v; want the card with no VFs", s.Spec)
			}
			return ""
		})
		r.report("10-20-1-10", v1.SriovNetworkNodeStateStatus{Interfaces: v1.InterfaceExts{ethernet, guideCard(0, 0)},
			SyncStatus: v1.SyncStatusSucceeded})
		r.waitState("10-20-1-10", func(s *v1.SriovNetworkNodeState) string {
			if len(s.Spec.Interfaces) != 0 {
				return fmt.Sprintf("spec %+v", s.Spec)
			}
			return ""
		})
	})

	t.Run("node gone", func(t *testing.T) {
		must(t, r.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "10-20-1-20"}}))
		r.wait("the state to go", func() string {
			err := r.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "10-20-1-20"},
				&v1.SriovNetworkNodeState{})
			if client.IgnoreNotFound(err) != nil || err == nil {
				return fmt.Sprint("still there: ", err)
			}
			return ""
		})
	})
}

// badPolicies applies what must be refused, as kubectl would. The guide's policy is in force.
func badPolicies(t *testing.T, r *rig) {
	tests := []struct {
		name   string
		change func(*v1.SriovNetworkNodePolicy)
		parts  []string
	}{
		{"resource name", func(p *v1.SriovNetworkNodePolicy) { p.Spec.ResourceName = "mellanox.ib" },
			[]string{"spec.resourceName", "mellanox.ib", "want 1 to 63 letters"}},
		{"missing resource name", func(p *v1.SriovNetworkNodePolicy) { p.Spec.ResourceName = "" },
			[]string{"spec.resourceName"}},
		{"no VFs", func(p *v1.SriovNetworkNodePolicy) { p.Spec.NumVfs = 0 },
			[]string{"spec.numVfs", "greater than or equal to 1"}},
		{"too many VFs", func(p *v1.SriovNetworkNodePolicy) { p.Spec.NumVfs = 32 },
			[]string{"spec.numVfs", "32", "card 0000:86:00.0 on node 10-20-1-10 supports at most 16"}},
		{"empty selector", func(p *v1.SriovNetworkNodePolicy) { p.Spec.NicSelector = v1.SriovNetworkNicSelector{} },
			[]string{"spec.nicSelector", "found no field"}},
		{"vendor", func(p *v1.SriovNetworkNodePolicy) { p.Spec.NicSelector.Vendor = "Mellanox" },
			[]string{"spec.nicSelector.vendor", "Mellanox", "four hexadecimal digits"}},
		{"address", func(p *v1.SriovNetworkNodePolicy) { p.Spec.NicSelector.RootDevices = []string{"86:00.0"} },
			[]string{"spec.nicSelector.rootDevices[0]", "want 0000:86:00.0"}},
		{"range", func(p *v1.SriovNetworkNodePolicy) { p.Spec.NicSelector.PfNames = []string{"ibs5f0#4-0"} },
			[]string{"spec.nicSelector.pfNames[0]", "backwards"}},
		{"vfio with RDMA", func(p *v1.SriovNetworkNodePolicy) { p.Spec.DeviceType = "vfio-pci" },
			[]string{"spec.isRdma", "set deviceType: netdevice, or isRdma: false"}},
		{"device type", func(p *v1.SriovNetworkNodePolicy) { p.Spec.DeviceType = "vfio" },
			[]string{"spec.deviceType", "netdevice"}},
		{"link type", func(p *v1.SriovNetworkNodePolicy) { p.Spec.LinkType = "roce" },
			[]string{"spec.linkType", "roce"}},
		{"priority", func(p *v1.SriovNetworkNodePolicy) { hundred := 100; p.Spec.Priority = &hundred },
			[]string{"spec.priority", "100"}},
		{"the same card", func(*v1.SriovNetworkNodePolicy) {},
			[]string{"spec.nicSelector", "card 0000:86:00.0 on node 10-20-1-10: VFs 0-11 and 0-11", "policy ib-sriov"}},
	}
	for _, tt := range tests {
		p := policyOf(t, func(p *v1.SriovNetworkNodePolicy) { p.Name = "bad" }, tt.change)
		err := r.Create(t.Context(), p)
		if err == nil {
			t.Errorf("%s: admitted", tt.name)
			must(t, r.Delete(t.Context(), p))
			continue
		}
		t.Logf("%s: %v", tt.name, err)
		for _, part := range tt.parts {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: message lacks %q: %v", tt.name, part, err)
			}
		}
	}
	r.warnings.take()
	defaulted := policyOf(t, func(p *v1.SriovNetworkNodePolicy) {
		p.Name, p.Namespace = "elsewhere", "default"
		p.Spec.Priority, p.Spec.DeviceType, p.Spec.LinkType, p.Spec.IsRdma = nil, "", "IB", false
	})
	must(t, r.Create(t.Context(), defaulted))
	if got := r.warnings.take(); !strings.Contains(got, "policies count only in namespace kube-system") {
		t.Errorf("warnings:\n%s", got)
	}
	if s := defaulted.Spec; s.PriorityOrDefault() != 99 || s.DeviceType != "netdevice" || !s.IsRdma {
		t.Errorf("defaults: %+v", s)
	}
	must(t, r.Delete(t.Context(), defaulted))

	// The operator's settings are admitted, and what has no effect is told.
	settings := &v1.SriovOperatorConfig{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere", Namespace: "default"},
		Spec: v1.SriovOperatorConfigSpec{EnableInjector: true}}
	must(t, r.Create(t.Context(), settings))
	if got := r.warnings.take(); !strings.Contains(got, "spec.enableInjector: resources are not injected into pods") {
		t.Errorf("warnings:\n%s", got)
	}
	must(t, r.Delete(t.Context(), settings))

	theirs := policyOf(t, func(p *v1.SriovNetworkNodePolicy) {
		p.Name, p.Namespace, p.Spec.NicSelector.PfNames = "theirs", "default", []string{"ibs5f0#4-0"}
	})
	if err := r.Create(t.Context(), theirs); err != nil {
		t.Errorf("a policy of another product, in a namespace of its own: %v", err)
	} else {
		must(t, r.Delete(t.Context(), theirs))
	}
	r.warnings.take()

	nothing := policyOf(t, func(p *v1.SriovNetworkNodePolicy) {
		p.Name, p.Spec.NicSelector.DeviceID = "nothing",
			"1019"
	})
	must(t, r.Create(t.Context(), nothing))
	if got := r.warnings.take(); !strings.Contains(got, "selects no card") ||
		!strings.Contains(got, "its deviceID is 1017, not 1019") {
		t.Errorf("warnings:\n%s", got)
	}
	r.waitPolicy("nothing", reasonSelectsNothing, "its deviceID is 1017, not 1019")
	var found corev1.EventList
	r.wait("an event", func() string {
		must(t, r.List(t.Context(), &found, client.InNamespace(namespace)))
		if !slices.ContainsFunc(found.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Name == "nothing" && e.Reason == reasonSelectsNothing &&
				e.Type == corev1.EventTypeWarning
		}) {
			return fmt.Sprintf("%d events, none of it", len(found.Items))
		}
		return ""
	})
	must(t, r.Delete(t.Context(), nothing))
}
