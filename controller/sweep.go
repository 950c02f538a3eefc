package controller

import (
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// snapshot is what is known at one time.
type snapshot struct {
	leases []v1alpha1.IPLease
	pods   map[types.NamespacedName]*corev1.Pod
	nodes  map[string]*corev1.Node
	pools  map[string]*v1alpha1.IPPool
	owners map[ownerKey]owner // of what is reserved until they are gone
	now    time.Time
}

// plan is what is to be done about a snapshot. Live looks come before the writes.
type plan struct {
	// release are the bound leases with holders whose pods were gone at two looks, as far apart as wait says.
	release []departure
	// unreserve are the reserved leases whose identity has ended.
	unreserve []*v1alpha1.IPLease
	// unquarantine are those for which nobody else has answered for a while.
	unquarantine []*v1alpha1.IPLease
	// forget are the leases released long ago.
	forget []*v1alpha1.IPLease
	// doubts are new: this holding is kept for this reason since this look.
	doubts []newDoubt
	// inDoubt counts, by reason, all that is kept though neither pod nor owner is seen to live.
	inDoubt map[string]int
	// suspects is how many wait for a second look.
	suspects int
}

type departure struct {
	lease   *v1alpha1.IPLease
	holders []*v1alpha1.LeaseHolder
}

type newDoubt struct {
	lease  *v1alpha1.IPLease
	holder *v1alpha1.LeaseHolder // nil: the lease is reserved, or names none
	reason string
}

// holding is one sandbox's hold of one lease, or an identity's. The resource version is no part of a sandbox's: labels may change
// without the holder. It is of an identity's: whatever changes about a reserved lease, the two looks begin anew.
type holding struct {
	lease       types.UID
	pod         types.UID
	containerID string
	reserved    string
}

// graceMargin is what a kubelet may need besides a pod's grace period: to learn of the deletion, and to have killed what did not end.
const graceMargin = 15 * time.Second

// sweeper remembers since when holdings look dead. It decides, and does nothing.
type sweeper struct {
	confirmAfter  time.Duration // at least, from the first look that finds pod or owner gone to the one that may free
	forgetAfter   time.Duration // from release to deletion of the object
	reserveFor    time.Duration // bound of reservations that end after a time, in pools that say none
	quarantineFor time.Duration // of silence

	memory
}

// memory of one look for the next. Whatever a look does not find again is not carried on.
type memory struct {
	firstSeen map[holding]time.Time       // since when dead
	doubted   map[holding]string          // and told, for this reason
	leaving   map[types.UID]time.Duration // grace periods of the deletions that were under way, by pod
}

// look at a snapshot and say what is to be done.
func (s *sweeper) look(snap snapshot) plan {
	l := look{snapshot: snap, sweeper: s, plan: plan{inDoubt: map[string]int{}}, still: memory{
		firstSeen: map[holding]time.Time{}, doubted: map[holding]string{}, leaving: map[types.UID]time.Duration{},
	}}
	for i := range snap.leases {
		l.at(&snap.leases[i])
	}
	s.memory = l.still
	return l.plan
}

// look is one in progress.
type look struct {
	snapshot
	*sweeper
	plan
	still memory
}

func (k *look) at(l *v1alpha1.IPLease) {
	switch l.Spec.Phase {
	case v1alpha1.LeaseBound:
		k.bound(l)
	case v1alpha1.LeaseReserved:
		k.reserved(l)
	case v1alpha1.LeaseQuarantined:
		if c := l.Spec.Conflict; c != nil && !k.now.Before(c.SeenAt.Add(k.quarantineFor)) {
			k.unquarantine = append(k.unquarantine, l)
		}
	case v1alpha1.LeaseReleased:
		if after := max(k.forgetAfter, cooldown(k.pools[l.Spec.Pool])); !k.now.Before(releasedAt(l).Add(after)) {
			k.forget = append(k.forget, l)
		}
	}
}

// bound looks at each holder: the address is free, or its identity's, only once none is left.
func (k *look) bound(l *v1alpha1.IPLease) {
	holders := ipam.Holders(l)
	if len(holders) == 0 {
		k.doubt(l, nil, noHolder)
	}
	var gone []*v1alpha1.LeaseHolder
	for _, h := range holders {
		pod, node := k.pods[types.NamespacedName{Namespace: h.Namespace, Name: h.Pod}], k.nodes[h.Node]
		if d, ok := k.deletion(pod, h); ok {
			k.still.leaving[h.UID] = d
		}
		switch f := judge(h, pod, node); f.verdict {
		case doubt:
			k.doubt(l, h, f.reason)
		case dead:
			if k.confirmed(holdingOf(l, h), k.wait(h, f, node)) {
				gone = append(gone, h)
			}
		}
	}
	if len(gone) > 0 {
		k.release = append(k.release, departure{l, gone})
	}
}

func (k *look) reserved(l *v1alpha1.IPLease) {
	f := judgeIdentity(l, k.pools[l.Spec.Pool], k.owners[ownerOf(l.Spec.Identity)], k.reserveFor, k.now)
	switch {
	case f.verdict == doubt:
		k.doubt(l, nil, f.reason)
	case f.verdict == over, f.verdict == dead && k.confirmed(holdingOf(l, nil), k.confirmAfter):
		k.unreserve = append(k.unreserve, l)
	}
}

// confirmed says whether what looks dead now did so at an earlier look, that long ago.
func (k *look) confirmed(key holding, wait time.Duration) bool {
	since, seen := k.firstSeen[key]
	if !seen {
		since = k.now
	}
	k.still.firstSeen[key] = since
	if seen && k.now.Sub(since) >= wait {
		return true
	}
	k.suspects++
	return false
}

func (k *look) doubt(l *v1alpha1.IPLease, h *v1alpha1.LeaseHolder, reason string) {
	k.inDoubt[reason]++
	key := holdingOf(l, h)
	if k.doubted[key] != reason {
		k.doubts = append(k.doubts, newDoubt{l, h, reason})
	}
	k.still.doubted[key] = reason
}

// deletion is the grace period of a deletion of the pod that is under way, or was when it was last seen. It may be longer than the
// pod's own, which the lease knows.
func (k *look) deletion(pod *corev1.Pod, h *v1alpha1.LeaseHolder) (time.Duration, bool) {
	if pod != nil && isHolder(pod, h) {
		if pod.DeletionGracePeriodSeconds == nil {
			return 0, false
		}
		return seconds(*pod.DeletionGracePeriodSeconds), true
	}
	d, ok := k.leaving[h.UID]
	return d, ok
}

// wait from the first look that finds a pod gone to the one that may free its lease: its kubelet may let it stop for its grace period,
// also if it was deleted by force. Nothing is left to stop of a finished pod, nor on a node that is tainted out-of-service, whose being
// down somebody vouches for.
func (k *look) wait(h *v1alpha1.LeaseHolder, f finding, node *corev1.Node) time.Duration {
	grace := max(seconds(h.GracePeriodSeconds), k.still.leaving[h.UID])
	if grace == 0 || f.reason == podFinished || node != nil && outOfService(node) {
		return k.confirmAfter
	}
	return max(k.confirmAfter, grace+graceMargin)
}

// seconds that may be more than a Duration has: there is no upper limit in the API.
func seconds(n int64) time.Duration {
	const most = math.MaxInt64 / int64(time.Second) / 2
	return time.Duration(min(n, most)) * time.Second
}

// alive takes back a suspicion that a live look has refuted.
func (s *sweeper) alive(key holding) { delete(s.firstSeen, key) }

// holdingOf a holder of the lease; nil: of its identity.
func holdingOf(l *v1alpha1.IPLease, h *v1alpha1.LeaseHolder) holding {
	if h == nil {
		return holding{lease: l.UID, reserved: l.ResourceVersion}
	}
	return holding{lease: l.UID, pod: h.UID, containerID: h.ContainerID}
}

// releasedAt of a lease that is not bound; one that somebody made by hand may not say.
func releasedAt(l *v1alpha1.IPLease) time.Time {
	if l.Spec.ReleasedAt != nil {
		return l.Spec.ReleasedAt.Time
	}
	return l.CreationTimestamp.Time
}
