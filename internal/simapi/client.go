// SPDX-License-Identifier: Apache-2.0

package simapi

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Client is one process's connection to the server. Its reads are live.
type Client struct {
	server *Server
	name   string
	link   Link
}

var _ client.Client = (*Client)(nil)

// Client returns a connection of the process of this name. A nil link is a perfect one.
func (s *Server) Client(name string, link Link) *Client {
	if link == nil {
		link = LinkFuncs{}
	}
	return &Client{server: s, name: name, link: link}
}

// WithReads is the client with another reader: with an Informers it is what a manager gives its controllers.
func (c *Client) WithReads(from client.Reader) client.Client { return readsFrom{c, from} }

type readsFrom struct {
	*Client
	reader client.Reader
}

func (r readsFrom) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	return r.reader.Get(ctx, key, o, opts...)
}

func (r readsFrom) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return r.reader.List(ctx, list, opts...)
}

// Get reads the object as the server has it.
func (c *Client) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if options := (&client.GetOptions{}).ApplyOptions(opts); options.Raw != nil {
		return cannot("get with raw options", o)
	}
	k, err := c.server.kindOf(o)
	if err != nil {
		return err
	}
	key = k.scoped(key)
	if err := k.named(key); err != nil {
		return err
	}
	var found client.Object
	err = c.send(ctx, k, Call{Verb: Get, Key: key, Object: o}, func() (err error) {
		found, err = c.server.get(k, key)
		return err
	})
	if err != nil {
		return err
	}
	return assign(o, deepCopy(found))
}

// List reads the objects as the server has them. It takes no notice of a limit.
func (c *Client) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	k, err := c.server.kindOf(list)
	if err != nil {
		return err
	}
	options := (&client.ListOptions{}).ApplyOptions(opts)
	q, badField := newQuery(*options, k.selectable)
	var found []client.Object
	var version string
	err = c.send(ctx, k, Call{Verb: List, Key: client.ObjectKey{Namespace: options.Namespace}}, func() error {
		if badField == nil {
			found, version = c.server.list(k, q)
		}
		return badField
	})
	if err != nil {
		return err
	}
	for i, o := range found {
		found[i] = deepCopy(o)
	}
	list.SetResourceVersion(version)
	return fill(list, found)
}

// Create stores the object and completes it with what the server made of it.
func (c *Client) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	if options := (&client.CreateOptions{}).ApplyOptions(opts); len(options.DryRun) > 0 || options.Raw != nil {
		return cannot("create with dry run or raw options", o)
	}
	k, err := c.server.kindOf(o)
	if err != nil {
		return err
	}
	if !k.cluster && o.GetNamespace() == "" {
		return errors.New("an empty namespace may not be set during creation")
	}
	sent := deepCopy(o) // now: the caller may change his while the request is on its way
	return c.write(ctx, k, Create, o, func() (client.Object, error) { return c.server.create(k, sent) })
}

// Update replaces the object but for its status.
func (c *Client) Update(ctx context.Context, o client.Object, opts ...client.UpdateOption) error {
	if options := (&client.UpdateOptions{}).ApplyOptions(opts); len(options.DryRun) > 0 || options.Raw != nil {
		return cannot("update with dry run or raw options", o)
	}
	return c.update(ctx, Update, o)
}

func (c *Client) update(ctx context.Context, verb Verb, o client.Object) error {
	k, err := c.server.kindOf(o)
	if err != nil {
		return err
	}
	if err := k.named(k.keyOf(o)); err != nil {
		return err
	}
	sent := deepCopy(o)
	return c.write(ctx, k, verb, o, func() (client.Object, error) { return c.server.update(k, verb, sent) })
}

// write sends the object and puts the answer in its place.
func (c *Client) write(ctx context.Context, k *kind, verb Verb, o client.Object,
	serve func() (client.Object, error)) error {
	var stored client.Object
	err := c.send(ctx, k, Call{Verb: verb, Key: k.keyOf(o), Object: o}, func() (err error) {
		stored, err = serve()
		return err
	})
	if err != nil {
		return err
	}
	return assign(o, deepCopy(stored))
}

// Delete removes the object or begins its end.
func (c *Client) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	options := (&client.DeleteOptions{}).ApplyOptions(opts)
	if len(options.DryRun) > 0 || options.Raw != nil || options.PropagationPolicy != nil {
		return cannot("delete with dry run, propagation or raw options", o)
	}
	k, err := c.server.kindOf(o)
	if err != nil {
		return err
	}
	key := k.keyOf(o)
	if err := k.named(key); err != nil {
		return err
	}
	return c.send(ctx, k, Call{Verb: Delete, Key: key, Object: o},
		func() error { return c.server.remove(k, key, *options) })
}

// named refuses what the real client does not send.
func (k *kind) named(key client.ObjectKey) error {
	switch {
	case key.Name == "":
		return errors.New("resource name may not be empty")
	case key.Namespace == "" && !k.cluster:
		return errors.New("an empty namespace may not be set when a resource name is provided")
	}
	return nil
}

// Status writes the status of kinds that have it as a subresource.
func (c *Client) Status() client.SubResourceWriter { return statusWriter{subresource{c, "status"}} }

type statusWriter struct{ subresource }

// Update replaces only the status.
func (w statusWriter) Update(ctx context.Context, o client.Object, opts ...client.SubResourceUpdateOption) error {
	options := (&client.SubResourceUpdateOptions{}).ApplyOptions(opts)
	if len(options.DryRun) > 0 || options.Raw != nil || options.SubResourceBody != nil {
		return cannot("update the status with dry run, raw options or a body", o)
	}
	k, err := w.client.server.kindOf(o)
	if err != nil {
		return err
	}
	if k.status < 0 {
		return apierrors.NewGenericServerResponse(404, "put", k.resource, o.GetName(), "", 0, true)
	}
	return w.client.update(ctx, UpdateStatus, o)
}

// cannot is the answer to what nothing needed so far.
func cannot(what string, o any) error { return fmt.Errorf("simapi does not do %s (of a %T)", what, o) }

// Patch is not done.
func (c *Client) Patch(_ context.Context, o client.Object, _ client.Patch, _ ...client.PatchOption) error {
	return cannot("patch", o)
}

// Apply is not done.
func (c *Client) Apply(_ context.Context, o runtime.ApplyConfiguration, _ ...client.ApplyOption) error {
	return cannot("apply", o)
}

// DeleteAllOf is not done.
func (c *Client) DeleteAllOf(_ context.Context, o client.Object, _ ...client.DeleteAllOfOption) error {
	return cannot("delete all of", o)
}

// SubResource is not done; Status is.
func (c *Client) SubResource(name string) client.SubResourceClient { return subresource{c, name} }

type subresource struct {
	client *Client
	name   string
}

func (s subresource) Get(_ context.Context, o, _ client.Object, _ ...client.SubResourceGetOption) error {
	return cannot("get "+s.name, o)
}

func (s subresource) Create(_ context.Context, o, _ client.Object, _ ...client.SubResourceCreateOption) error {
	return cannot("create "+s.name, o)
}

func (s subresource) Update(_ context.Context, o client.Object, _ ...client.SubResourceUpdateOption) error {
	return cannot("update "+s.name, o)
}

func (s subresource) Patch(_ context.Context, o client.Object, _ client.Patch,
	_ ...client.SubResourcePatchOption) error {
	return cannot("patch "+s.name, o)
}

func (s subresource) Apply(_ context.Context, o runtime.ApplyConfiguration, _ ...client.SubResourceApplyOption) error {
	return cannot("apply "+s.name, o)
}

// Scheme is the server's.
func (c *Client) Scheme() *runtime.Scheme { return c.server.scheme }

// RESTMapper knows no kind, and says so when asked.
func (c *Client) RESTMapper() meta.RESTMapper { return meta.NewDefaultRESTMapper(nil) }

// GroupVersionKindFor is the kind of an object.
func (c *Client) GroupVersionKindFor(o runtime.Object) (schema.GroupVersionKind, error) {
	k, err := c.server.kindOf(o)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return k.gvk, nil
}

// IsObjectNamespaced tells the scope of an object's kind.
func (c *Client) IsObjectNamespaced(o runtime.Object) (bool, error) {
	k, err := c.server.kindOf(o)
	return err == nil && !k.cluster, err
}
