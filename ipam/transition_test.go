package ipam

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
)

// inShort "Phase holder[+next] identity [released] [conflict]" of a lease; "-" is none.
func inShort(l *v1alpha1.IPLease) string {
	pod := func(h *v1alpha1.LeaseHolder) string {
		if h == nil {
			return "-"
		}
		return h.ContainerID
	}
	s := string(l.Spec.Phase) + " " + pod(l.Spec.Holder)
	if l.Spec.Next != nil {
		s += "+" + pod(l.Spec.Next)
	}
	if i := l.Spec.Identity; i != nil {
		s += " " + i.Kind + "/" + i.Name
	} else {
		s += " -"
	}
	if l.Spec.ReleasedAt != nil {
		s += fmt.Sprintf(" released %d", l.Spec.ReleasedAt.Unix())
	}
	if l.Spec.Conflict != nil {
		s += " conflict"
	}
	return s
}

// Each way from one state to another, see the table at v1alpha1.IPLease.
func TestTransitions(t *testing.T) {
	keeps, keepsNot := pool(t, "p", "subnets: [{cidr: 10.6.0.0/24}]"), pool(t, "p", "subnets: [{cidr: 10.6.0.0/24}]", "reservedFor: 0s")
	set := identity("StatefulSet", "db", ofPod("db-0"), ofUID("s1"), ends)
	db, dbAgain, web := claimOf("db-0", set), claimOf("db-0", set), claimOf("web", nil)
	dbAgain.Holder.UID, dbAgain.Holder.ContainerID, dbAgain.Holder.Node = "u2", "c-db-0-again", "n2"
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	operator := func(i *v1alpha1.LeaseIdentity) *v1alpha1.IPLease {
		l := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: "default.10.6.0.1"}}
		l.Spec.Network, l.Spec.Address, l.Spec.Phase, l.Spec.Identity = "default", "10.6.0.1", reserved, i
		return l
	}
	claim := func(p *Pool, c Claimant) *v1alpha1.IPLease { return NewLease(p, addr("10.6.0.1"), c, at(1)) }
	freed := func(p *Pool, c Claimant) *v1alpha1.IPLease {
		l := claim(p, c)
		Release(l, &c.Holder, at(2))
		return l
	}
	shared := func() *v1alpha1.IPLease {
		l := claim(keeps, db)
		Share(l, dbAgain.Holder)
		return l
	}
	with := func(l *v1alpha1.IPLease, do ...func(*v1alpha1.IPLease)) *v1alpha1.IPLease {
		for _, f := range do {
			f(l)
		}
		return l
	}
	bind := func(p *Pool, c Claimant) func(*v1alpha1.IPLease) {
		return func(l *v1alpha1.IPLease) { Bind(l, p, c, at(3)) }
	}
	release := func(c Claimant) func(*v1alpha1.IPLease) {
		return func(l *v1alpha1.IPLease) { Release(l, &c.Holder, at(4)) }
	}
	drop := func(c Claimant) func(*v1alpha1.IPLease) {
		return func(l *v1alpha1.IPLease) { Drop(l, &c.Holder, at(4)) }
	}
	unreserve := func(l *v1alpha1.IPLease) { Unreserve(l, at(5)) }
	disown := func(l *v1alpha1.IPLease) { Disown(l, at(5)) }
	quarantine := func(l *v1alpha1.IPLease) { Quarantine(l, keeps, addr("10.6.0.1"), v1alpha1.LeaseConflict{MAC: "m"}) }

	for _, tc := range []struct {
		name string
		got  *v1alpha1.IPLease
		want string
	}{
		{"absent → Bound", claim(keeps, web), "Bound c-web -"},
		{"absent → Bound, of an identity", claim(keeps, db), "Bound c-db-0 StatefulSet/db"},
		{"absent → Bound, of a pool that keeps nothing", claim(keepsNot, db), "Bound c-db-0 -"},
		{"absent → Quarantined", Quarantine(nil, keeps, addr("10.6.0.1"), v1alpha1.LeaseConflict{MAC: "m"}), "Quarantined - - conflict"},

		{"Bound → Released", with(claim(keeps, web), release(web)), "Released c-web - released 4"},
		{"Bound → Reserved", with(claim(keeps, db), release(db)), "Reserved c-db-0 StatefulSet/db released 4"},
		{"Bound → Released, of a pool that keeps nothing", with(claim(keepsNot, db), release(db)), "Released c-db-0 - released 4"},
		{"Bound → Released, in vain", with(claim(keeps, db), drop(db)), "Released c-db-0 - released 4"},
		{"Bound → Bound, a newer sandbox", with(claim(keeps, db), func(l *v1alpha1.IPLease) { Rebind(l, dbAgain.Holder, at(3)) }), "Bound c-db-0-again StatefulSet/db"},
		{"Bound → Bound, the identity's next pod", with(claim(keeps, db), bind(keeps, dbAgain)), "Bound c-db-0-again StatefulSet/db"},

		{"two holders", shared(), "Bound c-db-0+c-db-0-again StatefulSet/db"},
		{"two holders, the first goes", with(shared(), release(db)), "Bound c-db-0-again StatefulSet/db"},
		{"two holders, the next goes", with(shared(), release(dbAgain)), "Bound c-db-0 StatefulSet/db"},
		{"two holders, the next goes in vain", with(shared(), drop(dbAgain)), "Bound c-db-0 StatefulSet/db"},
		{"two holders, both go", with(shared(), release(db), release(dbAgain)), "Reserved c-db-0-again StatefulSet/db released 4"},
		{"two holders, both go, the next first", with(shared(), release(dbAgain), release(db)), "Reserved c-db-0 StatefulSet/db released 4"},
		{"two holders, a newer sandbox of the next", with(shared(), func(l *v1alpha1.IPLease) {
			h := dbAgain.Holder
			h.ContainerID = "newer"
			Rebind(l, h, at(3))
		}), "Bound c-db-0+newer StatefulSet/db"},
		{"two holders, both proven gone", with(shared(), bind(keeps, db)), "Bound c-db-0 StatefulSet/db"},

		{"Reserved → Bound", with(freed(keeps, db), bind(keeps, dbAgain)), "Bound c-db-0-again StatefulSet/db"},
		{"Reserved → Bound, the pool keeps no more", with(freed(keeps, db), bind(keepsNot, dbAgain)), "Bound c-db-0-again -"},
		{"Reserved → Released", with(freed(keeps, db), unreserve), "Released c-db-0 - released 2"},
		{"Reserved → Released, never used", with(operator(set), unreserve), "Released - - released 5"},
		{"Reserved → Released, the identity has another", with(freed(keeps, db), disown), "Released c-db-0 - released 2"},
		{"Bound → Bound, the identity has another", with(claim(keeps, db), disown), "Bound c-db-0 -"},
		{"Reserved → Quarantined", with(freed(keeps, db), quarantine), "Quarantined c-db-0 - released 2 conflict"},

		{"operator's → Bound", with(operator(identity("Pod", "db-0")), bind(keeps, db)), "Bound c-db-0 Pod/db-0"},
		{"operator's → Bound, of a pool that keeps nothing", with(operator(identity("Pod", "db-0")), bind(keepsNot, db)), "Bound c-db-0 Pod/db-0"},
		{"operator's, used → Reserved again", with(operator(identity("Pod", "db-0")), bind(keeps, db), release(db)), "Reserved c-db-0 Pod/db-0 released 4"},
		{"operator's, used in vain → Reserved again", with(operator(identity("Pod", "db-0")), bind(keeps, db), drop(db)), "Reserved c-db-0 Pod/db-0 released 4"},
		{"operator's, Released by hand → another's", with(operator(identity("Pod", "db-0")), func(l *v1alpha1.IPLease) { l.Spec.Phase = released }, bind(keeps, web)), "Bound c-web -"},

		{"Released → Bound", with(freed(keeps, web), bind(keeps, db)), "Bound c-db-0 StatefulSet/db"},
		{"Released → Quarantined", with(freed(keeps, web), quarantine), "Quarantined c-web - released 2 conflict"},
		{"Quarantined → Released", with(freed(keeps, web), quarantine, func(l *v1alpha1.IPLease) { l.Spec.Phase = released }, bind(keeps, db)), "Bound c-db-0 StatefulSet/db"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := inShort(tc.got); got != tc.want {
				t.Errorf("%s\nwant %s", got, tc.want)
			}
			l, again := tc.got, tc.got.DeepCopy()
			if l.Spec.Identity != nil || l.Spec.Holder != nil { // labels say what the spec says
				label(again)
				if diff := cmp.Diff(again.Labels, l.Labels); diff != "" && l.Spec.Holder != nil {
					t.Errorf("labels (-of the spec +got):\n%s", diff)
				}
			}
			if (l.Spec.Next != nil) != (l.Labels[v1alpha1.LabelNextNode] != "") {
				t.Errorf("next %v, labels %v", l.Spec.Next, l.Labels)
			}
		})
	}

	// What is written is the lease's own.
	l := claim(keeps, db)
	l.Spec.Identity.Name, l.Spec.Holder.Pod = "x", "x"
	if set.Name != "db" || db.Holder.Pod != "db-0" {
		t.Error("a lease shares memory with its claimant")
	}
}

// Who holds a lease, in each phase, seen from a node and from a sandbox.
func TestHolders(t *testing.T) {
	l := &v1alpha1.IPLease{}
	l.Spec.Holder = &v1alpha1.LeaseHolder{UID: "a", Node: "n1", ContainerID: "c1", Interface: "net1"}
	l.Spec.Next = &v1alpha1.LeaseHolder{UID: "b", Node: "n2", ContainerID: "c2", Interface: "net1"}
	for _, phase := range []v1alpha1.LeasePhase{bound, reserved, released, quarantined} {
		l.Spec.Phase = phase
		var uids []string
		for _, h := range Holders(l) {
			uids = append(uids, string(h.UID))
		}
		want, is := "", phase == bound
		if is {
			want = "a b"
		}
		if got := strings.Join(uids, " "); got != want {
			t.Errorf("%s: holders %q", phase, got)
		}
		for node, uid := range map[string]types.UID{"n1": "a", "n2": "b", "n3": ""} {
			if h := HolderOn(l, node); (h != nil) != (is && uid != "") || h != nil && h.UID != uid {
				t.Errorf("%s: on %s %+v", phase, node, h)
			}
		}
		if SameSandbox(l, "c1", "net1") != is || SameSandbox(l, "c2", "net1") != is || SameSandbox(l, "c2", "net2") || SameSandbox(l, "c3", "net1") {
			t.Errorf("%s: SameSandbox", phase)
		}
	}
}
