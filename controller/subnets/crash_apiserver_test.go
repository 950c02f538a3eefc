//go:build apiserver

package subnets

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/subnets/subnettest"
	"github.com/berthdev/berth/ipam/carve"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// TestCrash ends the controller at each of its writes in turn, while it makes, grows, shrinks and takes back a pool of pairs in several
// blocks beside another one. Nothing may overlap then, and the next controller must come to the same end.
func TestCrash(t *testing.T) {
	const large, small = 300, 20
	for _, op := range []struct {
		name     string
		from, to int32 // sizes of the pool; -1: none
	}{
		{"carve", -1, large},
		{"grow", small, large},
		{"shrink", large, small},
		{"delete", large, -1},
	} {
		apitest.DieAtEach(t, op.name+", ", counts, func(t *testing.T, m *apitest.Mortal) bool { return crash(t, op.from, op.to, m) })
	}
}

// counts says whether a write is one of blocks or pools.
func counts(r *http.Request) bool {
	return (strings.Contains(r.URL.Path, "/ipblocks") || strings.Contains(r.URL.Path, "/ippools")) && !strings.HasSuffix(r.URL.Path, "/status")
}

func crash(t *testing.T, from, to int32, m *apitest.Mortal) bool {
	w := newWorld(t)
	s := w.subnet(v1alpha1.PairingIndex, "10.6.0.0/20", "fd00:6::/116")
	neighbour := pool("neighbour-"+s.Name, s, 30)
	p := pool("pool-"+s.Name, s, max(from, to))
	w.create(neighbour)
	if from >= 0 {
		p.Spec.Size = &from
		w.create(p)
	}
	w.before(s)

	switch {
	case from < 0:
		w.create(p)
	case to < 0:
		w.remove(p)
	default:
		w.resize(p, to)
	}
	_, stop := w.start(m.Into(w.rc), Config{ReturnAfter: short})
	died := false
	apitest.Eventually(t, "the end", func() error {
		w.blocks()
		select {
		case <-m.Dead():
			died = true
			return nil
		default:
			return w.settled(p, to)
		}
	})
	stop()
	w.check()
	t.Logf("died: %t, at %s", died, m.Last())

	_, stop = w.start(w.rc, Config{ReturnAfter: short})
	apitest.Eventually(t, "the end, with another controller", func() error { w.check(); return w.settled(p, to) })
	w.wantIPs(neighbour.Name, ips(w.get(neighbour.Name)))
	w.remove(neighbour)
	if to >= 0 {
		w.remove(p)
	}
	w.wantNoBlocks()
	w.wantFree(s.Name, "4094 + 4094")
	stop()
	return died
}

// before has a controller come to rest, and end.
func (w *world) before(s *v1alpha1.Subnet) {
	w.Helper()
	_, stop := w.start(w.rc, Config{ReturnAfter: short})
	defer stop()
	apitest.Eventually(w.T, "the beginning", func() error {
		var pools v1alpha1.IPPoolList
		if err := w.admin.List(context.Background(), &pools); err != nil {
			return err
		}
		for i := range pools.Items {
			if p := &pools.Items[i]; p.Spec.Network == w.network {
				if err := w.settled(p, *p.Spec.Size); err != nil {
					return err
				}
			}
		}
		return nil
	})
	w.wantReady(s.Name, "True")
}

// settled says whether blocks and pool both have come to size; -1: the pool is gone.
func (w *world) settled(p *v1alpha1.IPPool, size int32) error {
	w.Helper()
	had, returning := uint64(0), 0
	for _, b := range w.blocks() {
		for _, part := range b.Parts {
			switch {
			case part.Owner.Pool != p.Name:
			case part.Had():
				had += carve.Size(part.Range)
			default:
				returning++
			}
		}
	}
	if want := 2 * uint64(max(size, 0)); had != want || returning > 0 {
		return fmt.Errorf("the blocks have %d addresses of the pool, want %d, and %d ranges that return", had, want, returning)
	}
	if size < 0 {
		return nil
	}
	return w.lists(w.get(p.Name), size)
}

// lists says whether a pool of pairs lists size of them.
func (w *world) lists(p *v1alpha1.IPPool, size int32) error {
	if got := subnettest.Condition(p.Status.Conditions, v1alpha1.PoolCarved); !strings.HasPrefix(got, "True Carved") {
		return errors.New(got)
	}
	n := int32(0)
	for _, e := range p.Spec.Subnets {
		for _, r := range e.IPs {
			n += int32(carve.Size(parse(w.T, r)))
		}
	}
	if n != 2*size {
		return fmt.Errorf("pool %s lists %d addresses, want %d: %s", p.Name, n, 2*size, ips(p))
	}
	return nil
}

// TestTwoControllers have two of them, without election, carve from one Subnet whatever random pools want. At no time do two pools have
// an address, and in the end everyone has what it wants.
func TestTwoControllers(t *testing.T) {
	w := newWorld(t)
	w.start(w.rc, Config{ReturnAfter: time.Nanosecond})
	w.start(w.rc, Config{ReturnAfter: time.Nanosecond})
	s := w.subnet(v1alpha1.PairingIndex, "10.6.0.0/22", "fd00:6::/118")
	random := rand.New(rand.NewPCG(5, 7))
	pools := map[int]*v1alpha1.IPPool{}
	for range 200 {
		k := random.IntN(12)
		size := random.Int32N(60)
		switch p := pools[k]; {
		case p == nil:
			p = pool(fmt.Sprintf("two-%d-%s", k, s.Name), s, size)
			w.create(p)
			pools[k] = p
		case random.IntN(4) == 0:
			w.remove(p)
			delete(pools, k)
		default:
			w.resize(p, size)
			p.Spec.Size = &size
		}
		w.check()
	}
	for _, p := range pools {
		apitest.Eventually(t, "pool "+p.Name, func() error { w.check(); return w.settled(p, *p.Spec.Size) })
	}
	for _, p := range pools {
		w.remove(p)
	}
	w.wantNoBlocks()
	w.wantFree(s.Name, "1022 + 1022")
}

// TestCycles: a hundred times pools are made, grow, shrink and go, the last address included; the subnet has all of its addresses after
// each.
func TestCycles(t *testing.T) {
	w := newWorld(t)
	w.start(w.rc, Config{ReturnAfter: time.Nanosecond})
	s := w.subnet("", "10.6.0.0/27")
	for i := range 100 {
		a, b := w.pool(s, 5), w.pool(s, 3)
		w.wantCarved(a.Name, "True Carved")
		w.wantCarved(b.Name, "True Carved")
		w.resize(a, 27)
		apitest.Eventually(t, "all", func() error { return w.counts(a, 27) })
		w.resize(a, 2)
		apitest.Eventually(t, "few", func() error { return w.counts(a, 2) })
		w.check()
		w.remove(a)
		w.remove(b)
		w.wantNoBlocks()
		if i%10 == 9 {
			w.wantFree(s.Name, "30")
		}
	}
}

// counts says whether the blocks and the pool, of IPv4 alone, have so many addresses.
func (w *world) counts(p *v1alpha1.IPPool, size uint64) error {
	w.Helper()
	var listed, had uint64
	for _, e := range w.get(p.Name).Spec.Subnets {
		for _, r := range e.IPs {
			listed += carve.Size(parse(w.T, r))
		}
	}
	for _, b := range w.blocks() {
		for _, part := range b.Parts {
			if part.Owner.Pool == p.Name && part.Had() {
				had += carve.Size(part.Range)
			}
		}
	}
	if listed != size || had != size {
		return fmt.Errorf("it lists %d and has %d, want %d", listed, had, size)
	}
	return nil
}
