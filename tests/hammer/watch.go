package main

import (
	"context"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/berthdev/berth/api/v1alpha1"
)

// lookEvery is how often all leases are read, at least; between, the watch tells of each change.
const lookEvery = 2 * time.Second

// look at the leases, without faults, until ctx ends.
func (w *world) look(ctx context.Context) {
	for ctx.Err() == nil {
		version, err := w.list(ctx, Listed)
		if err == nil {
			err = w.follow(ctx, version)
		}
		if err != nil {
			pause(ctx, 50*time.Millisecond)
		}
	}
}

func (w *world) list(ctx context.Context, kind Kind) (version string, err error) {
	since := w.history.last()
	list, err := w.leases.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	w.history.add(Event{Kind: kind, Seen: leasesIn(list), Since: since})
	return list.ResourceVersion, nil
}

// follow all changes after the version, for a while.
func (w *world) follow(ctx context.Context, version string) error {
	ctx, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	changes, err := w.leases.Watch(ctx, metav1.ListOptions{ResourceVersion: version})
	if err != nil {
		return err
	}
	defer changes.Stop()
	for change := range changes.ResultChan() {
		l, ok := change.Object.(*v1alpha1.IPLease)
		if !ok {
			return apierrors.FromObject(change.Object)
		}
		seen := leaseOf(l)
		if change.Type == watch.Deleted {
			seen = Lease{Name: seen.Name, Version: seen.Version}
		}
		w.history.add(Event{Kind: Changed, Seen: []Lease{seen}})
	}
	return nil
}

func leasesIn(list *v1alpha1.IPLeaseList) []Lease {
	out := []Lease{}
	for i := range list.Items {
		out = append(out, leaseOf(&list.Items[i]))
	}
	return out
}

func leaseOf(l *v1alpha1.IPLease) Lease {
	version, _ := strconv.ParseUint(l.ResourceVersion, 10, 64)
	out := Lease{Name: l.Name, Version: version, Phase: l.Spec.Phase, Kept: l.Spec.Identity != nil}
	if h := l.Spec.Holder; h != nil {
		out.Holder = Interface{h.UID, h.ContainerID, h.Interface}
	}
	return out
}

func isNotFound(err error) bool { return apierrors.IsNotFound(err) }
