// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "spidernet.io/spiderpool/api/sriovnetwork/v1"
	"spidernet.io/spiderpool/internal/text"
)

// drains has the pods evicted that are in the way of what nodes shall become. How many nodes at
// once is a question about all of them, so one look is at all of them.
type drains struct {
	Options
	client client.Client
	live   client.Reader // pods are looked at one by one and not cached: the cluster may have very many
	events events.EventRecorder
	now    func() time.Time
}

// everything is the one request of controllers that look at all nodes together.
var everything = handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: "all-nodes"}}}
})

func setupDrains(mgr ctrl.Manager, o Options) error {
	o.Drain = o.Drain.withDefaults()
	r := &drains{
		Options: o, client: mgr.GetClient(), live: mgr.GetAPIReader(), now: time.Now,
		events: mgr.GetEventRecorder("spiderpool-sriov-operator"),
	}
	here := inNamespace(o.Namespace)
	spec := builder.WithPredicates(here, predicate.GenerationChangedPredicate{})
	return ctrl.NewControllerManagedBy(mgr).Named("sriov-drains").
		Watches(&v1.SriovNetworkNodeState{}, everything, builder.WithPredicates(here)).
		Watches(&v1.SriovNetworkPoolConfig{}, everything, spec).
		Watches(&v1.SriovOperatorConfig{}, everything, spec).
		Watches(&corev1.Node{}, everything, builder.WithPredicates(predicate.LabelChangedPredicate{})).
		Complete(r)
}

// Reconcile looks at all nodes. A failure at one does not hold up the others.
func (r *drains) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	c, err := r.gather(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	var errs []error
	var next time.Duration
	for _, state := range c.states {
		after, err := r.one(ctx, c, state)
		if err != nil {
			errs = append(errs, err)
		}
		if after > 0 && (next == 0 || after < next) {
			next = after
		}
	}
	return reconcile.Result{RequeueAfter: next}, errors.Join(errs...)
}

// census is what is known of all nodes, and what is left of the nodes that may be drained at once.
type census struct {
	enabled bool
	states  []*v1.SriovNetworkNodeState // those being drained first, then in order of name
	nodes   map[string]*corev1.Node
	labels  []map[string]string // of the nodes that are managed
	configs []v1.SriovNetworkPoolConfig
	used    map[string]int // nodes being drained, by the configuration that counts for them
}

func (r *drains) gather(ctx context.Context) (*census, error) {
	c := &census{nodes: map[string]*corev1.Node{}, used: map[string]int{}}
	config, err := readConfig(ctx, r.client, r.Namespace)
	if err != nil {
		return nil, err
	}
	c.enabled = config.Spec.DisableDrain != nil && !*config.Spec.DisableDrain
	var nodes corev1.NodeList
	if err := r.client.List(ctx, &nodes); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var states v1.SriovNetworkNodeStateList
	if err := r.client.List(ctx, &states, client.InNamespace(r.Namespace)); err != nil {
		return nil, fmt.Errorf("list SriovNetworkNodeStates: %w", err)
	}
	if c.configs, err = readPoolConfigs(ctx, r.client, r.Namespace); err != nil {
		return nil, err
	}
	for i := range nodes.Items {
		c.nodes[nodes.Items[i].Name] = &nodes.Items[i]
	}
	for i := range states.Items {
		if node := c.nodes[states.Items[i].Name]; node != nil {
			c.states, c.labels = append(c.states, &states.Items[i]), append(c.labels, node.Labels)
		}
	}
	slices.SortFunc(c.states, func(a, b *v1.SriovNetworkNodeState) int {
		if x, y := marksOf(a).active(), marksOf(b).active(); x != y {
			return map[bool]int{true: -1, false: 1}[x]
		}
		return strings.Compare(a.Name, b.Name)
	})
	return c, nil
}

// one looks at one node, has pods evicted if it is time to, and writes what came of it.
func (r *drains) one(ctx context.Context, c *census, state *v1.SriovNetworkNodeState) (time.Duration, error) {
	s, err := r.look(ctx, c, state)
	if err != nil {
		return 0, err
	}
	if err := r.evict(ctx, state, &s, decideDrain(s).evict); err != nil {
		return 0, err
	}
	s.asked = true
	d := decideDrain(s)
	// The annotations first: while they say Draining nothing new is offered, and no condition
	// claims what is not so yet.
	if err := r.mark(ctx, state, d.marks); err != nil {
		return 0, err
	}
	return d.after, r.tell(ctx, state, d)
}

// look gathers what the decision about a node needs, and takes one of the places for nodes that are
// drained at once.
func (r *drains) look(ctx context.Context, c *census, state *v1.SriovNetworkNodeState) (situation, error) {
	s := situation{
		marks: marksOf(state), timing: r.Drain, now: r.now(), enabled: c.enabled, told: drainedReason(state),
		fresh: state.Status.ObservedGeneration == state.Generation,
	}
	if s.fresh {
		s.steps, s.busy = usedSteps(state)
		s.offered = stillOffered(state, s.steps)
	}
	group, q := quotaOf(c.configs, c.nodes[state.Name].Labels, c.labels)
	s.turn, s.queue = c.used[group] < q.limit, q.text
	if !s.active() && !ready(c.nodes[state.Name]) {
		s.turn, s.queue = false, "the node is not Ready, so pods could not leave it"
	}
	waiting := len(s.steps) > 0 && !s.now.Before(s.again)
	if !s.enabled || !waiting || !s.turn {
		if s.enabled && s.turn && s.active() {
			c.used[group]++
		}
		return s, nil
	}
	var err error
	if s.pods, err = r.pods(ctx, state.Name, s.steps); err != nil {
		return s, err
	}
	if possible, _ := s.possible(); len(possible) > 0 {
		c.used[group]++
	}
	return s, nil
}

// ready takes a node that says nothing for ready.
func ready(node *corev1.Node) bool {
	return !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue
	})
}

// pods reads the pods that are in the way; those that are gone, or are on another node by now, are left out.
func (r *drains) pods(ctx context.Context, node string, steps []step) (map[string]podView, error) {
	out := map[string]podView{}
	for _, st := range steps {
		for _, key := range st.pods {
			if _, known := out[key]; known {
				continue
			}
			pod, err := r.pod(ctx, key)
			if err != nil {
				return nil, err
			}
			if pod != nil && pod.Spec.NodeName == node {
				out[key] = viewOf(pod)
			}
		}
	}
	return out, nil
}

func (r *drains) pod(ctx context.Context, key string) (*corev1.Pod, error) {
	namespace, name, _ := strings.Cut(key, "/")
	pod := &corev1.Pod{}
	err := r.live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read pod %s, which is in the way of a card: %w", key, err)
	}
	return pod, nil
}

// evict asks for evictions and notes the answers in the situation.
func (r *drains) evict(ctx context.Context, state *v1.SriovNetworkNodeState, s *situation, keys []string) error {
	s.refused = map[string]string{}
	for _, key := range keys {
		pod, err := r.pod(ctx, key)
		if err != nil {
			return err
		}
		if pod == nil || pod.Spec.NodeName != state.Name {
			continue
		}
		refused, err := ask(ctx, r.client, pod)
		if err != nil {
			return err
		}
		if refused != "" {
			s.refused[key] = refused
			continue
		}
		s.granted = true
		s.pods[key] = podView{ending: true, deleted: s.now, created: pod.CreationTimestamp.Time}
		r.events.Eventf(pod, state, corev1.EventTypeNormal, reasonDraining, "Evict",
			"evicted: it uses a virtual function on node %s, where %s (SriovNetworkNodeState %s)", state.Name,
			s.describe(stepsOf(s.steps, key)), state.Name)
		log.FromContext(ctx).Info("evicted a pod that is in the way of a card", "node", state.Name, "pod", key)
	}
	return nil
}

func stepsOf(steps []step, key string) []step {
	return slices.DeleteFunc(slices.Clone(steps), func(st step) bool { return !slices.Contains(st.pods, key) })
}

// ask asks for one eviction. The UID in the question keeps a pod of the same name, made in this
// moment, from being meant.
func ask(ctx context.Context, c client.Client, pod *corev1.Pod) (refused string, err error) {
	eviction := &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}},
	}
	err = c.SubResource("eviction").Create(ctx, pod.DeepCopy(), eviction)
	status := apierrors.APIStatus(nil)
	switch {
	case err == nil, apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return "", nil
	case !errors.As(err, &status): // no answer at all
		return "", fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return whyRefused(status), nil
}

// whyRefused is the API server's reason in its own words; those of a budget name the budget.
func whyRefused(status apierrors.APIStatus) string {
	if details := status.Status().Details; details != nil {
		for _, cause := range details.Causes {
			if cause.Type == policyv1.DisruptionBudgetCause {
				return "refused by its PodDisruptionBudget: " + cause.Message
			}
		}
	}
	return "refused: " + status.Status().Message
}

// mark writes the annotations of a node's drain where they differ.
func (r *drains) mark(ctx context.Context, state *v1.SriovNetworkNodeState, m marks) error {
	before := state.DeepCopy()
	changed := false
	for key, value := range m.annotations() {
		if state.Annotations[key] == value {
			continue
		}
		changed = true
		if value == "" {
			delete(state.Annotations, key)
			continue
		}
		metav1.SetMetaDataAnnotation(&state.ObjectMeta, key, value)
	}
	if !changed {
		return nil
	}
	if err := r.client.Patch(ctx, state, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("annotate SriovNetworkNodeState %s with %s: %w", state.Name, m.current, err)
	}
	return nil
}

// tell writes the condition, and records an event when its reason is a new one.
func (r *drains) tell(ctx context.Context, state *v1.SriovNetworkNodeState, d decision) error {
	if d.reason == "" {
		return nil
	}
	told := drainedReason(state)
	c := metav1.Condition{Type: v1.ConditionDrained, Status: metav1.ConditionFalse, Reason: d.reason,
		Message: d.message}
	if d.reason == reasonDrained {
		c.Status = metav1.ConditionTrue
	}
	if err := applyCondition(ctx, r.client, state, "spiderpool-drain", c); err != nil || told == d.reason {
		return err
	}
	kind := corev1.EventTypeWarning
	if d.reason == reasonDrained || d.reason == reasonDraining {
		kind = corev1.EventTypeNormal
	}
	r.events.Eventf(state, nil, kind, d.reason, "Drain", "%s", text.Note(d.message))
	return nil
}
