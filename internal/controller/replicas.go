// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Probing of the other replicas' webhook servers. A replica counts as lost after probeFailures
// attempts in a row, which take at most 8 seconds: before another one leads (process.NewManager).
const (
	probeEvery    = time.Second
	probeTimeout  = 2 * time.Second
	probeFailures = 3
)

// reasonUnreachable is that of a lost replica's Ready condition.
const reasonUnreachable = "WebhookUnreachable"

// replica is one endpoint of the webhooks' Service.
type replica struct {
	pod     types.NamespacedName
	uid     types.UID
	address string
}

// replicas takes the replicas that nobody reaches out of the webhooks' Service.
//
// When a node dies, its pods stay Ready, and endpoints of their Services, until the node controller
// gives the node up: 40 to 50 seconds in which the API server sends every other call of a webhook
// there, waits for its timeout and refuses the object. The leader does for its own Deployment what
// the node controller does then: it sets the Ready condition of the lost pod to False. The kubelet
// sets it back when it lives after all. Every replica probes, so that a new leader already knows.
type replicas struct {
	client    client.Client
	log       *slog.Logger
	service   types.NamespacedName
	port      int
	isLeader  <-chan struct{}
	now       func() time.Time
	failures  map[types.UID]int
	dial      func(ctx context.Context, address string) error
	probeGaps time.Duration
}

// setupReplicas adds the probing of the other replicas where there are any.
func setupReplicas(mgr ctrl.Manager, o Options) error {
	if o.Replicas < 2 {
		return nil
	}
	return mgr.Add(&replicas{
		client: mgr.GetClient(), log: o.Log, service: types.NamespacedName{Namespace: o.Namespace, Name: o.Name},
		port: o.WebhookPort, isLeader: mgr.Elected(), now: time.Now, failures: map[types.UID]int{},
		dial: dialTCP, probeGaps: probeEvery,
	})
}

func dialTCP(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{Timeout: probeTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// NeedLeaderElection has every replica probe.
func (*replicas) NeedLeaderElection() bool { return false }

// Start probes until ctx ends.
func (r *replicas) Start(ctx context.Context) error {
	for {
		if err := r.round(ctx); err != nil && ctx.Err() == nil {
			r.log.Error("probing the other replicas failed", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(r.probeGaps):
		}
	}
}

// round probes every endpoint of the Service once and, in the leader, marks those that are lost.
func (r *replicas) round(ctx context.Context) error {
	all, err := r.ready(ctx)
	if err != nil {
		return err
	}
	lost := r.count(r.probe(ctx, all))
	select {
	case <-r.isLeader:
	default:
		return nil
	}
	for _, l := range lost {
		if err := r.mark(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// ready returns the Service's endpoints that the API server may call.
func (r *replicas) ready(ctx context.Context) ([]replica, error) {
	var slices discoveryv1.EndpointSliceList
	err := r.client.List(ctx, &slices, client.InNamespace(r.service.Namespace),
		client.MatchingLabels{discoveryv1.LabelServiceName: r.service.Name})
	if err != nil {
		return nil, fmt.Errorf("listing the endpoints of Service %s: %w", r.service, err)
	}
	var all []replica
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			ref := e.TargetRef
			if ref == nil || ref.Kind != "Pod" || len(e.Addresses) == 0 || !ptr.Deref(e.Conditions.Ready, true) {
				continue
			}
			all = append(all, replica{
				pod: types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, uid: ref.UID,
				address: net.JoinHostPort(e.Addresses[0], strconv.Itoa(r.port)),
			})
		}
	}
	return all, nil
}

// probe connects to all at once and returns why those do not answer that do not.
func (r *replicas) probe(ctx context.Context, all []replica) map[replica]error {
	var mu sync.Mutex
	var running sync.WaitGroup
	answers := map[replica]error{}
	for _, one := range all {
		running.Go(func() {
			err := r.dial(ctx, one.address)
			mu.Lock()
			defer mu.Unlock()
			answers[one] = err
		})
	}
	running.Wait()
	return answers
}

// count notes a round's answers and returns the replicas that are lost. None is while no endpoint
// answers: then this replica is the one that is cut off, or all are, and the last must stay.
func (r *replicas) count(answers map[replica]error) []replica {
	failures := map[types.UID]int{}
	anyAnswers := false
	for one, err := range answers {
		if err == nil {
			anyAnswers = true
			continue
		}
		failures[one.uid] = r.failures[one.uid] + 1
		r.log.Debug("a replica's webhook server does not answer", "pod", one.pod, "error", err,
			"failures", failures[one.uid])
	}
	r.failures = failures
	if !anyAnswers {
		return nil
	}
	return slices.DeleteFunc(slices.Collect(maps.Keys(answers)), func(one replica) bool {
		return failures[one.uid] < probeFailures
	})
}

// mark sets the Ready condition of a lost pod to False, unless the pod has gone.
func (r *replicas) mark(ctx context.Context, lost replica) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": lost.uid},
		"status": map[string]any{"conditions": []corev1.PodCondition{{
			Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(r.now()),
			Reason:  reasonUnreachable,
			Message: fmt.Sprintf("the leader does not reach the webhook server at %s", lost.address),
		}}},
	})
	if err != nil {
		return fmt.Errorf("writing the status of pod %s: %w", lost.pod, err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: lost.pod.Namespace, Name: lost.pod.Name}}
	err = r.client.Status().Patch(ctx, pod, client.RawPatch(types.StrategicMergePatchType, patch))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("taking the lost replica %s out of Service %s: %w", lost.pod, r.service, err)
	}
	delete(r.failures, lost.uid)
	r.log.Warn("took a replica that does not answer out of the webhooks' Service", "pod", lost.pod,
		"address", lost.address)
	return nil
}
