package controller

import (
	"math"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

func at(after time.Duration, leases []v1alpha1.IPLease, pods ...*corev1.Pod) snapshot {
	s := snapshot{leases: leases, pods: map[types.NamespacedName]*corev1.Pod{}, nodes: map[string]*corev1.Node{}, now: epoch.Add(after)}
	for _, p := range pods {
		s.pods[client.ObjectKeyFromObject(p)] = p
	}
	s.nodes["n"] = node("n", corev1.ConditionTrue)
	return s
}

// patient is p with seconds of grace.
func patient(p *corev1.Pod, seconds int64) *corev1.Pod {
	p = p.DeepCopy()
	p.Spec.TerminationGracePeriodSeconds = &seconds
	return p
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
	slow := patient(alive, 600)
	leaving := patient(alive, 30)
	leaving.DeletionGracePeriodSeconds = new(int64(600))
	finished := patient(pod("p", "u", corev1.PodSucceeded, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}), 600)
	successor := patient(pod("p", "v", corev1.PodRunning), 0)
	forever := patient(alive, math.MaxInt64)
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
		{"with a long grace period", []look{
			{after: 0, leases: l, pods: []*corev1.Pod{slow}},
			{after: 15 * time.Second, leases: l, suspects: 1},
			{after: 60 * time.Second, leases: l, suspects: 1},
			{after: 629 * time.Second, leases: l, suspects: 1},
			{after: 630 * time.Second, leases: l, releases: 1},
		}},
		{"replaced, with a long grace period", []look{
			{after: 0, leases: l, pods: []*corev1.Pod{slow}},
			{after: 15 * time.Second, leases: l, pods: []*corev1.Pod{successor}, suspects: 1},
			{after: 629 * time.Second, leases: l, pods: []*corev1.Pod{successor}, suspects: 1},
			{after: 630 * time.Second, leases: l, pods: []*corev1.Pod{successor}, releases: 1},
		}},
		{"another sandbox, with a long grace period", []look{
			{after: 0, leases: l, pods: []*corev1.Pod{slow}},
			{after: 15 * time.Second, leases: l, suspects: 1},
			{after: 30 * time.Second, leases: []v1alpha1.IPLease{again}, suspects: 1},
			{after: 644 * time.Second, leases: []v1alpha1.IPLease{again}, suspects: 1},
			{after: 645 * time.Second, leases: []v1alpha1.IPLease{again}, releases: 1},
		}},
		{"deleted with a longer grace period, then by force", []look{
			{after: 0, leases: l, pods: []*corev1.Pod{leaving}},
			{after: 15 * time.Second, leases: l, suspects: 1},
			{after: 629 * time.Second, leases: l, suspects: 1},
			{after: 630 * time.Second, leases: l, releases: 1},
		}},
		{"with a short grace period", []look{
			{after: 0, leases: l, pods: []*corev1.Pod{patient(alive, 1)}},
			{after: 15 * time.Second, leases: l, suspects: 1},
			{after: 59 * time.Second, leases: l, suspects: 1},
			{after: 60 * time.Second, leases: l, releases: 1},
		}},
		{"with a grace period beyond all time", []look{
			{after: 0, leases: l, pods: []*corev1.Pod{forever}},
			{after: 15 * time.Second, leases: l, suspects: 1},
			{after: 24 * time.Hour, leases: l, suspects: 1},
		}},
		{"finished: nothing is left to stop", []look{
			{after: 0, leases: l, pods: []*corev1.Pod{slow}},
			{after: 15 * time.Second, leases: l, pods: []*corev1.Pod{finished}, suspects: 1},
			{after: 60 * time.Second, leases: l, pods: []*corev1.Pod{finished}, releases: 1},
		}},
		{"node out of service: nobody stops anything", []look{
			{after: 0, leases: l, pods: []*corev1.Pod{slow}},
			{after: 15 * time.Second, leases: l, node: node("n", corev1.ConditionFalse, corev1.TaintNodeOutOfService), suspects: 1},
			{after: 60 * time.Second, leases: l, node: node("n", corev1.ConditionFalse, corev1.TaintNodeOutOfService), releases: 1},
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
func TestSweeperRemembersGracePeriods(t *testing.T) {
	s := sweeper{confirmAfter: 45 * time.Second}
	full := patient(pod("p", "u", corev1.PodRunning), 600)
	stripped, err := stripPod(full)
	if err != nil {
		t.Fatal(err)
	}
	l := []v1alpha1.IPLease{held("10.6.0.1", "p", "u")}
	s.look(at(0, l, stripped.(*corev1.Pod)))
	s.look(at(15*time.Second, l))
	if got := s.grace["u"]; got != 10*time.Minute || len(s.grace) != 1 {
		t.Errorf("%v, want the ten minutes of the pod that is gone", s.grace)
	}
	s.look(at(30*time.Second, nil))
	if len(s.grace) != 0 {
		t.Errorf("%v, though no lease names a pod", s.grace)
	}
}

func TestSweeperTakesBackASuspicion(t *testing.T) {
	s := sweeper{confirmAfter: time.Second}
	l := []v1alpha1.IPLease{held("10.6.0.1", "p", "u")}
	s.look(at(0, l))
	if got := s.look(at(time.Second, l)); len(got.release) != 1 {
		t.Fatalf("%d to release", len(got.release))
	}
	s.alive(&l[0])
	if got := s.look(at(2*time.Second, l)); len(got.release) != 0 || got.suspects != 1 {
		t.Errorf("%d to release after a live look that found the pod", len(got.release))
	}
}

func TestSweeperLeavesTheRest(t *testing.T) {
	s := sweeper{confirmAfter: time.Nanosecond, forgetAfter: time.Hour}
	unknownHolder := held("10.6.0.3", "p", "")
	leases := []v1alpha1.IPLease{
		lease("net", "10.6.0.1", "a", v1alpha1.LeaseReserved),
		lease("net", "10.6.0.2", "a", v1alpha1.LeaseQuarantined),
		unknownHolder,
		lease("net", "10.6.0.4", "a", v1alpha1.LeaseBound), // no holder
	}
	for i := range 3 {
		got := s.look(at(time.Duration(i)*time.Hour, leases))
		if len(got.release) != 0 || len(got.forget) != 0 || got.inDoubt[noPodUID] != 1 || got.inDoubt[noHolder] != 1 {
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
