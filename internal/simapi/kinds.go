// SPDX-License-Identifier: Apache-2.0

package simapi

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"spidernet.io/spiderpool/api/spiderpool/v2beta1"
)

// trait is what the server does with a kind that it would not do with any
// other. A kind that is not in traits is namespaced, has a generation, is only
// updated by those who name its version, and if it has a status that is a
// subresource, as with custom resources.
type trait struct {
	cluster      bool // in no namespace
	plainStatus  bool // the status is a field like any other
	keepsStatus  bool // a create may set the status
	noGeneration bool
	graceful     bool // a node has to end it first; only pods
	complete     func(client.Object)
	fields       map[string]client.IndexerFunc // selectable beside the name and the namespace
	// open is how Kubernetes' older kinds are: an update that names no version replaces any, and
	// one of the status may change the metadata.
	open bool
}

var traits = map[schema.GroupKind]trait{
	{Kind: "Namespace"}: {cluster: true, noGeneration: true, open: true, complete: activate},
	{Kind: "Node"}:      {cluster: true, noGeneration: true, open: true, keepsStatus: true},
	{Kind: "Pod"}: {open: true, graceful: true, complete: completePod, fields: map[string]client.IndexerFunc{
		"spec.nodeName": func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} },
	}},
	{Group: "apps", Kind: "StatefulSet"}:                           {open: true},
	{Group: "coordination.k8s.io", Kind: "Lease"}:                  {noGeneration: true},
	{Group: v2beta1.GroupVersion.Group, Kind: "SpiderIPPool"}:      {cluster: true},
	{Group: v2beta1.GroupVersion.Group, Kind: "SpiderReservedIP"}:  {cluster: true},
	{Group: v2beta1.GroupVersion.Group, Kind: "SpiderCoordinator"}: {cluster: true},
	{Group: v2beta1.GroupVersion.Group, Kind: "SpiderEndpoint"}:    {plainStatus: true},
	{Group: v2beta1.GroupVersion.Group, Kind: "SpiderIPLease"}: {cluster: true, fields: map[string]client.IndexerFunc{
		"spec.pool": func(o client.Object) []string { return []string{o.(*v2beta1.SpiderIPLease).Spec.Pool} },
		"spec.node": func(o client.Object) []string { return []string{o.(*v2beta1.SpiderIPLease).Spec.Node} },
	}},
}

func activate(o client.Object) { o.(*corev1.Namespace).Status.Phase = corev1.NamespaceActive }

func completePod(o client.Object) {
	pod := o.(*corev1.Pod)
	pod.Status.Phase = corev1.PodPending
	if pod.Spec.TerminationGracePeriodSeconds == nil {
		pod.Spec.TerminationGracePeriodSeconds = new(int64(corev1.DefaultTerminationGracePeriodSeconds))
	}
}

// kind is all the objects of one type and their history.
type kind struct {
	trait
	gvk      schema.GroupVersionKind
	resource schema.GroupResource
	typ      reflect.Type
	// Fields of the type: those that make a generation, the others, and the status where it is a
	// subresource, or -1.
	spec, rest []int
	status     int

	objects   shelf
	history   []event
	followers []chan<- struct{}
}

// event is a change that watches show.
type event struct {
	object  client.Object
	deleted bool
	at      time.Time
}

// kindOf finds the kind of an object or of a list.
func (s *Server) kindOf(o runtime.Object) (*kind, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := reflect.TypeOf(o)
	if k := s.byType[t]; k != nil {
		return k, nil
	}
	switch o.(type) {
	case runtime.Unstructured, *metav1.PartialObjectMetadata, *metav1.PartialObjectMetadataList:
		return nil, fmt.Errorf("simapi does not do %T, only the types of its scheme", o)
	}
	gvk, err := apiutil.GVKForObject(o, s.scheme)
	if err != nil {
		return nil, fmt.Errorf("find the kind of %T: %w", o, err)
	}
	gvk.Kind = strings.TrimSuffix(gvk.Kind, "List")
	if s.kinds[gvk] == nil {
		example, err := s.scheme.New(gvk)
		if err != nil {
			return nil, fmt.Errorf("find the type of %s: %w", gvk, err)
		}
		s.kinds[gvk] = newKind(gvk, reflect.TypeOf(example).Elem())
	}
	s.byType[t] = s.kinds[gvk]
	return s.byType[t], nil
}

func newKind(gvk schema.GroupVersionKind, t reflect.Type) *kind {
	plural, _ := meta.UnsafeGuessKindToResource(gvk)
	k := &kind{trait: traits[gvk.GroupKind()], gvk: gvk, resource: plural.GroupResource(), typ: t, status: -1}
	for i := range t.NumField() {
		switch name := t.Field(i).Name; {
		case name == "TypeMeta":
		case name == "ObjectMeta":
			k.rest = append(k.rest, i)
		case name == "Status" && !k.plainStatus:
			k.rest, k.status = append(k.rest, i), i
		default:
			k.spec = append(k.spec, i)
		}
	}
	return k
}

// keyOf is the object's key; a namespace does not count where there is none.
func (k *kind) keyOf(o client.Object) client.ObjectKey {
	return k.scoped(client.ObjectKeyFromObject(o))
}

func (k *kind) scoped(key client.ObjectKey) client.ObjectKey {
	if k.cluster {
		key.Namespace = ""
	}
	return key
}

// copyOf is a copy that shares what it points to: enough for a new version of what is never changed in place.
func (k *kind) copyOf(o client.Object) client.Object {
	next := reflect.New(k.typ)
	next.Elem().Set(reflect.ValueOf(o).Elem())
	return next.Interface().(client.Object)
}

// same compares some fields of two objects.
func (k *kind) same(a, b client.Object, fields ...int) bool {
	x, y := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	return !slices.ContainsFunc(fields, func(i int) bool {
		return !equality.Semantic.DeepEqual(x.Field(i).Addr().Interface(), y.Field(i).Addr().Interface())
	})
}

// take gives an object some fields of another one.
func (k *kind) take(to, from client.Object, fields ...int) {
	x, y := reflect.ValueOf(to).Elem(), reflect.ValueOf(from).Elem()
	for _, i := range fields {
		x.Field(i).Set(y.Field(i))
	}
}

// prepare puts into a new object what its creator has no say in.
func (k *kind) prepare(o client.Object) {
	o.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	if k.status >= 0 && !k.keepsStatus {
		reflect.ValueOf(o).Elem().Field(k.status).SetZero()
	}
	o.SetGeneration(1)
	if k.noGeneration {
		o.SetGeneration(0)
	}
	if k.complete != nil {
		k.complete(o)
	}
}

// optimisticLock is the real server's text.
const optimisticLock = "the object has been modified; please apply your changes to the latest version and try again"

// mayUpdate checks that who sends the object knows which one it replaces.
func (k *kind) mayUpdate(old, sent client.Object) error {
	if uid := sent.GetUID(); uid != "" && uid != old.GetUID() {
		why := fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, old.GetUID())
		return apierrors.NewConflict(k.resource, old.GetName(), why)
	}
	version := sent.GetResourceVersion()
	switch {
	case version == "" && !k.open:
		path := field.NewPath("metadata", "resourceVersion")
		return apierrors.NewInvalid(k.gvk.GroupKind(), old.GetName(),
			field.ErrorList{field.Invalid(path, 0, "must be specified for an update")})
	case version != "" && version != old.GetResourceVersion():
		return apierrors.NewConflict(k.resource, old.GetName(), errors.New(optimisticLock))
	}
	return nil
}

// merge is the object as it will be: what was sent, but for what this request may not change.
func (k *kind) merge(verb Verb, old, sent client.Object) client.Object {
	switch {
	case verb == UpdateStatus && !k.open:
		next := k.copyOf(old)
		k.take(next, sent, k.status)
		return next
	case verb == UpdateStatus:
		k.take(sent, old, k.spec...)
	case k.status >= 0:
		k.take(sent, old, k.status)
	}
	sent.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	sent.SetNamespace(old.GetNamespace())
	sent.SetUID(old.GetUID())
	sent.SetResourceVersion(old.GetResourceVersion())
	sent.SetGeneration(old.GetGeneration())
	sent.SetCreationTimestamp(old.GetCreationTimestamp())
	sent.SetDeletionTimestamp(old.GetDeletionTimestamp())
	sent.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	return sent
}

// noNewFinalizers keeps anybody from holding up a deletion that has begun.
func (k *kind) noNewFinalizers(old, next client.Object) error {
	if old.GetDeletionTimestamp() == nil {
		return nil
	}
	for _, f := range next.GetFinalizers() {
		if !slices.Contains(old.GetFinalizers(), f) {
			return apierrors.NewInvalid(k.gvk.GroupKind(), old.GetName(),
				field.ErrorList{field.Forbidden(field.NewPath("metadata", "finalizers"),
					fmt.Sprintf("no new finalizers can be added if the object is being deleted, found new finalizer %q",
						f))})
		}
	}
	return nil
}

// tell adds an event to the history and wakes who follows it.
func (k *kind) tell(e event) {
	k.history = append(k.history, e)
	for _, f := range k.followers {
		select {
		case f <- struct{}{}:
		default: // it has been told already
		}
	}
}
