//go:build apiserver

package subnets

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// holdUp a network until so many pools wait for their turn.
func (w *world) holdUp(c *Carver, n int, meanwhile func()) {
	w.Helper()
	unlock := c.ledger.lock(w.network)
	defer unlock()
	meanwhile()
	apitest.Eventually(w.T, "turns", func() error {
		c.turns.mu.Lock()
		defer c.turns.mu.Unlock()
		if waiting := len(c.turns.of[w.network]); waiting != n {
			return fmt.Errorf("%d turns wait, want %d", waiting, n)
		}
		return nil
	})
}

// TestTogether: what waits is written in one write of each block, and who asks for too much, or of another Subnet, keeps nobody from it.
func TestTogether(t *testing.T) {
	w := newWorld(t)
	var writes atomic.Int64
	count := apitest.Count(&writes, func(r *http.Request) bool {
		return r.Method != http.MethodGet && strings.Contains(r.URL.Path, "/ipblocks")
	})
	c, _ := w.start(count(w.rc), Config{ReturnAfter: short})
	s, other := w.subnet("", "10.6.0.0/24"), w.subnet("", "10.7.0.0/24")
	w.wantReady(s.Name, "True")
	w.wantReady(other.Name, "True")
	var pools []*v1alpha1.IPPool
	var large, elsewhere *v1alpha1.IPPool
	w.holdUp(c, 22, func() {
		for range 20 {
			pools = append(pools, w.pool(s, 5))
		}
		large, elsewhere = w.pool(s, 500), w.pool(other, 5)
	})
	for _, p := range pools {
		w.wantCarved(p.Name, "True Carved")
		if err := w.counts(p, 5); err != nil {
			t.Error(err)
		}
	}
	w.wantCarved(large.Name, "False SubnetExhausted")
	w.wantIPs(elsewhere.Name, "10.7.0.1-10.7.0.5")
	w.check()
	if got := writes.Load(); got != 2 {
		t.Errorf("%d writes of blocks for 20 pools of one and one of another, want 2", got)
	}
	// Those that give something up are carved for one by one, beside those that take.
	w.holdUp(c, 20, func() {
		for i, p := range pools {
			w.resize(p, []int32{3, 7}[i%2])
		}
	})
	for i, p := range pools {
		apitest.Eventually(t, "pool "+p.Name, func() error { return w.counts(p, []uint64{3, 7}[i%2]) })
	}
	w.check()
}

// TestTurnLost: a turn that somebody took and did not end, as one who panics, is tried again.
func TestTurnLost(t *testing.T) {
	w := newWorld(t)
	c, _ := w.start(w.rc, Config{ReturnAfter: short})
	s := w.subnet("", "10.6.0.0/24")
	w.wantReady(s.Name, "True")
	p := w.pool(s, 5)
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.5")
	unlock := c.ledger.lock(w.network)
	w.resize(p, 9)
	apitest.Eventually(t, "the turn", func() error {
		if len(c.turns.take(w.network)) == 0 {
			return fmt.Errorf("nobody waits")
		}
		return nil
	})
	unlock()
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.9")
}

// TestCrashTogether ends the controller at each write of what several pools take together, of pairs in several blocks. Nothing may
// overlap then, and the next controller must come to the end.
func TestCrashTogether(t *testing.T) {
	apitest.DieAtEach(t, "", counts, crashTogether)
}

func crashTogether(t *testing.T, m *apitest.Mortal) (died bool) {
	const size = 100
	w := newWorld(t)
	s := w.subnet(v1alpha1.PairingIndex, "10.6.0.0/20", "fd00:6::/116")
	w.before(s)
	c, stop := w.start(m.Into(w.rc), Config{ReturnAfter: short})
	var pools []*v1alpha1.IPPool
	w.holdUp(c, 3, func() {
		for range 3 {
			pools = append(pools, w.pool(s, size))
		}
	})
	all := func() error {
		for _, p := range pools {
			if err := w.settled(p, size); err != nil {
				return err
			}
		}
		return nil
	}
	apitest.Eventually(t, "the end", func() error {
		w.check()
		select {
		case <-m.Dead():
			died = true
			return nil
		default:
			return all()
		}
	})
	stop()
	w.check()
	t.Logf("died: %t, at %s", died, m.Last())
	_, stop = w.start(w.rc, Config{ReturnAfter: short})
	apitest.Eventually(t, "the end, with another controller", func() error { w.check(); return all() })
	for _, p := range pools {
		w.remove(p)
	}
	w.wantNoBlocks()
	w.wantFree(s.Name, "4094 + 4094")
	stop()
	return died
}
