package controller

import (
	"math"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

func at(after time.Duration, leases []v1alpha1.IPLease, pods ...*corev1.Pod) snapshot {
	s := snapshot{leases: leases, pods: map[types.NamespacedName]*corev1.Pod{}, nodes: map[string]*corev1.Node{}, now: epoch.Add(after),
		pools: map[string]*v1alpha1.IPPool{"a": pool("a", "net")}, owners: map[ownerKey]owner{}}
	for _, p := range pods {
		s.pods[client.ObjectKeyFromObject(p)] = p
	}
	s.nodes["n"] = node("n", corev1.ConditionTrue)
	return s
}

// patient is a lease of a pod with seconds of grace.
func patient(l v1alpha1.IPLease, seconds int64) []v1alpha1.IPLease {
	l.Spec.Holder = l.Spec.Holder.DeepCopy()
	l.Spec.Holder.GracePeriodSeconds = seconds
	return []v1alpha1.IPLease{l}
}

func TestSweeperWantsTwoLooks(t *testing.T) {
	alive := pod("p", "u", corev1.PodRunning)
	l := []v1alpha1.IPLease{held("10.6.0.1", "p", "u")}
	type look struct {
		after              time.Duration
		pods               []*corev1.Pod
		leases             []v1alpha1.IPLease
		node               *corev1.Node // nil: ready
		releases, suspects int
	}
	slow := patient(l[0], 600)
	leaving := alive.DeepCopy()
	leaving.DeletionGracePeriodSeconds = new(int64(600))
	hurried := alive.DeepCopy()
	hurried.DeletionGracePeriodSeconds = new(int64(1))
	finished := pod("p", "u", corev1.PodSucceeded, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}})
	successor := pod("p", "v", corev1.PodRunning)
	successor.DeletionGracePeriodSeconds = new(int64(0))
	again := held("10.6.0.1", "p", "u")
	again.Spec.Holder.ContainerID = "another sandbox"
	for _, tc := range []struct {
		name  string
		looks []look
	}{
		{"gone", []look{
			{after: 0, leases: l, suspects: 1},
			{after: 15 * time.Second, leases: l, suspects: 1},
			{after: 44 * time.Second, leases: l, suspects: 1},
			{after: 45 * time.Second, leases: l, releases: 1},
			{after: 60 * time.Second, leases: l, releases: 1}, // the write failed
		}},
		{"however late the first look", []look{
			{after: 24 * time.Hour, leases: l, suspects: 1},
		}},
		{"alive", []look{
			{after: 0, leases: l, pods: []*corev1.Pod{alive}},
			{after: time.Hour, leases: l, pods: []*corev1.Pod{alive}},
		}},
		{"seen again in between", []look{
			{after: 0, leases: l, suspects: 1},
			{after: 30 * time.Second, leases: l, pods: []*corev1.Pod{alive}},
			{after: 50 * time.Second, leases: l, suspects: 1},
			{after: 80 * time.Second, leases: l, suspects: 1},
			{after: 95 * time.Second, leases: l, releases: 1},
		}},
		{"another sandbox in between", []look{
			{after: 0, leases: l, suspects: 1},
			{after: 50 * time.Second, leases: []v1alpha1.IPLease{again}, suspects: 1},
			{after: 95 * time.Second, leases: []v1alpha1.IPLease{again}, releases: 1},
		}},
		{"with a long grace period, which nobody saw", []look{
			{after: 15 * time.Second, leases: slow, suspects: 1},
			{after: 60 * time.Second, leases: slow, suspects: 1},
			{after: 629 * time.Second, leases: slow, suspects: 1},
			{after: 630 * time.Second, leases: slow, releases: 1},
		}},
		{"replaced, with a long grace period", []look{
			{after: 0, leases: slow, pods: []*corev1.Pod{alive}},
			{after: 15 * time.Second, leases: slow, pods: []*corev1.Pod{successor}, suspects: 1},
			{after: 629 * time.Second, leases: slow, pods: []*corev1.Pod{successor}, suspects: 1},
			{after: 630 * time.Second, leases: slow, pods: []*corev1.Pod{successor}, releases: 1},
		}},
		{"another sandbox, with a long grace period", []look{
			{after: 0, leases: slow, pods: []*corev1.Pod{alive}},
			{after: 15 * time.Second, leases: slow, suspects: 1},
			{after: 30 * time.Second, leases: patient(again, 600), suspects: 1},
			{after: 644 * time.Second, leases: patient(again, 600), suspects: 1},
			{after: 645 * time.Second, leases: patient(again, 600), releases: 1},
		}},
		{"deleted with a longer grace period, then by force", []look{
			{after: 0, leases: patient(l[0], 30), pods: []*corev1.Pod{leaving}},
			{after: 15 * time.Second, leases: patient(l[0], 30), suspects: 1},
			{after: 629 * time.Second, leases: patient(l[0], 30), suspects: 1},
			{after: 630 * time.Second, leases: patient(l[0], 30), releases: 1},
		}},
		{"deleted with a shorter grace period: the pod's own counts", []look{
			{after: 0, leases: slow, pods: []*corev1.Pod{hurried}},
			{after: 15 * time.Second, leases: slow, suspects: 1},
			{after: 629 * time.Second, leases: slow, suspects: 1},
			{after: 630 * time.Second, leases: slow, releases: 1},
		}},
		{"with a short grace period", []look{
			{after: 15 * time.Second, leases: patient(l[0], 1), suspects: 1},
			{after: 59 * time.Second, leases: patient(l[0], 1), suspects: 1},
			{after: 60 * time.Second, leases: patient(l[0], 1), releases: 1},
		}},
		{"with a grace period beyond all time", []look{
			{after: 15 * time.Second, leases: patient(l[0], math.MaxInt64), suspects: 1},
			{after: 24 * time.Hour, leases: patient(l[0], math.MaxInt64), suspects: 1},
		}},
		{"finished: nothing is left to stop", []look{
			{after: 0, leases: slow, pods: []*corev1.Pod{alive}},
			{after: 15 * time.Second, leases: slow, pods: []*corev1.Pod{finished}, suspects: 1},
			{after: 60 * time.Second, leases: slow, pods: []*corev1.Pod{finished}, releases: 1},
		}},
		{"node out of service: nobody stops anything", []look{
			{after: 0, leases: slow, pods: []*corev1.Pod{alive}},
			{after: 15 * time.Second, leases: slow, node: node("n", corev1.ConditionFalse, corev1.TaintNodeOutOfService), suspects: 1},
			{after: 60 * time.Second, leases: slow, node: node("n", corev1.ConditionFalse, corev1.TaintNodeOutOfService), releases: 1},
		}},
		{"lease gone and back", []look{
			{after: 0, leases: l, suspects: 1},
			{after: 30 * time.Second},
			{after: 60 * time.Second, leases: l, suspects: 1},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := sweeper{confirmAfter: 45 * time.Second, forgetAfter: time.Hour}
			for i, k := range tc.looks {
				snap := at(k.after, k.leases, k.pods...)
				if k.node != nil {
					snap.nodes[k.node.Name] = k.node
				}
				got := s.look(snap)
				if len(got.release) != k.releases || got.suspects != k.suspects {
					t.Errorf("look %d: %d to release and %d suspects, want %d and %d", i, len(got.release), got.suspects, k.releases, k.suspects)
				}
			}
		})
	}
}

// What is remembered of pods is what the cache keeps of them, and no longer than a lease names them.
func TestSweeperRemembersDeletions(t *testing.T) {
	s := sweeper{confirmAfter: 45 * time.Second}
	full := pod("p", "u", corev1.PodRunning)
	full.DeletionGracePeriodSeconds = new(int64(600))
	stripped, err := stripPod(full)
	if err != nil {
		t.Fatal(err)
	}
	l := []v1alpha1.IPLease{held("10.6.0.1", "p", "u")}
	s.look(at(0, l, stripped.(*corev1.Pod)))
	s.look(at(15*time.Second, l))
	if got := s.leaving["u"]; got != 10*time.Minute || len(s.leaving) != 1 {
		t.Errorf("%v, want the ten minutes of the pod that is gone", s.leaving)
	}
	s.look(at(30*time.Second, nil))
	if len(s.leaving) != 0 || len(s.firstSeen) != 0 {
		t.Errorf("%v and %v, though no lease names a pod", s.leaving, s.firstSeen)
	}
}

// While a virtual machine migrates, two pods use its address; it stays as long as one of them does.
func TestSweeperLooksAtBothHolders(t *testing.T) {
	source, target := pod("p", "u", corev1.PodRunning), pod("q", "v", corev1.PodRunning)
	l := held("10.6.0.1", "p", "u")
	l.Spec.Next = held("10.6.0.1", "q", "v").Spec.Holder
	for _, tc := range []struct {
		name string
		pods []*corev1.Pod
		want []types.UID // released
	}{
		{"both live", []*corev1.Pod{source, target}, nil},
		{"source gone", []*corev1.Pod{target}, []types.UID{"u"}},
		{"target gone", []*corev1.Pod{source}, []types.UID{"v"}},
		{"both gone", nil, []types.UID{"u", "v"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := sweeper{confirmAfter: 45 * time.Second}
			s.look(at(0, []v1alpha1.IPLease{l}, tc.pods...))
			got := s.look(at(45*time.Second, []v1alpha1.IPLease{l}, tc.pods...))
			var uids []types.UID
			for _, d := range got.release {
				for _, h := range d.holders {
					uids = append(uids, h.UID)
				}
			}
			if !slices.Equal(uids, tc.want) {
				t.Errorf("released %q, want %q", uids, tc.want)
			}
		})
	}
}

// Each holding is told once per reason.
func TestSweeperTellsDoubtsOnce(t *testing.T) {
	s := sweeper{confirmAfter: time.Second}
	l := []v1alpha1.IPLease{held("10.6.0.1", "p", "u"), held("10.6.0.2", "q", "")}
	finished := pod("p", "u", corev1.PodFailed)
	lost := func(after time.Duration, pods ...*corev1.Pod) snapshot {
		snap := at(after, l, pods...)
		snap.nodes["n"] = node("n", corev1.ConditionUnknown)
		return snap
	}
	alive := pod("p", "u", corev1.PodRunning)
	for i, step := range []struct {
		snap snapshot
		want []string
	}{
		{lost(0), []string{nodeNotReady, noPodUID}},
		{lost(time.Minute), nil},
		{lost(2*time.Minute, finished), []string{noContainers}},
		{lost(3 * time.Minute), []string{nodeNotReady}},
		{lost(4*time.Minute, alive), nil},
		{lost(5 * time.Minute), []string{nodeNotReady}}, // lost anew
	} {
		var got []string
		for _, d := range s.look(step.snap).doubts {
			got = append(got, d.reason)
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("look %d: %q, want %q", i, got, step.want)
		}
	}
}

func TestSweeperTakesBackASuspicion(t *testing.T) {
	s := sweeper{confirmAfter: time.Second}
	l := []v1alpha1.IPLease{held("10.6.0.1", "p", "u")}
	s.look(at(0, l))
	if got := s.look(at(time.Second, l)); len(got.release) != 1 {
		t.Fatalf("%d to release", len(got.release))
	}
	s.alive(holdingOf(&l[0], l[0].Spec.Holder))
	if got := s.look(at(2*time.Second, l)); len(got.release) != 0 || got.suspects != 1 {
		t.Errorf("%d to release after a live look that found the pod", len(got.release))
	}
}

func TestSweeperLeavesTheRest(t *testing.T) {
	s := sweeper{confirmAfter: time.Nanosecond, forgetAfter: time.Hour, quarantineFor: time.Hour}
	unknownHolder := held("10.6.0.3", "p", "")
	leases := []v1alpha1.IPLease{
		lease("net", "10.6.0.1", "a", v1alpha1.LeaseReserved),
		lease("net", "10.6.0.2", "a", v1alpha1.LeaseQuarantined),
		unknownHolder,
		lease("net", "10.6.0.4", "a", v1alpha1.LeaseBound), // no holder
	}
	for i := range 3 {
		got := s.look(at(time.Duration(i)*time.Hour, leases))
		if len(got.release)+len(got.forget)+len(got.unreserve)+len(got.unquarantine) != 0 || got.inDoubt[noPodUID] != 1 || got.inDoubt[noHolder] != 1 {
			t.Errorf("look %d: %+v", i, got)
		}
	}
}

func TestSweeperForgets(t *testing.T) {
	s := sweeper{forgetAfter: time.Hour}
	byHand := lease("net", "10.6.0.2", "a", v1alpha1.LeaseReleased)
	byHand.Spec.ReleasedAt = nil
	byHand.CreationTimestamp.Time = epoch.Add(30 * time.Minute)
	leases := []v1alpha1.IPLease{lease("net", "10.6.0.1", "a", v1alpha1.LeaseReleased), byHand}
	for after, want := range map[time.Duration]int{0: 0, time.Hour - time.Second: 0, time.Hour: 1, 90 * time.Minute: 2} {
		if got := s.look(at(after, leases)); len(got.forget) != want || len(got.release) != 0 {
			t.Errorf("after %s: %d to forget, want %d", after, len(got.forget), want)
		}
	}
}

// A lease that is forgotten cools down no more: its address would be the first to be given out.
func TestSweeperRemembersWhatCools(t *testing.T) {
	s := sweeper{} // forgets at once
	leases := []v1alpha1.IPLease{lease("net", "10.6.0.1", "a", v1alpha1.LeaseReleased), lease("net", "10.6.0.2", "gone", v1alpha1.LeaseReleased)}
	snap := func(after time.Duration) snapshot {
		n := at(after, leases)
		n.pools["a"].Spec.Cooldown = &metav1.Duration{Duration: time.Hour}
		return n
	}
	for after, want := range map[time.Duration]int{29 * time.Second: 0, 30 * time.Second: 1, time.Hour - time.Second: 1, time.Hour: 2} {
		if got := s.look(snap(after)); len(got.forget) != want {
			t.Errorf("after %s: %d to forget, want %d", after, len(got.forget), want)
		}
	}
}

func TestSweeperEndsQuarantines(t *testing.T) {
	s := sweeper{quarantineFor: 10 * time.Minute}
	l := lease("net", "10.6.0.1", "a", v1alpha1.LeaseQuarantined)
	l.Spec.Conflict = &v1alpha1.LeaseConflict{MAC: "02:00:00:00:00:01", SeenAt: metav1.NewTime(epoch)}
	for after, want := range map[time.Duration]int{0: 0, 10*time.Minute - time.Second: 0, 10 * time.Minute: 1} {
		if got := s.look(at(after, []v1alpha1.IPLease{l})); len(got.unquarantine) != want {
			t.Errorf("after %s: %d to give out again, want %d", after, len(got.unquarantine), want)
		}
	}
	// A bound one with a conflict is its holder's.
	bound := held("10.6.0.1", "p", "u")
	bound.Spec.Conflict = l.Spec.Conflict
	if got := s.look(at(time.Hour, []v1alpha1.IPLease{bound}, pod("p", "u", corev1.PodRunning))); len(got.unquarantine) != 0 {
		t.Error("a bound lease is to be given out")
	}
}

// An owner must be gone at two looks; a time that is over needs but one.
func TestSweeperEndsReservations(t *testing.T) {
	key := ownerKey{"StatefulSet", "ns", "web"}
	l := reserved("10.6.0.1", v1alpha1.IdentityStatefulSet, v1alpha1.EndsWithOwner)
	changed := l
	changed.ResourceVersion = "2"
	short := pool("a", "net")
	short.Spec.ReservedFor = &metav1.Duration{Duration: time.Hour}
	there := owner{uids: []types.UID{"set"}}
	type look struct {
		after           time.Duration
		lease           v1alpha1.IPLease
		owner           owner
		pool            *v1alpha1.IPPool
		ended, suspects int
		reason          string // of doubt
	}
	for _, tc := range []struct {
		name  string
		looks []look
	}{
		{"owner gone", []look{
			{after: 0, lease: l, suspects: 1},
			{after: 44 * time.Second, lease: l, suspects: 1},
			{after: 45 * time.Second, lease: l, ended: 1},
		}},
		{"owner there", []look{
			{after: 0, lease: l, owner: there},
			{after: 24 * time.Hour, lease: l, owner: there},
		}},
		{"however late the first look", []look{{after: 24 * time.Hour, lease: l, suspects: 1}}},
		{"owner back in between", []look{
			{after: 0, lease: l, suspects: 1},
			{after: 30 * time.Second, lease: l, owner: there},
			{after: 50 * time.Second, lease: l, suspects: 1},
			{after: 94 * time.Second, lease: l, suspects: 1},
			{after: 95 * time.Second, lease: l, ended: 1},
		}},
		{"claimed and reserved again in between", []look{
			{after: 0, lease: l, suspects: 1},
			{after: 50 * time.Second, lease: changed, suspects: 1},
			{after: 95 * time.Second, lease: changed, ended: 1},
		}},
		{"nothing known in between", []look{
			{after: 0, lease: l, suspects: 1},
			{after: 30 * time.Second, lease: l, owner: owner{doubt: noOwnerAnswer}, reason: noOwnerAnswer},
			{after: 50 * time.Second, lease: l, suspects: 1},
		}},
		{"time over", []look{
			{after: 0, lease: l, pool: short, owner: there},
			{after: time.Hour - time.Second, lease: l, pool: short, owner: there},
			{after: time.Hour, lease: l, pool: short, owner: there, ended: 1},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := sweeper{confirmAfter: 45 * time.Second, reserveFor: time.Minute}
			for i, k := range tc.looks {
				snap := at(k.after, []v1alpha1.IPLease{k.lease})
				snap.owners[key] = k.owner
				if k.pool != nil {
					snap.pools["a"] = k.pool
				}
				got := s.look(snap)
				if len(got.unreserve) != k.ended || got.suspects != k.suspects || len(got.inDoubt) > 0 != (k.reason != "") || got.inDoubt[k.reason] > 1 {
					t.Errorf("look %d: %d to end, %d suspects, in doubt %v; want %d, %d and %q", i, len(got.unreserve), got.suspects, got.inDoubt,
						k.ended, k.suspects, k.reason)
				}
			}
		})
	}
}
