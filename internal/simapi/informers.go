// SPDX-License-Identifier: Apache-2.0

package simapi

import (
	"context"
	"errors"
	"fmt"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Informers is one process's view of the server: what its watches have shown
// so far. It stands in for a cache.Cache without options.
type Informers struct {
	client *Client

	mu      sync.Mutex
	all     []*informer     // in the order in which they were asked for
	ctx     context.Context // of Start; nil before
	running sync.WaitGroup
}

var _ cache.Cache = (*Informers)(nil)

// Informers returns a new view, empty until Start runs.
func (c *Client) Informers() *Informers { return &Informers{client: c} }

// Reader reads what this process has seen.
func (i *Informers) Reader() client.Reader { return i }

// Start runs all informers until the context ends.
func (i *Informers) Start(ctx context.Context) error {
	i.mu.Lock()
	if i.ctx != nil {
		i.mu.Unlock()
		return errors.New("simapi: the informers have been started before")
	}
	i.ctx = ctx
	for _, informer := range i.all {
		i.launch(informer)
	}
	i.mu.Unlock()
	<-ctx.Done()
	i.mu.Lock()   // whoever launches one after this sees that it is too late
	i.mu.Unlock() //nolint:staticcheck // the lock waits for a launch that is under way
	i.running.Wait()
	return nil
}

func (i *Informers) launch(informer *informer) {
	if i.ctx.Err() != nil {
		informer.stopped.finish()
		return
	}
	i.running.Go(func() { informer.run(i.ctx) })
}

// of returns the informer of a kind, which begins to run if Start does, and whether that is so.
func (i *Informers) of(k *kind) (_ *informer, started bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, known := range i.all {
		if known.kind == k {
			return known, i.ctx != nil
		}
	}
	added := newInformer(i.client, k)
	i.all = append(i.all, added)
	if i.ctx != nil {
		i.launch(added)
	}
	return added, i.ctx != nil
}

// GetInformer returns the informer of the object's kind, and waits for its first list if it runs
// and the options do not say otherwise.
func (i *Informers) GetInformer(ctx context.Context, o client.Object, opts ...cache.InformerGetOption) (cache.Informer,
	error) {
	k, err := i.client.server.kindOf(o)
	if err != nil {
		return nil, err
	}
	options := cache.InformerGetOptions{}
	for _, apply := range opts {
		apply(&options)
	}
	informer, started := i.of(k)
	if started && (options.BlockUntilSynced == nil || *options.BlockUntilSynced) {
		return informer, informer.wait(ctx)
	}
	return informer, nil
}

// GetInformerForKind is GetInformer for a kind's name.
func (i *Informers) GetInformerForKind(ctx context.Context, gvk schema.GroupVersionKind,
	opts ...cache.InformerGetOption) (cache.Informer, error) {
	o, err := i.client.server.scheme.New(gvk)
	if err != nil {
		return nil, fmt.Errorf("find the type of %s: %w", gvk, err)
	}
	object, ok := o.(client.Object)
	if !ok {
		return nil, cannot("watch", o)
	}
	return i.GetInformer(ctx, object, opts...)
}

// RemoveInformer is not done.
func (i *Informers) RemoveInformer(_ context.Context, o client.Object) error {
	return cannot("remove an informer", o)
}

// WaitForCacheSync waits for the first list of every informer there is.
func (i *Informers) WaitForCacheSync(ctx context.Context) bool {
	i.mu.Lock()
	all := i.all
	i.mu.Unlock()
	for _, informer := range all {
		if informer.wait(ctx) != nil {
			return false
		}
	}
	return true
}

// IndexField makes a field one that List selects by.
func (i *Informers) IndexField(_ context.Context, o client.Object, field string, values client.IndexerFunc) error {
	k, err := i.client.server.kindOf(o)
	if err != nil {
		return err
	}
	informer, _ := i.of(k)
	return informer.index(field, values)
}

// synced returns the informer that a read needs, once it can answer.
func (i *Informers) synced(ctx context.Context, k *kind) (*informer, error) {
	informer, started := i.of(k)
	if !started {
		return nil, &cache.ErrCacheNotStarted{}
	}
	return informer, informer.wait(ctx)
}

// Get reads an object as this process has seen it last.
func (i *Informers) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	k, err := i.client.server.kindOf(o)
	if err != nil {
		return err
	}
	informer, err := i.synced(ctx, k)
	if err != nil {
		return err
	}
	found := informer.get(k.scoped(key))
	if found == nil {
		return apierrors.NewNotFound(k.resource, key.Name)
	}
	if shared := (&client.GetOptions{}).ApplyOptions(opts).UnsafeDisableDeepCopy; shared != nil && *shared {
		return assign(o, found)
	}
	return assign(o, k.typed(deepCopy(found)))
}

// List reads the objects that this process has seen last. Fields are those of IndexField.
func (i *Informers) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	k, err := i.client.server.kindOf(list)
	if err != nil {
		return err
	}
	informer, err := i.synced(ctx, k)
	if err != nil {
		return err
	}
	options := (&client.ListOptions{}).ApplyOptions(opts)
	if !exact(options.FieldSelector) {
		return errors.New("non-exact field matches are not supported by the cache")
	}
	q, err := newQuery(*options, informer.extractor)
	if err != nil {
		return err
	}
	found := informer.list(q)
	if shared := options.UnsafeDisableDeepCopy; shared == nil || !*shared {
		for n, o := range found {
			found[n] = k.typed(deepCopy(o))
		}
	}
	return fill(list, found)
}

// typed names the kind in the object, as a cache's reader does and the server's does not.
func (k *kind) typed(o client.Object) client.Object {
	o.GetObjectKind().SetGroupVersionKind(k.gvk)
	return o
}
