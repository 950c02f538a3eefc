package store

import (
	"testing"

	"github.com/berthdev/berth/api/v1alpha1"
)

func TestUsers(t *testing.T) {
	lease := func(pool, node string) *v1alpha1.IPLease {
		l := &v1alpha1.IPLease{}
		l.Spec.Pool = pool
		if node != "" {
			l.Spec.Holder = &v1alpha1.LeaseHolder{Node: node}
		}
		return l
	}
	var u users
	want := func(pool, node string, rank, nodes int) {
		t.Helper()
		if r, n := u.rank(pool, node); r != rank || n != nodes {
			t.Errorf("%s of pool %s has rank %d of %d, want %d of %d", node, pool, r, n, rank, nodes)
		}
	}
	want("p", "b", 0, 1)
	u.move(nil, lease("p", "c"))
	u.move(nil, lease("p", "a"))
	u.move(nil, lease("p", "a"))
	u.move(nil, lease("other", "d"))
	u.move(nil, lease("p", "")) // quarantined, never held
	want("p", "a", 0, 2)
	want("p", "b", 1, 3) // does not use it yet
	want("p", "c", 1, 2)
	want("other", "a", 0, 2)
	u.move(lease("p", "a"), lease("p", "b"))
	want("p", "c", 2, 3)
	u.move(lease("p", "a"), lease("other", "a"))
	want("p", "c", 1, 2)
	want("other", "d", 1, 2)
	u.move(lease("p", "c"), lease("p", "c"))
	u.move(lease("p", ""), nil)
	u.move(lease("p", "b"), nil)
	want("p", "c", 0, 1)
	u.move(lease("p", "c"), nil)
	u.move(lease("other", "d"), nil)
	u.move(lease("other", "a"), nil)
	if len(u) > 0 {
		t.Errorf("without leases: %v", u)
	}
}
