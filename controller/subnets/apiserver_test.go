//go:build apiserver

package subnets

import (
	"testing"
	"time"
)

func TestPoolFollowsItsSize(t *testing.T) {
	w := newWorld(t)
	w.start(w.rc, Config{ReturnAfter: short})
	s := w.subnet("", "10.6.0.0/16", "fd00:6::/64")
	p := w.pool(s, 5)
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.5 fd00:6::1-fd00:6::5")
	q := w.pool(s, 3)
	w.wantIPs(q.Name, "10.6.0.6-10.6.0.8 fd00:6::6-fd00:6::8")
	w.resize(p, 7)
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.5 10.6.0.9-10.6.0.10 fd00:6::1-fd00:6::5 fd00:6::9-fd00:6::a")
	w.wantFree(s.Name, "65524 + 2^64")
	w.resize(p, 2)
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.2 fd00:6::1-fd00:6::2")
	w.check()
	w.wantFree(s.Name, "65529 + 2^64")
	w.remove(p)
	w.remove(q)
	w.wantNoBlocks()
	w.wantFree(s.Name, "65534 + 2^64")
	w.wantReady(s.Name, "True Serving")
	if err := w.admin.Delete(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	w.gone(s)
}

var _ = time.Second
