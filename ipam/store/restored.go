package store

import (
	"context"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Restored says whether etcd was restored from a backup, so that what is known here is of no use: versions count from the backup's again, or from
// a bumped one, while each lease has the version that it had then. One request, which is small but after a watch was refused.
//
//	revision     the newest version      a watch     then
//	as it was    is older than it was    –           restored
//	bumped       is newer                refused     restored, if a lease of this node is older than it was
func (s *Store) Restored(ctx context.Context) (bool, error) {
	refused := s.watch.refused.Swap(false)
	s.index.mu.Lock()
	newest := s.index.newest
	s.index.mu.Unlock()
	o, own := metav1.ListOptions{Limit: 1}, map[string]string{}
	if refused {
		o = s.ofThisNode(v1alpha1.LabelNode)
		for _, l := range s.Bound() {
			own[l.Name] = l.ResourceVersion
		}
	}
	list, err := s.client.List(ctx, o) // without a version: as it is when this is sent, or later
	if err != nil {
		if refused {
			s.watch.refused.Store(true)
		}
		return false, unavailable("list", "to compare versions", err)
	}
	back := older(list.ResourceVersion, newest)
	for i := range list.Items {
		back = back || older(list.Items[i].ResourceVersion, own[list.Items[i].Name])
	}
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	s.index.reached(list.ResourceVersion)
	return back, nil
}

// refusals notes that a watch was refused, when it begins or later.
func refusals(refused *atomic.Bool) func(watch.Interface, error) (watch.Interface, error) {
	note := func(err error) {
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			refused.Store(true)
		}
	}
	return func(w watch.Interface, err error) (watch.Interface, error) {
		if err != nil {
			note(err)
			return nil, err
		}
		return watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
			if e.Type == watch.Error {
				note(apierrors.FromObject(e.Object))
			}
			return e, true
		}), nil
	}
}
