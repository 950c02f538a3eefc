package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/nad"
)

// life is one pod name, under which pod follows pod, on whichever node: what users, the StatefulSet controller, kubelets and runtimes
// do to it.
type life struct {
	*world
	rng     *rand.Rand
	name    string
	set     *set // nil: of none
	ordinal int
	made    int // sandboxes so far

	// The present pod; nil between two.
	pod        *corev1.Pod
	on         *machine
	interfaces []string
	sandbox    *sandbox // nil: none
}

func (w *world) newLives() (out []*life) {
	for i := range w.slots() {
		l := &life{world: w, rng: w.random("life", i), name: fmt.Sprintf("pod-%d", i)}
		if sets := len(w.sets); i < sets*mostReplicas {
			l.set, l.ordinal = w.sets[i%sets], i/sets
			l.name = fmt.Sprintf("%s-%d", l.set.name, l.ordinal)
		}
		out = append(out, l)
	}
	return out
}

// run until there are no more operations. What the last pod has it keeps.
func (l *life) run(ctx context.Context) {
	for l.more(ctx) {
		if l.pod == nil && !l.create(ctx) {
			pause(ctx, 20*time.Millisecond)
			continue
		}
		if !l.on.has(l.sandbox) {
			if !l.bringUp(ctx) {
				if l.rng.IntN(8) == 0 || l.on.isState() != up {
					l.leave(ctx)
				}
				pause(ctx, l.upTo(400*time.Millisecond)) // as kubelets do
				continue
			}
		}
		l.use(ctx)
		switch l.rng.IntN(5) {
		case 0: // the sandbox is made anew
			l.stop(ctx, l.sandbox)
		case 1: // it died, and its DEL comes late or never
			s, m := l.sandbox, l.on
			m.end(s, "the sandbox died")
			if l.rng.IntN(2) == 0 {
				l.later(ctx, 2*time.Second, func() { l.delAll(ctx, m, s) })
			}
		default:
			l.leave(ctx)
		}
	}
}

func (l *life) upTo(d time.Duration) time.Duration { return time.Duration(l.rng.Int64N(int64(d))) }

// later, within d, do what nothing waits for.
func (l *life) later(ctx context.Context, d time.Duration, do func()) {
	wait := l.upTo(d)
	l.errands.Go(func() {
		pause(ctx, wait)
		do()
	})
}

// create the pod's object, on a node that is up.
func (l *life) create(ctx context.Context) bool {
	m := l.machines[l.rng.IntN(len(l.machines))]
	if m.isState() != up || !m.isReady(ctx) || l.set != nil && int64(l.ordinal) >= l.set.replicas.Load() {
		return false
	}
	annotation, interfaces, netspace := networksOf(l.rng, l.set)
	grace := int64(l.rng.IntN(4) / 3)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: l.name, Namespace: namespace, Annotations: map[string]string{
			nad.PoolsAnnotation: annotation, "k8s.v1.cni.cncf.io/networks": "hammer@" + strings.Join(interfaces, ",hammer@")}},
		Spec: corev1.PodSpec{NodeName: m.name, TerminationGracePeriodSeconds: &grace, AutomountServiceAccountToken: new(bool),
			Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	if netspace != "" {
		p.Annotations[nad.NetspaceAnnotation] = netspace
	}
	if l.set != nil {
		l.set.mu.Lock()
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(l.set.object, l.set.object.GroupVersionKind())}
		p.OwnerReferences[0].APIVersion, p.OwnerReferences[0].Kind = "apps/v1", "StatefulSet"
		l.set.mu.Unlock()
	}
	l.op()
	pods := l.kube.CoreV1().Pods(namespace)
	err := l.insist(ctx, func() (err error) {
		if l.pod, err = pods.Create(ctx, p, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			l.pod, err = pods.Get(ctx, l.name, metav1.GetOptions{}) // made by a try whose answer was lost
		}
		return err
	})
	if err != nil {
		l.pod = nil
		return false
	}
	l.on, l.interfaces, l.sandbox = m, interfaces, nil
	l.history.add(Event{Kind: Object, Node: m.name, Pod: l.name, Of: Interface{UID: l.pod.UID}, Note: strings.TrimSpace("pod created, " + annotation + " " + netspace)})
	return true
}

// bringUp a sandbox with all its interfaces, as the kubelet tries again and again, with a new sandbox each time.
func (l *life) bringUp(ctx context.Context) bool {
	if !l.on.isReady(ctx) {
		return false
	}
	l.made++
	m, id := l.on, fmt.Sprintf("%s-s%d", l.name, l.made)
	s, err := m.newSandbox(l.pod, l.interfaces, id)
	if err != nil {
		return false
	}
	for _, i := range l.interfaces {
		l.op()
		if err := l.addOnce(ctx, m, s, i); err != nil {
			if l.rng.IntN(10) > 0 { // the runtime tidies up, unless it died too
				l.delAll(ctx, m, s)
			}
			m.end(s, "it was not made")
			return false
		}
	}
	l.sandbox = s
	return true
}

// addOnce calls ADD, and sometimes loses patience with it.
func (l *life) addOnce(ctx context.Context, m *machine, s *sandbox, ifName string) error {
	if l.rng.IntN(25) > 0 {
		return m.add(ctx, s, ifName)
	}
	ctx, cancel := context.WithTimeout(ctx, l.upTo(40*time.Millisecond))
	defer cancel()
	return m.add(ctx, s, ifName)
}

// use what is up for a while.
func (l *life) use(ctx context.Context) {
	m, s := l.on, l.sandbox
	for _, i := range l.interfaces {
		switch l.rng.IntN(12) {
		case 0:
			l.op()
			_ = m.add(ctx, s, i) // again; a failure changes nothing for the interface
		case 1:
			l.op()
			_ = m.check(ctx, s, i)
		}
	}
	pause(ctx, l.upTo(60*time.Millisecond))
}

// delAll interfaces of a sandbox, with some patience.
func (l *life) delAll(ctx context.Context, m *machine, s *sandbox) {
	for _, i := range s.interfaces {
		l.op()
		for range 3 {
			if m.del(ctx, s, i) == nil {
				break
			}
			pause(ctx, 200*time.Millisecond)
		}
	}
}

// stop a sandbox. Its DEL may be lost, fail for good, or come again later.
func (l *life) stop(ctx context.Context, s *sandbox) {
	m := l.on
	if !l.on.has(s) {
		return
	}
	if l.rng.IntN(8) > 0 {
		l.delAll(ctx, m, s)
		if l.rng.IntN(6) == 0 {
			l.later(ctx, 2*time.Second, func() { l.delAll(ctx, m, s) })
		}
	}
	m.end(s, "stopped")
}

// leave the pod: it is deleted, in one of the ways there are, or stays.
func (l *life) leave(ctx context.Context) {
	if l.on.isState() != up {
		l.leaveNode(ctx)
		return
	}
	s := l.sandbox
	l.op()
	switch l.rng.IntN(8) {
	case 0, 1: // by force: the object goes first, the kubelet ends the pod a little later
		if s != nil && !l.on.orphan(s, up) {
			return
		}
		if l.delete(ctx, 0) {
			pause(ctx, l.upTo(800*time.Millisecond))
			l.stop(ctx, s)
			l.pod = nil
		}
	case 2: // it finishes, and is deleted some time after
		l.finish(ctx)
		l.stop(ctx, s)
		pause(ctx, l.upTo(200*time.Millisecond))
		if l.delete(ctx, 0) {
			l.pod = nil
		}
	case 3: // it lives on
	default:
		if *l.pod.Spec.TerminationGracePeriodSeconds > 0 && !l.delete(ctx, 1) {
			return
		}
		l.stop(ctx, s)
		if l.delete(ctx, 0) {
			l.pod = nil
		}
	}
}

// leaveNode that is not up: wait for it, or, once that is known to all, delete the pod by force and go on elsewhere.
func (l *life) leaveNode(ctx context.Context) {
	patient := l.rng.IntN(3) == 0
	for l.more(ctx) && l.on.isState() != up {
		s := l.sandbox
		if l.on.isNoticed() && !patient && (!l.on.has(s) || l.on.orphan(s, cut)) {
			l.op()
			if l.delete(ctx, 0) {
				l.pod, l.sandbox = nil, nil
			}
			return
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// delete the pod's object; it must be this one.
func (l *life) delete(ctx context.Context, grace int64) bool {
	uid := l.pod.UID
	err := l.insist(ctx, func() error {
		return unlessGone(l.kube.CoreV1().Pods(namespace).Delete(ctx, l.name, metav1.DeleteOptions{
			GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &uid}}))
	})
	l.history.add(Event{Kind: Object, Pod: l.name, Of: Interface{UID: uid}, Note: fmt.Sprintf("pod deleted, grace %d s", grace)})
	return err == nil
}

// finish: the containers have ended, the object stays.
func (l *life) finish(ctx context.Context) {
	_ = l.insist(ctx, func() error {
		p, err := l.kube.CoreV1().Pods(namespace).Get(ctx, l.name, metav1.GetOptions{})
		if err != nil {
			return unlessGone(err)
		}
		p.Status.Phase = corev1.PodSucceeded
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
		_, err = l.kube.CoreV1().Pods(namespace).UpdateStatus(ctx, p, metav1.UpdateOptions{})
		return err
	})
	if s := l.sandbox; s != nil {
		// The containers have ended, and with them what used the address.
		for _, i := range s.interfaces {
			l.history.add(Event{Kind: Vanished, Node: l.on.name, Pod: l.name, Of: s.of(i), Note: "finished"})
		}
	}
}

// settle: the kubelet has all the time it needs. A pod for which there is no address has none.
func (l *life) settle(ctx context.Context) error {
	if l.pod == nil {
		return nil
	}
	for !l.on.has(l.sandbox) {
		if ctx.Err() != nil {
			return fmt.Errorf("pod %s does not come up: %w", l.name, ctx.Err())
		}
		m := l.on
		l.made++
		s, err := m.newSandbox(l.pod, l.interfaces, fmt.Sprintf("%s-s%d", l.name, l.made))
		if err != nil {
			return err
		}
		for _, i := range l.interfaces {
			if err = m.add(ctx, s, i); err != nil {
				break
			}
		}
		if err == nil {
			l.sandbox = s
			return nil
		}
		l.delAll(ctx, m, s)
		m.end(s, "it was not made")
		var e *delegate.Error
		if errors.As(err, &e) && (e.Code == delegate.CodeExhausted || e.Code == delegate.CodeNoPool) {
			return nil
		}
		pause(ctx, 100*time.Millisecond)
	}
	return nil
}
