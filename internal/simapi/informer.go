// SPDX-License-Identifier: Apache-2.0

package simapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// informer follows one kind for one process. Its objects are the process's
// own: handlers and unsafe reads share them, as client-go has it.
type informer struct {
	kind   *kind
	client *Client
	// news: there are events. joined: there is a handler that has not been welcomed. Both hold one signal.
	news, joined    chan struct{}
	listed, stopped *moment

	seen int // how much of the kind's history is behind; only run uses it

	mu       sync.Mutex
	objects  shelf
	handlers []*registration // replaced, never changed
	indexers map[string]client.IndexerFunc
}

var _ cache.Informer = (*informer)(nil)

func newInformer(c *Client, k *kind) *informer {
	name := fmt.Sprintf("simapi informer of %s for %s", k.gvk.Kind, c.name)
	return &informer{
		kind: k, client: c, news: make(chan struct{}, 1), joined: make(chan struct{}, 1),
		listed: newMoment(name), stopped: newMoment(name), indexers: map[string]client.IndexerFunc{},
	}
}

// run lists and then delivers events, one after another, until the context ends.
func (i *informer) run(ctx context.Context) {
	defer i.stopped.finish()
	defer i.client.server.follow(i.kind, i.news)()
	for i.step(ctx) {
	}
}

// step does the next thing there is to do, or waits for one; false is the end.
func (i *informer) step(ctx context.Context) bool {
	e, behind := i.client.server.event(i.kind, i.seen)
	listed := i.listed.HasSynced()
	if listed && !behind {
		return i.idle(ctx, nil, i.news)
	}
	d := i.client.link.Watch(i.kind.gvk)
	if d.Down > 0 {
		return i.pause(ctx, d.Down)
	}
	if !listed || d.Relist {
		return i.relist(ctx, d.Delay)
	}
	if !i.pause(ctx, time.Until(e.at.Add(d.Delay))) {
		return false
	}
	i.seen++
	i.apply(e)
	return true
}

// relist takes what there is now, shows it after the delay, and goes on with what happened since it
// was taken.
func (i *informer) relist(ctx context.Context, delay time.Duration) bool {
	all, seen := i.client.server.snapshot(i.kind)
	i.client.server.count(i.client.name, Watch, i.kind)
	if !i.pause(ctx, delay) {
		return false
	}
	i.seen = seen
	i.replace(all)
	if !i.listed.HasSynced() {
		i.listed.finish()
		i.welcome()
	}
	return true
}

// pause waits this long; false when the context ends.
func (i *informer) pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	return i.idle(ctx, timer.C, nil)
}

// idle waits for either channel, and sees to new handlers meanwhile: they need no link.
func (i *informer) idle(ctx context.Context, over <-chan time.Time, news <-chan struct{}) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-over:
			return true
		case <-news:
			return true
		case <-i.joined:
			i.welcome()
		}
	}
}

// apply takes over one event.
func (i *informer) apply(e event) {
	o, key := deepCopy(e.object), client.ObjectKeyFromObject(e.object)
	i.mu.Lock()
	c := change{i.objects.get(key), o}
	if e.deleted {
		i.objects.remove(key)
	} else {
		i.objects.put(o)
	}
	i.mu.Unlock()
	i.notify(func(h toolscache.ResourceEventHandler) {
		if e.deleted {
			h.OnDelete(o)
		} else {
			c.show(h)
		}
	})
}

// change is a version that takes another one's place; old is nil for what was not known.
type change struct{ old, new client.Object }

// replace takes over a list and shows handlers how it differs from what was
// known, as client-go does: what is missing has been deleted in an unknown
// state, and comes first.
func (i *informer) replace(all []client.Object) {
	gone, changes := i.exchange(all)
	for _, o := range gone {
		name := toolscache.NewObjectName(o.GetNamespace(), o.GetName())
		unknown := toolscache.DeletedFinalStateUnknown{Key: name.String(), Obj: o}
		i.notify(func(h toolscache.ResourceEventHandler) { h.OnDelete(unknown) })
	}
	for _, c := range changes {
		i.notify(func(h toolscache.ResourceEventHandler) { c.show(h) })
	}
}

// exchange makes the list what is known. What has the same version stays, and is no change.
func (i *informer) exchange(all []client.Object) (gone []client.Object, changes []change) {
	i.mu.Lock()
	defer i.mu.Unlock()
	before := i.objects
	i.objects = make(shelf, len(all))
	for n, o := range all {
		old := before.get(client.ObjectKeyFromObject(o))
		if old != nil && old.GetResourceVersion() == o.GetResourceVersion() {
			i.objects[n] = old
			continue
		}
		i.objects[n] = deepCopy(o)
		changes = append(changes, change{old, i.objects[n]})
	}
	for _, o := range before {
		if i.objects.get(client.ObjectKeyFromObject(o)) == nil {
			gone = append(gone, o)
		}
	}
	return gone, changes
}

func (c change) show(h toolscache.ResourceEventHandler) {
	if c.old == nil {
		h.OnAdd(c.new, false)
	} else {
		h.OnUpdate(c.old, c.new)
	}
}

// notify calls the handlers that know what was before.
func (i *informer) notify(call func(toolscache.ResourceEventHandler)) {
	for _, r := range i.registered() {
		if r.welcomed {
			call(r.handler)
		}
	}
}

// welcome shows all there is to the handlers that have seen nothing yet.
func (i *informer) welcome() {
	if !i.listed.HasSynced() {
		return
	}
	all := i.list(query{})
	for _, r := range i.registered() {
		if r.welcomed {
			continue
		}
		for _, o := range all {
			r.handler.OnAdd(o, true)
		}
		r.welcomed = true
		r.finish()
	}
}

func (i *informer) registered() []*registration {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.handlers
}

// wait returns when the informer has listed.
func (i *informer) wait(ctx context.Context) error {
	select {
	case <-i.listed.done:
		return nil
	default:
	}
	select {
	case <-i.listed.done:
		return nil
	case <-i.stopped.done:
	case <-ctx.Done():
	}
	return apierrors.NewTimeoutError(fmt.Sprintf("failed waiting for the informer of %s to sync", i.kind.gvk.Kind), 0)
}

// get returns nil when this process has seen none.
func (i *informer) get(key client.ObjectKey) client.Object {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.objects.get(key)
}

func (i *informer) list(q query) []client.Object {
	i.mu.Lock()
	defer i.mu.Unlock()
	return q.choose(i.objects)
}

func (i *informer) index(field string, values client.IndexerFunc) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.indexers[field] != nil {
		return fmt.Errorf("simapi: %s has an index of field %s already", i.kind.gvk.Kind, field)
	}
	i.indexers[field] = values
	return nil
}

func (i *informer) extractor(field string) (client.IndexerFunc, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if values := i.indexers[field]; values != nil {
		return values, nil
	}
	return nil, fmt.Errorf("Index with name field:%s does not exist", field)
}

// AddEventHandler shows the handler all there is, and from then on what changes.
func (i *informer) AddEventHandler(h toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration,
	error) {
	if i.IsStopped() {
		return nil, fmt.Errorf("simapi: the informer of %s has stopped already", i.kind.gvk.Kind)
	}
	r := &registration{moment: newMoment("simapi handler of " + i.kind.gvk.Kind), handler: h}
	i.mu.Lock()
	i.handlers = append(slices.Clip(i.handlers), r)
	i.mu.Unlock()
	select {
	case i.joined <- struct{}{}:
	default:
	}
	return r, nil
}

// AddEventHandlerWithResyncPeriod does the same: nothing is resynced.
func (i *informer) AddEventHandlerWithResyncPeriod(
	h toolscache.ResourceEventHandler, _ time.Duration,
) (toolscache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandler(h)
}

// AddEventHandlerWithOptions does the same: nothing is resynced.
func (i *informer) AddEventHandlerWithOptions(
	h toolscache.ResourceEventHandler, _ toolscache.HandlerOptions,
) (toolscache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandler(h)
}

// RemoveEventHandler ends what AddEventHandler began.
func (i *informer) RemoveEventHandler(handle toolscache.ResourceEventHandlerRegistration) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.handlers = slices.DeleteFunc(slices.Clone(i.handlers), func(r *registration) bool { return r == handle })
	return nil
}

// AddIndexers is not done; IndexField of Informers is.
func (i *informer) AddIndexers(toolscache.Indexers) error {
	return errors.New("simapi does not do indexers of an informer")
}

// HasSynced tells whether the first list has arrived.
func (i *informer) HasSynced() bool { return i.listed.HasSynced() }

// HasSyncedChecker is HasSynced to wait for.
func (i *informer) HasSyncedChecker() toolscache.DoneChecker { return i.listed }

// IsStopped tells whether Start has returned.
func (i *informer) IsStopped() bool { return i.stopped.HasSynced() }

// registration is a handler, which has synced when it has been shown what there was.
type registration struct {
	*moment
	handler  toolscache.ResourceEventHandler
	welcomed bool // only run uses it
}

// moment is something that happens once.
type moment struct {
	name string
	done chan struct{}
}

func newMoment(name string) *moment { return &moment{name, make(chan struct{})} }

func (m *moment) finish() { close(m.done) }

func (m *moment) HasSynced() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

func (m *moment) HasSyncedChecker() toolscache.DoneChecker { return m }

func (m *moment) Name() string { return m.name }

func (m *moment) Done() <-chan struct{} { return m.done }

// follow has the channel signalled after every change, until the returned function is called.
func (s *Server) follow(k *kind, news chan<- struct{}) (unfollow func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k.followers = append(k.followers, news)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		k.followers = slices.DeleteFunc(k.followers, func(f chan<- struct{}) bool { return f == news })
	}
}

// event is the nth of a kind's history.
func (s *Server) event(k *kind, n int) (event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n >= len(k.history) {
		return event{}, false
	}
	return k.history[n], true
}

// snapshot is what there is of a kind, and how long its history is.
func (s *Server) snapshot(k *kind) ([]client.Object, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(k.objects), len(k.history)
}
