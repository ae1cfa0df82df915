// SPDX-License-Identifier: Apache-2.0

// Package simapi owns a simulated Kubernetes API server for model-based tests
// of what runs against one. It keeps typed objects in memory and does with
// them what the real server does, error types included; conformance_test.go
// runs the same cases against both. Each process of a test has a Client of its
// own, and that client's Link decides what becomes of every request and of
// every event of a watch: delayed, lost, or answered by an error.
//
// Everything works inside a testing/synctest bubble: waiting is done on
// channels and timers made by the calls, there is no goroutine but those that
// Informers.Start runs and the timers of late requests, and the same calls in
// the same order have the same results. What is woken at the same instant runs
// in any order, so a schedule that must repeat has delays of odd nanoseconds.
// A scheme takes longer to build than a schedule to run: build it once.
//
// Of kinds it knows what the real server is told by their definitions: scope,
// subresources, selectable fields; see traits. It knows no controller and no
// agent, does not validate specs, and puts in no defaults but a pod's; Admit is
// for what a test needs of that. Objects do not pass through JSON, so times
// keep their nanoseconds, and an empty list stays different from none.
// Namespaces go at once when deleted, and nobody collects garbage. Product code
// never imports it.
package simapi

import (
	"fmt"
	"reflect"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Verb is what a request asks for.
type Verb string

// The verbs. Watch is the list and watch that an informer starts with, and its relists.
const (
	Get          Verb = "get"
	List         Verb = "list"
	Create       Verb = "create"
	Update       Verb = "update"
	UpdateStatus Verb = "update status"
	Delete       Verb = "delete"
	Watch        Verb = "watch"
)

// Server is the API server. What it stores is never changed in place, so its
// objects may be read without the lock; they are copied where they leave.
type Server struct {
	scheme *runtime.Scheme

	mu      sync.Mutex
	kinds   map[schema.GroupVersionKind]*kind
	byType  map[reflect.Type]*kind
	version uint64 // the last resourceVersion
	made    uint64 // objects so far, for their UIDs
	admit   func(verb Verb, old, next client.Object) error
	counts  map[counter]int
}

// New returns a server with the namespaces that every cluster begins with.
func New(scheme *runtime.Scheme) *Server {
	s := &Server{
		scheme: scheme, kinds: map[schema.GroupVersionKind]*kind{}, byType: map[reflect.Type]*kind{},
		admit: func(Verb, client.Object, client.Object) error { return nil }, counts: map[counter]int{},
	}
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if k, err := s.kindOf(namespace); err == nil { // else the scheme has no namespaces
			_, _ = s.create(k, namespace) // nothing is in the way
		}
	}
	return s
}

// Admit has every write judged before it is done. The old object is nil for a
// create and the new one for a delete; the old one must not be changed, the new
// one may be. An error that is no API status becomes Forbidden. The hook is
// called under the server's lock and must not make requests.
func (s *Server) Admit(hook func(verb Verb, old, next client.Object) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admit = hook
}

// Request is what Requests counts by.
type Request struct {
	Client string
	Verb   Verb
	Kind   string
}

type counter struct {
	client string
	verb   Verb
	kind   *kind
}

// Requests counts the requests that reached the server, also those that a Link
// had it refuse. What feeds informers is counted as Watch.
func (s *Server) Requests() map[Request]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[Request]int{}
	for c, n := range s.counts {
		out[Request{c.client, c.verb, c.kind.gvk.Kind}] += n
	}
	return out
}

func (s *Server) count(client string, verb Verb, k *kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[counter{client, verb, k}]++
}

func (s *Server) get(k *kind, key client.ObjectKey) (client.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := k.objects.get(key); o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(k.resource, key.Name)
}

// list returns what matches, and the version of the whole.
func (s *Server) list(k *kind, q query) ([]client.Object, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return q.choose(k.objects), s.versionText()
}

// create stores an object that nobody else has.
func (s *Server) create(k *kind, o client.Object) (client.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.mayCreate(k, o); err != nil {
		return nil, err
	}
	s.made++
	if o.GetName() == "" {
		o.SetName(fmt.Sprintf("%s%05x", o.GetGenerateName(), s.made))
	}
	o.SetUID(types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012x", s.made)))
	o.SetCreationTimestamp(now())
	o.SetDeletionTimestamp(nil)
	o.SetDeletionGracePeriodSeconds(nil)
	k.prepare(o)
	if err := s.judge(k, Create, nil, o, o.GetName()); err != nil {
		return nil, err
	}
	// the real server finds this out in its storage, and does not call it a bad request
	if o.GetResourceVersion() != "" {
		return nil, plainError("resourceVersion should not be set on objects to be created")
	}
	if k.objects.get(client.ObjectKeyFromObject(o)) != nil {
		return nil, apierrors.NewAlreadyExists(k.resource, o.GetName())
	}
	s.store(k, o)
	return o, nil
}

// mayCreate refuses what has no name and what is put into no namespace.
func (s *Server) mayCreate(k *kind, o client.Object) error {
	if k.cluster {
		o.SetNamespace("")
	} else if err := s.namespaceTakes(k, o); err != nil {
		return err
	}
	if o.GetName() == "" && o.GetGenerateName() == "" {
		path := field.NewPath("metadata", "name")
		return apierrors.NewInvalid(k.gvk.GroupKind(), "",
			field.ErrorList{field.Required(path, "name or generateName is required")})
	}
	return nil
}

func (s *Server) namespaceTakes(k *kind, o client.Object) error {
	namespaces := s.kinds[corev1.SchemeGroupVersion.WithKind("Namespace")]
	if namespaces == nil {
		return nil
	}
	name := o.GetNamespace()
	namespace := namespaces.objects.get(client.ObjectKey{Name: name})
	switch {
	case namespace == nil:
		return apierrors.NewNotFound(namespaces.resource, name)
	case namespace.GetDeletionTimestamp() == nil:
		return nil
	}
	why := fmt.Errorf("unable to create new content in namespace %s because it is being terminated", name)
	err := apierrors.NewForbidden(k.resource, o.GetName(), why)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", name),
		Field: "metadata.namespace",
	})
	return err
}

// update replaces an object but for its status, or only the status. It takes the object sent as its own.
func (s *Server) update(k *kind, verb Verb, sent client.Object) (client.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := k.objects.get(k.keyOf(sent))
	if old == nil {
		return nil, apierrors.NewNotFound(k.resource, sent.GetName())
	}
	if err := k.mayUpdate(old, sent); err != nil {
		return nil, err
	}
	next := k.merge(verb, old, sent)
	if err := s.judge(k, verb, old, next, old.GetName()); err != nil {
		return nil, err
	}
	if err := k.noNewFinalizers(old, next); err != nil {
		return nil, err
	}
	specSame := k.same(old, next, k.spec...)
	if specSame && k.same(old, next, k.rest...) {
		return old, nil // the real server writes nothing either, and no watch shows it
	}
	if !specSame && !k.noGeneration {
		next.SetGeneration(old.GetGeneration() + 1)
	}
	if old.GetDeletionTimestamp() != nil && graceOf(old) == 0 && len(next.GetFinalizers()) == 0 {
		s.erase(k, old)
	} else {
		s.store(k, next)
	}
	return next, nil
}

// judge asks the admission hook.
func (s *Server) judge(k *kind, verb Verb, old, next client.Object, name string) error {
	err := s.admit(verb, old, next)
	if err == nil || apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
		return err
	}
	return apierrors.NewForbidden(k.resource, name, err)
}

// store writes a version of an object. The caller gives the object away.
func (s *Server) store(k *kind, o client.Object) {
	s.version++
	o.SetResourceVersion(s.versionText())
	k.objects.put(o)
	k.tell(event{object: o, at: time.Now()})
}

// erase removes an object. As with the real server, the watch shows what was stored last, at the
// version of its end.
func (s *Server) erase(k *kind, o client.Object) {
	s.version++
	last := k.copyOf(o)
	last.SetResourceVersion(s.versionText())
	k.objects.remove(client.ObjectKeyFromObject(o))
	k.tell(event{object: last, deleted: true, at: time.Now()})
}

func (s *Server) versionText() string { return strconv.FormatUint(s.version, 10) }

// now is the time as objects have it, to the second.
func now() metav1.Time { return metav1.NewTime(time.Now().Truncate(time.Second)) }

// plainError is an error of the server that has no reason of its own.
func plainError(text string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: 500, Message: text,
	}}
}
