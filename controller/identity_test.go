package controller

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
)

func TestJudgeIdentity(t *testing.T) {
	const week = 168 * time.Hour
	with, after := v1alpha1.EndsWithOwner, v1alpha1.EndsAfterTime
	set, vm, claim, name := v1alpha1.IdentityStatefulSet, v1alpha1.IdentityVM, v1alpha1.IdentityIPAMClaim, v1alpha1.IdentityName
	open := pool("a", "net")
	bounded := pool("a", "net")
	bounded.Spec.ReservedFor = &metav1.Duration{Duration: time.Hour}
	none := pool("a", "net")
	none.Spec.ReservedFor = &metav1.Duration{}
	malformed := bounded.DeepCopy()
	malformed.Spec.Subnets = []v1alpha1.PoolSubnet{{CIDR: "malformed"}}
	disabled := pool("a", "net")
	disabled.Spec.Disabled = true
	leaving := pool("a", "net")
	leaving.DeletionTimestamp = &metav1.Time{Time: epoch}
	there, gone, other := owner{uids: []types.UID{"set"}}, owner{}, owner{uids: []types.UID{"other"}}

	operators := reserved("10.6.0.1", "Pod", "")
	nobodys := reserved("10.6.0.1", set, with)
	nobodys.Spec.Identity = nil
	without := func(change func(*v1alpha1.IPLeaseSpec)) *v1alpha1.IPLease {
		l := reserved("10.6.0.1", set, with)
		change(&l.Spec)
		return &l
	}
	of := func(kind string, ends v1alpha1.IdentityEnd) *v1alpha1.IPLease {
		l := reserved("10.6.0.1", kind, ends)
		return &l
	}
	byHand := reserved("10.6.0.1", name, after)
	byHand.Spec.ReleasedAt = nil
	byHand.CreationTimestamp.Time = epoch.Add(time.Hour)

	for _, tc := range []struct {
		name  string
		lease *v1alpha1.IPLease
		pool  *v1alpha1.IPPool
		owner owner
		after time.Duration
		want  finding
	}{
		{"scaled down", of(set, with), open, there, 1000 * week, finding{live, ""}},
		{"set gone", of(set, with), open, gone, 0, finding{dead, ownerGone}},
		{"set made anew", of(set, with), open, other, 0, finding{dead, ownerReplaced}},
		{"set whose UID nobody knows", without(func(s *v1alpha1.IPLeaseSpec) { s.Identity.UID = "" }), open, other, 0, finding{live, ""}},
		{"machine made anew", of(vm, with), open, other, 0, finding{live, ""}},
		{"machine gone", of(vm, with), open, gone, 0, finding{dead, ownerGone}},
		{"no KubeVirt", of(vm, with), open, owner{doubt: noOwnerAPI}, 1000 * week, finding{doubt, noOwnerAPI}},
		{"no KubeVirt, but a bound", of(vm, with), bounded, owner{doubt: noOwnerAPI}, time.Hour, finding{over, timeOver}},
		{"claim there", of(claim, with), open, other, 1000 * week, finding{live, ""}},
		{"claim gone", of(claim, with), open, gone, 0, finding{dead, ownerGone}},
		{"no answer", of(claim, with), open, owner{doubt: noOwnerAnswer}, 0, finding{doubt, noOwnerAnswer}},
		{"unknown kind", of("Rope", with), open, owner{doubt: noOwnerKind}, 0, finding{doubt, noOwnerKind}},

		{"scaled down, within the pool's time", of(set, with), bounded, there, time.Hour - time.Second, finding{live, ""}},
		{"scaled down, past the pool's time", of(set, with), bounded, there, time.Hour, finding{over, timeOver}},
		{"gone within the pool's time", of(set, with), bounded, gone, time.Minute, finding{dead, ownerGone}},
		{"a pool that keeps nothing", of(set, with), none, there, 0, finding{over, timeOver}},
		{"a malformed pool still says for how long", of(set, with), malformed, there, time.Hour - time.Second, finding{live, ""}},
		{"a disabled pool", of(set, with), disabled, there, week, finding{live, ""}},

		{"name, within the default", of(name, after), open, gone, week - time.Second, finding{live, ""}},
		{"name, past the default", of(name, after), open, gone, week, finding{over, timeOver}},
		{"name, within the pool's time", of(name, after), bounded, gone, time.Hour - time.Second, finding{live, ""}},
		{"name, past the pool's time", of(name, after), bounded, gone, time.Hour, finding{over, timeOver}},
		{"name, made by hand", &byHand, open, gone, week + time.Hour - time.Second, finding{live, ""}},
		{"name, made by hand, past", &byHand, open, gone, week + time.Hour, finding{over, timeOver}},
		{"ends in a way of another version", of(set, "Someday"), open, gone, 1000 * week, finding{live, ""}},

		{"pool deleted", of(set, with), leaving, there, 0, finding{over, poolDeleted}},
		{"pool gone", of(set, with), nil, there, 0, finding{dead, poolGone}},
		{"pool deleted, name", of(name, after), leaving, gone, 0, finding{over, poolDeleted}},
		{"no pool named yet", without(func(s *v1alpha1.IPLeaseSpec) { s.Pool = "" }), nil, there, 0, finding{live, ""}},

		{"operator's", &operators, open, gone, 1000 * week, finding{live, ""}},
		{"operator's, time over", &operators, bounded, gone, 1000 * week, finding{live, ""}},
		{"operator's, pool deleted", &operators, leaving, gone, 0, finding{live, ""}},
		{"operator's, pool gone", &operators, nil, gone, 0, finding{live, ""}},
		{"nobody's", &nobodys, open, gone, 1000 * week, finding{live, ""}},
		{"nobody's, pool gone", &nobodys, nil, gone, 0, finding{live, ""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := judgeIdentity(tc.lease, tc.pool, tc.owner, week, epoch.Add(tc.after)); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
