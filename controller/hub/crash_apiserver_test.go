//go:build apiserver

package hub

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/carve"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// TestCrash ends a member's controller at each of its writes in turn, here and in the hub, while it makes, grows, shrinks and takes back a
// pool of pairs in two blocks, and has the other member take all that is left in the hub. Nothing may be in two hands then, and the next
// controller must come to the same end.
func TestCrash(t *testing.T) {
	for _, op := range []struct {
		name     string
		from, to int32 // sizes of the pool; -1: none
	}{
		{"carve", -1, 100},
		{"grow", 100, 300},
		{"shrink", 300, 100},
		{"delete", 100, -1},
	} {
		apitest.DieAtEach(t, op.name+", ", counts, func(t *testing.T, m *apitest.Mortal) bool { return crash(t, op.from, op.to, m) })
	}
}

// counts says whether a write is one of blocks, pools or Subnets, or the claim of a name. Signs of life come whenever they do.
func counts(r *http.Request) bool {
	sign := r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/hubmembers/")
	return strings.Contains(r.URL.Path, "/berth.dev/") && !strings.HasSuffix(r.URL.Path, "/status") && !sign
}

func crash(t *testing.T, from, to int32, m *apitest.Mortal) bool {
	w := newWorld(t)
	s := w.subnet(v1alpha1.PairingIndex, "10.6.0.0/22", "fd00:6::/118")
	a, b := w.members[0], w.members[1]
	var p string
	if from >= 0 {
		stop := a.start(nil)
		a.wantInStep(s, "True InStep")
		p = a.pool(s, from)
		a.wantHas(p, int(2*from))
		stop()
	}
	switch {
	case from < 0:
		p = a.pool(s, to)
	case to < 0:
		a.remove(p)
	default:
		a.resize(p, to)
	}
	settled := func() error {
		w.check()
		blocks := a.blocks()
		if want := 2 * ((int(to) + 255) / 256); len(blocks) != want {
			return fmt.Errorf("%d blocks, want %d", len(blocks), want)
		}
		for i := range blocks {
			if blocks[i].Spec.Cluster != "" {
				return fmt.Errorf("block %s is claimed, or returns", blocks[i].Name)
			}
		}
		if to < 0 {
			return nil
		}
		return a.has(p, int(2*to))
	}
	stop := a.start(m.Into)
	died := false
	apitest.Eventually(t, "the end", func() error {
		select {
		case <-m.Dead():
			died = true
			return nil
		default:
			return settled()
		}
	})
	stop()
	t.Logf("died: %t, at %s", died, m.Last())

	b.start(nil)
	b.wantInStep(s, "True InStep")
	all := 254 * w.unclaimed("10.6.%d.0", "fd00:6::%d00") // of what is left, and so at least one address of each block
	q := b.pool(s, all)
	b.wantHas(q, int(2*all))
	w.check()
	b.resize(q, 200)
	stop = a.start(nil)
	b.wantHas(q, 400)
	apitest.Eventually(t, "the end, with another controller", settled)
	w.check()
	if to >= 0 {
		a.remove(p)
	}
	b.remove(q)
	w.wantNoBlocks()
	a.wantFree(s, "1022 + 1022")
	stop()
	return died
}

// unclaimed is how many pairs of the first four blocks of two CIDRs are nobody's in the hub.
func (w *world) unclaimed(cidrs ...string) (n int32) {
	w.Helper()
	claimed := map[string]bool{}
	for _, b := range w.hub.blocks() {
		claimed[b.Name] = true
	}
	for i := range 4 {
		if !slices.ContainsFunc(cidrs, func(c string) bool { return claimed[carve.Name(w.network, netip.MustParseAddr(fmt.Sprintf(c, i)))] }) {
			n++
		}
	}
	return n
}
