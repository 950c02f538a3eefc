package services

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/berthdev/berth/service"
)

// store is where a reflector puts objects of type O: they are made small here, and go to the state. The reflector makes them small even
// while its first list comes in, so that all the objects are never there at once.
type store[O metav1.Object, C any] struct {
	compact func(O) C
	set     func(item[C])
	delete  func(key string)
	replace func([]item[C])
}

var _ cache.TransformingStore = store[*corev1.Service, *service.Spec]{}

// item is what is kept of an object, and its namespace/name.
type item[C any] struct {
	key  string
	kept C
}

// An item passes for an object where a list of objects is wanted.
func (i item[C]) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }
func (i item[C]) DeepCopyObject() runtime.Object   { return i } // nothing of it is changed

// pageSize of lists: so many objects are there at once before they are made small.
const pageSize = 500

// compactList lists by pages, where an API server does not stream its list as a watch (feature gate WatchList, by default since Kubernetes 1.34). It
// asks for the newest: a list of any age (version 0) comes in one piece.
func compactList(ctx context.Context, o metav1.ListOptions, list func(context.Context, metav1.ListOptions) (runtime.Object, error), small cache.TransformFunc) (runtime.Object, error) {
	o.ResourceVersion, o.ResourceVersionMatch, o.Limit = "", "", pageSize
	var out internalversion.List
	for {
		page, err := list(ctx, o)
		if err != nil {
			return nil, err
		}
		at, err := meta.ListAccessor(page)
		if err != nil {
			return nil, err
		}
		err = meta.EachListItem(page, func(object runtime.Object) error {
			i, err := small(object)
			if err == nil {
				out.Items = append(out.Items, i.(runtime.Object))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		out.ResourceVersion, o.Continue = at.GetResourceVersion(), at.GetContinue()
		if o.Continue == "" {
			return &out, nil
		}
	}
}

func (s store[O, C]) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return s.item(o) }
}

func (s store[O, C]) item(o any) (item[C], error) {
	switch o := o.(type) {
	case item[C]:
		return o, nil
	case O:
		return item[C]{keyOf(o), s.compact(o)}, nil
	}
	var none item[C]
	return none, fmt.Errorf("%T where %T is wanted", o, none)
}

func keyOf(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

func (s store[O, C]) Add(o any) error { return s.Update(o) }

func (s store[O, C]) Update(o any) error {
	it, err := s.item(o)
	if err == nil {
		s.set(it)
	}
	return err
}

func (s store[O, C]) Delete(o any) error {
	object, ok := o.(O)
	if !ok {
		return fmt.Errorf("%T where %T is wanted", o, object)
	}
	s.delete(keyOf(object))
	return nil
}

func (s store[O, C]) Replace(list []any, _ string) error {
	items := make([]item[C], len(list))
	for i, o := range list {
		var err error
		if items[i], err = s.item(o); err != nil {
			return err
		}
	}
	s.replace(items)
	return nil
}

func (s store[O, C]) Resync() error { return nil }

func (s *state) specs() store[*corev1.Service, *service.Spec] {
	return store[*corev1.Service, *service.Spec]{
		compact: func(o *corev1.Service) *service.Spec {
			spec, bad := service.ReadSpec(o)
			s.leftOut("Service", keyOf(o), bad)
			return spec
		},
		set:     s.setSpec,
		delete:  s.deleteSpec,
		replace: s.replaceSpecs,
	}
}

func (s *state) slices() store[*discoveryv1.EndpointSlice, *service.Slice] {
	return store[*discoveryv1.EndpointSlice, *service.Slice]{
		compact: func(o *discoveryv1.EndpointSlice) *service.Slice {
			slice, bad := service.ReadSlice(o, s.node)
			s.leftOut("EndpointSlice", keyOf(o), bad)
			return slice
		},
		set:     s.setSlice,
		delete:  s.deleteSlice,
		replace: s.replaceSlices,
	}
}

func (s *state) nodes() store[*corev1.Node, *service.Node] {
	return store[*corev1.Node, *service.Node]{
		compact: service.ReadNode,
		set:     s.setNode,
		delete:  s.deleteNode,
		replace: s.replaceNodes,
	}
}
