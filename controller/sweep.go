package controller

import (
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
)

// snapshot is what the caches say at one time.
type snapshot struct {
	leases []v1alpha1.IPLease
	pods   map[types.NamespacedName]*corev1.Pod
	nodes  map[string]*corev1.Node
	now    time.Time
}

// plan is what is to be done about a snapshot.
type plan struct {
	// release are the bound leases whose pod was gone at two looks, as far apart as wait says. A live look comes before the write.
	release []*v1alpha1.IPLease
	// forget are the leases released long ago.
	forget []*v1alpha1.IPLease
	// inDoubt counts, by reason, the bound leases that are kept though no pod is seen to live.
	inDoubt map[string]int
	// suspects is how many wait for a second look.
	suspects int
}

// holding is one sandbox's hold of one lease. The resource version is not part of it: labels may change without the holder.
type holding struct {
	lease       types.UID
	pod         types.UID
	containerID string
}

// graceMargin is what a kubelet may need besides a pod's grace period: to learn of the deletion, and to have killed what did not end.
const graceMargin = 15 * time.Second

// sweeper remembers since when holdings look dead, and how long their pods may take to stop. It decides, and does nothing.
type sweeper struct {
	confirmAfter time.Duration // at least, from the first look that finds the pod gone to the one that may free
	forgetAfter  time.Duration // from release to deletion of the object

	firstSeen map[holding]time.Time
	grace     map[types.UID]time.Duration // by the holder's UID, of pods seen that were not finished; bound leases name each
}

// look at a snapshot and say what is to be done.
func (s *sweeper) look(snap snapshot) plan {
	out := plan{inDoubt: map[string]int{}}
	still, grace := map[holding]time.Time{}, map[types.UID]time.Duration{}
	for i := range snap.leases {
		l := &snap.leases[i]
		switch l.Spec.Phase {
		case v1alpha1.LeaseReleased:
			if !snap.now.Before(releasedAt(l).Add(s.forgetAfter)) {
				out.forget = append(out.forget, l)
			}
			continue
		case v1alpha1.LeaseBound:
		default: // Reserved and Quarantined are people's affair
			continue
		}
		pod, node := snap.of(l)
		f := judge(l, pod, node)
		if d, ok := s.graceOf(l, pod, f); ok {
			grace[l.Spec.Holder.UID] = d
		}
		switch f.verdict {
		case doubt:
			out.inDoubt[f.reason]++
		case dead:
			key := holdingOf(l)
			since, seen := s.firstSeen[key]
			if !seen {
				since = snap.now
			}
			still[key] = since
			if seen && snap.now.Sub(since) >= s.wait(grace[key.pod], node) {
				out.release = append(out.release, l)
			} else {
				out.suspects++
			}
		}
	}
	s.firstSeen = still // whoever was seen alive, or is gone, starts anew
	s.grace = grace
	return out
}

// graceOf the holder's pod: what it says while it is there, what it said once it is gone. A finished pod needs none.
func (s *sweeper) graceOf(l *v1alpha1.IPLease, pod *corev1.Pod, f finding) (time.Duration, bool) {
	h := l.Spec.Holder
	switch {
	case h == nil || h.UID == "" || f.reason == podFinished:
		return 0, false
	case pod != nil && isHolder(pod, h):
		return gracePeriod(pod), true
	}
	d, ok := s.grace[h.UID]
	return d, ok
}

// gracePeriod that the kubelet gives the pod should its object vanish: that of the deletion under way, or else that of its spec.
func gracePeriod(pod *corev1.Pod) time.Duration {
	var seconds int64
	for _, s := range []*int64{pod.Spec.TerminationGracePeriodSeconds, pod.DeletionGracePeriodSeconds} {
		if s != nil {
			seconds = max(seconds, *s)
		}
	}
	const most = math.MaxInt64 / int64(time.Second) / 2 // there is no upper limit in the API
	return time.Duration(min(seconds, most)) * time.Second
}

// wait from the first look that finds a pod gone to the one that may free its lease. Whoever taints a node out-of-service vouches for
// its being down: nothing on it is left to stop.
func (s *sweeper) wait(grace time.Duration, node *corev1.Node) time.Duration {
	if grace == 0 || node != nil && outOfService(node) {
		return s.confirmAfter
	}
	return max(s.confirmAfter, grace+graceMargin)
}

// alive takes back a suspicion that a live look has refuted.
func (s *sweeper) alive(l *v1alpha1.IPLease) { delete(s.firstSeen, holdingOf(l)) }

func (s snapshot) of(l *v1alpha1.IPLease) (*corev1.Pod, *corev1.Node) {
	h := l.Spec.Holder
	if h == nil {
		return nil, nil
	}
	return s.pods[types.NamespacedName{Namespace: h.Namespace, Name: h.Pod}], s.nodes[h.Node]
}

func holdingOf(l *v1alpha1.IPLease) holding {
	h := holding{lease: l.UID}
	if l.Spec.Holder != nil {
		h.pod, h.containerID = l.Spec.Holder.UID, l.Spec.Holder.ContainerID
	}
	return h
}

// releasedAt of a released lease; one that somebody released by hand may not say.
func releasedAt(l *v1alpha1.IPLease) time.Time {
	if l.Spec.ReleasedAt != nil {
		return l.Spec.ReleasedAt.Time
	}
	return l.CreationTimestamp.Time
}
