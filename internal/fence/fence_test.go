// SPDX-License-Identifier: Apache-2.0

package fence_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"spidernet.io/spiderpool/internal/fence"
	"spidernet.io/spiderpool/internal/simapi"
	"spidernet.io/spiderpool/internal/testapi"
)

const valid = 16 * time.Second

// scene is a heartbeat on a simulated API server that can be out of reach.
type scene struct {
	*fence.Heartbeat
	admin client.Client
	away  bool
}

// play runs a scene in simulated time.
func play(t *testing.T, run func(t *testing.T, s *scene)) {
	scheme, err := testapi.Scheme()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		server := simapi.New(scheme)
		s := &scene{admin: server.Client("admin", nil)}
		if err := s.admin.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}); err != nil {
			t.Fatal(err)
		}
		c := server.Client("agent", simapi.LinkFuncs{OnRequest: func(context.Context, simapi.Call) simapi.Fate {
			return simapi.Fate{Lost: s.away, Before: time.Second}
		}})
		s.Heartbeat = fence.New(fence.Options{Client: c, Live: c, Namespace: "kube-system", Node: "n", Holder: "ledger",
			Valid: valid})
		if s.Epoch() != 0 {
			t.Error("stock may be handed out before the first renewal")
		}
		go func() { _ = s.Start(ctx) }()
		time.Sleep(5 * time.Second)
		run(t, s)
	})
}

func TestHeartbeatIsRenewed(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		time.Sleep(10 * valid)
		if got := s.Epoch(); got != 1 {
			t.Errorf("epoch %d, want 1", got)
		}
		var l coordinationv1.Lease
		if err := s.admin.Get(t.Context(), client.ObjectKey{Namespace: "kube-system", Name: fence.Name("n")},
			&l); err != nil {
			t.Fatal(err)
		}
		if *l.Spec.HolderIdentity != "ledger" || *l.Spec.LeaseDurationSeconds != 16 ||
			time.Since(l.Spec.RenewTime.Time) > valid/4 {
			t.Errorf("heartbeat %+v", l.Spec)
		}
		if len(l.OwnerReferences) != 1 || l.OwnerReferences[0].Kind != "Node" {
			t.Errorf("the heartbeat does not go with its node: %+v", l.OwnerReferences)
		}
		if err := s.admin.Delete(t.Context(), &l); err != nil {
			t.Fatal(err)
		}
		time.Sleep(valid) // a renewal that fails, a pause, and three requests
		if err := s.admin.Get(t.Context(), client.ObjectKeyFromObject(&l), &l); err != nil {
			t.Errorf("a heartbeat that was deleted is not made again: %v", err)
		}
	})
}

// The promise lapses at the latest when the last renewal's time is over, counted from before it was
// asked for; and what follows a lapse is another epoch.
func TestHeartbeatLapses(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		s.away = true
		time.Sleep(valid / 2)
		if s.Epoch() != 1 {
			t.Error("the promise lapsed early")
		}
		time.Sleep(valid/2 + time.Second)
		if s.Epoch() != 0 {
			t.Error("the promise holds although nothing was renewed for its time")
		}
		changed := s.Changed()
		s.away = false
		<-changed
		if got := s.Epoch(); got != 2 {
			t.Errorf("epoch %d after a lapse, want 2", got)
		}
	})
}

// A short absence changes nothing.
func TestHeartbeatRidesOutAShortAbsence(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		s.away = true
		time.Sleep(valid / 2)
		s.away = false
		time.Sleep(valid)
		if got := s.Epoch(); got != 1 {
			t.Errorf("epoch %d, want 1", got)
		}
	})
}

func TestWatcher(t *testing.T) {
	var w fence.Watcher
	start := time.Unix(1_000_000, 0)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	beat := func(version string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{UID: "u", ResourceVersion: version},
			Spec: coordinationv1.LeaseSpec{LeaseDurationSeconds: new(int32(20))}}
	}
	for _, step := range []struct {
		name string
		beat *coordinationv1.Lease
		now  int
		want time.Duration
	}{
		{"first sight", beat("1"), 0, 30 * time.Second},
		{"nothing new", beat("1"), 20, 10 * time.Second},
		{"renewed at the last moment", beat("2"), 29, 30 * time.Second},
		{"silent", beat("2"), 59, 0},
		{"silent for long", beat("2"), 100, -41 * time.Second},
		{"back", beat("3"), 101, 30 * time.Second},
		{"deleted: it may have promised as much as the default", nil, 102, 180 * time.Second},
		{"deleted for long", nil, 282, 0},
	} {
		if got := w.Silent("n", step.beat, at(step.now)); got != step.want {
			t.Errorf("%s: silent in %v, want %v", step.name, got, step.want)
		}
	}
	forever := beat("4")
	forever.Spec.LeaseDurationSeconds = new(int32(math.MaxInt32))
	if got, want := w.Silent("n", forever, at(299)), fence.MaxValid*3/2; got != want {
		t.Errorf("a heartbeat that promises itself 68 years: silent in %v, want %v", got, want)
	}
	w.Forget("n")
	if got := w.Silent("n", beat("3"), at(300)); got != 30*time.Second {
		t.Errorf("a forgotten node: silent in %v, want 30s", got)
	}
}
