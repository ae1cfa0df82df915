// SPDX-License-Identifier: Apache-2.0

package simapi

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// shelf holds objects of one kind sorted by namespace and name, the order of
// lists: a tree would pay only with far more objects than a test has.
type shelf []client.Object

func (s shelf) find(key client.ObjectKey) (int, bool) {
	return slices.BinarySearchFunc(s, key, func(o client.Object, key client.ObjectKey) int {
		return cmp.Or(strings.Compare(o.GetNamespace(), key.Namespace), strings.Compare(o.GetName(), key.Name))
	})
}

// get returns nil when there is none.
func (s shelf) get(key client.ObjectKey) client.Object {
	if i, ok := s.find(key); ok {
		return s[i]
	}
	return nil
}

func (s *shelf) put(o client.Object) {
	i, ok := s.find(client.ObjectKeyFromObject(o))
	if ok {
		(*s)[i] = o
		return
	}
	*s = slices.Insert(*s, i, o)
}

func (s *shelf) remove(key client.ObjectKey) {
	if i, ok := s.find(key); ok {
		*s = slices.Delete(*s, i, i+1)
	}
}

// query is what a list asks for.
type query struct {
	namespace string
	labels    labels.Selector
	fields    []fieldQuery
}

type fieldQuery struct {
	values client.IndexerFunc
	value  string
	not    bool
}

// newQuery reads the options of a list. The extractor tells how to read a field.
func newQuery(o client.ListOptions, extractor func(field string) (client.IndexerFunc, error)) (query, error) {
	if o.Raw != nil || o.Continue != "" {
		return query{}, fmt.Errorf("simapi does not do raw list options and does not continue lists")
	}
	q := query{namespace: o.Namespace, labels: o.LabelSelector}
	if o.FieldSelector == nil {
		return q, nil
	}
	for _, r := range o.FieldSelector.Requirements() {
		values, err := extractor(r.Field)
		if err != nil {
			return query{}, err
		}
		q.fields = append(q.fields, fieldQuery{values, r.Value, r.Operator == selection.NotEquals})
	}
	return q, nil
}

// selectable reads the fields by which the server itself selects.
func (k *kind) selectable(field string) (client.IndexerFunc, error) {
	switch field {
	case "metadata.name":
		return func(o client.Object) []string { return []string{o.GetName()} }, nil
	case "metadata.namespace":
		return func(o client.Object) []string { return []string{o.GetNamespace()} }, nil
	}
	if values := k.fields[field]; values != nil {
		return values, nil
	}
	return nil, apierrors.NewBadRequest("field label not supported: " + field)
}

func (q query) choose(from shelf) []client.Object {
	var chosen []client.Object
	for _, o := range from {
		if q.matches(o) {
			chosen = append(chosen, o)
		}
	}
	return chosen
}

func (q query) matches(o client.Object) bool {
	if q.namespace != "" && o.GetNamespace() != q.namespace || q.labels != nil &&
		!q.labels.Matches(labels.Set(o.GetLabels())) {
		return false
	}
	return !slices.ContainsFunc(q.fields, func(f fieldQuery) bool {
		return slices.Contains(f.values(o),
			f.value) == f.not
	})
}

// exact tells whether a selector has no !=.
func exact(s fields.Selector) bool {
	return s == nil || !slices.ContainsFunc(s.Requirements(),
		func(r fields.Requirement) bool { return r.Operator == selection.NotEquals })
}

// assign makes what the caller passed equal to o, and shares what o points to.
func assign(to, o client.Object) error {
	target, value := reflect.ValueOf(to), reflect.ValueOf(o)
	if target.Type() != value.Type() {
		return fmt.Errorf("simapi: the object is a %T, and a %T was asked for", o, to)
	}
	target.Elem().Set(value.Elem())
	return nil
}

// fill makes the objects the items of a list.
func fill(list client.ObjectList, objects []client.Object) error {
	items := reflect.ValueOf(list).Elem().FieldByName("Items")
	if !items.IsValid() || items.Kind() != reflect.Slice || items.Type().Elem().Kind() != reflect.Struct {
		return fmt.Errorf("simapi does not do %T, which has no slice of structs named Items", list)
	}
	all := reflect.MakeSlice(items.Type(), len(objects), len(objects))
	for i, o := range objects {
		all.Index(i).Set(reflect.ValueOf(o).Elem())
	}
	items.Set(all)
	return nil
}

func deepCopy(o client.Object) client.Object { return o.DeepCopyObject().(client.Object) }
