package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// patience for what must come by itself once the faults end: the collectors look, wait for a grace period, look again, and write.
const patience = 90 * time.Second

// quiet ends the faults and looks at what remains.
func (w *world) quiet(ctx context.Context, lives []*life, estates []*estate) error {
	w.say("quiet: the faults end")
	w.controller.wire.calm.Store(true)
	for _, m := range w.machines {
		m.wire.calm.Store(true)
		m.wire.late.Wait()
		m.skew.Store(0)
		if err := m.start(); err != nil {
			return err
		}
	}
	w.errands.Wait()
	up, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, l := range lives {
		if err := l.settle(up); err != nil {
			return err
		}
	}
	w.say("quiet: every pod has what it can have; nothing else may be bound")
	w.settled(ctx)

	w.say("quiet: all pods go, a third of them without a DEL")
	for i, l := range lives {
		if l.pod == nil {
			continue
		}
		if s := l.sandbox; l.on.has(s) {
			if i%3 > 0 {
				l.delAll(ctx, l.on, s)
			}
			l.on.end(s, "its pod is deleted")
		}
		if l.delete(ctx, 0) {
			l.pod = nil
		}
	}
	w.settled(ctx)

	w.say("quiet: the StatefulSets go, and what is kept for them")
	for _, s := range w.sets {
		if err := w.insist(ctx, func() error {
			return unlessGone(w.kube.AppsV1().StatefulSets(namespace).Delete(ctx, s.name, metav1.DeleteOptions{}))
		}); err != nil {
			return err
		}
	}
	if err := w.within(ctx, "nothing is reserved", func(l *v1alpha1.IPLease) bool { return l.Spec.Phase != v1alpha1.LeaseReserved }); err != nil {
		return err
	}
	w.ensureEdit(ctx, func() bool { return ctx.Err() == nil })
	if err := w.setEdition(ctx, 0, false); err != nil {
		return err
	}
	for _, pool := range []string{poolSmall, poolEdit, poolPairs, poolTenant} {
		if err := w.fill(ctx, pool); err != nil {
			return err
		}
	}
	return w.returned(ctx, estates)
}

// settled waits until all that is bound is used, and then says whether all that is used is bound.
func (w *world) settled(ctx context.Context) {
	err := w.within(ctx, "all that is bound is used", func(l *v1alpha1.IPLease) bool {
		w.history.mu.Lock()
		defer w.history.mu.Unlock()
		return len(w.history.check.unsettled([]Lease{leaseOf(l)})) == 0
	})
	if err != nil {
		w.say("%v", err)
	}
	if err := w.insist(ctx, func() error { _, err := w.list(ctx, Settled); return err }); err != nil {
		w.say("%v", err)
	}
}

// within some patience all leases are so.
func (w *world) within(ctx context.Context, what string, so func(*v1alpha1.IPLease) bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	for ctx.Err() == nil {
		list, err := w.leases.List(ctx, metav1.ListOptions{})
		if err == nil {
			var not []string
			for i := range list.Items {
				if !so(&list.Items[i]) {
					not = append(not, leaseOf(&list.Items[i]).String())
				}
			}
			if len(not) == 0 {
				return nil
			}
			last = fmt.Errorf("%s: not so after %s: %q", what, patience, not)
		}
		pause(ctx, 200*time.Millisecond)
	}
	return errors.Join(ctx.Err(), last)
}

// fill a pool: as many pods as it has addresses get one each, from all nodes, and one more gets none.
func (w *world) fill(ctx context.Context, pool string) error {
	p, err := w.pools.Get(ctx, pool, metav1.GetOptions{})
	if err != nil {
		return err
	}
	compiled, err := ipam.Compile(p)
	if err != nil {
		return err
	}
	size := int(compiled.Ranges(ipam.IPv4).Count().Int64())
	w.say("quiet: pool %s gives all its %d addresses", pool, size)
	var made []*life
	for i := range size + 1 {
		l := &life{world: w, rng: w.random("fill "+pool, i), name: fmt.Sprintf("fill-%s-%d", pool, i)}
		l.on, l.interfaces = w.machines[i%len(w.machines)], []string{"net1"}
		object := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: l.name, Namespace: namespace, Annotations: map[string]string{"berth.dev/ippool": pool}},
			Spec: corev1.PodSpec{NodeName: l.on.name, TerminationGracePeriodSeconds: new(int64), AutomountServiceAccountToken: new(bool),
				Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}
		if compiled.Netspace != "" {
			object.Annotations[nad.NetspaceAnnotation] = compiled.Netspace
		}
		if l.pod, err = w.kube.CoreV1().Pods(namespace).Create(ctx, object, metav1.CreateOptions{}); err != nil {
			return err
		}
		s, err := l.on.newSandbox(l.pod, l.interfaces, l.name)
		if err != nil {
			return err
		}
		l.sandbox = s
		made = append(made, l)
		err = l.on.add(ctx, s, "net1")
		var e *delegate.Error
		switch {
		case ctx.Err() != nil: // the run was ended
			return ctx.Err()
		case i < size && err != nil:
			w.history.violate(Event{Kind: Refused, Node: l.on.name, Pod: l.name, Of: s.of("net1")},
				fmt.Sprintf("not usable to the last address: pool %s gave %d of %d: %v", pool, i, size, err))
			return nil
		case i == size && (!errors.As(err, &e) || e.Code != delegate.CodeExhausted):
			w.history.violate(Event{Kind: Given, Node: l.on.name, Pod: l.name, Of: s.of("net1")},
				fmt.Sprintf("pool %s has %d addresses, and one pod more is told %v", pool, size, err))
		}
	}
	for _, l := range made {
		l.delAll(ctx, l.on, l.sandbox)
		l.on.end(l.sandbox, "stopped")
		l.delete(ctx, 0)
	}
	w.settled(ctx)
	return nil
}
