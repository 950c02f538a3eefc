package controller

import (
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
	// release are the bound leases whose pod was gone at two looks, confirmAfter or more apart. A live look comes before the write.
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

// sweeper remembers since when holdings look dead. It decides, and does nothing.
type sweeper struct {
	confirmAfter time.Duration // from the first look that finds the pod gone to the one that may free
	forgetAfter  time.Duration // from release to deletion of the object

	firstSeen map[holding]time.Time
}

// look at a snapshot and say what is to be done.
func (s *sweeper) look(snap snapshot) plan {
	out := plan{inDoubt: map[string]int{}}
	still := map[holding]time.Time{}
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
		switch f := judge(l, pod, node); f.verdict {
		case doubt:
			out.inDoubt[f.reason]++
		case dead:
			key := holdingOf(l)
			since, seen := s.firstSeen[key]
			if !seen {
				since = snap.now
			}
			still[key] = since
			if seen && snap.now.Sub(since) >= s.confirmAfter {
				out.release = append(out.release, l)
			} else {
				out.suspects++
			}
		}
	}
	s.firstSeen = still // whoever was seen alive, or is gone, starts anew
	return out
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
