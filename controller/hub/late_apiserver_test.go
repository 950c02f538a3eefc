//go:build apiserver

package hub

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/subnets/subnettest"
	"github.com/berthdev/berth/ipam/carve"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// gate keeps writes of blocks from an API server until it is opened, also those that nobody waits for any more.
type gate struct {
	to    *cluster
	of    func(method, body string) bool
	first bool // only the first one

	mu     sync.Mutex
	n      int
	held   chan struct{} // closed when there is one
	opened chan struct{}
	codes  chan int // of the answers
}

func (c *cluster) gate(first bool, of func(method, body string) bool) *gate {
	g := &gate{to: c, of: of, first: first, held: make(chan struct{}), opened: make(chan struct{}), codes: make(chan int, 1000)}
	c.Cleanup(func() {
		select {
		case <-g.opened:
		default:
			close(g.opened)
		}
	})
	return g
}

func deletion(method, _ string) bool { return method == http.MethodDelete }

// wait until something is held.
func (g *gate) wait() {
	g.to.Helper()
	apitest.Eventually(g.to.T, "a write to "+g.to.name, func() error {
		select {
		case <-g.held:
			return nil
		default:
			return errors.New("there is none")
		}
	})
}

// open the gate; it gives the answer to what was held first.
func (g *gate) open() int {
	close(g.opened)
	return <-g.codes
}

func (g *gate) holds(r *http.Request) bool {
	if r.Method == http.MethodGet || "https://"+r.URL.Host != g.to.rc.Host || !strings.Contains(r.URL.Path, "/ipblocks") {
		return false
	}
	body, err := r.GetBody()
	if err != nil {
		g.to.Error(err)
		return false
	}
	text, _ := io.ReadAll(body)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.of(r.Method, string(text)) || g.first && g.n > 0 {
		return false
	}
	if g.n++; g.n == 1 {
		close(g.held)
	}
	return true
}

func (g *gate) into(rc *rest.Config) *rest.Config {
	return apitest.Wrap(rc, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
		if !g.holds(r) {
			return next.RoundTrip(r)
		}
		late := r.Clone(context.WithoutCancel(r.Context()))
		late.Body, _ = r.GetBody()
		type answer struct {
			*http.Response
			error
		}
		got := make(chan answer, 1)
		go func() {
			<-g.opened
			resp, err := next.RoundTrip(late)
			if err == nil {
				g.codes <- resp.StatusCode
			}
			got <- answer{resp, err}
		}()
		select {
		case a := <-got:
			return a.Response, a.error
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	})
}

// there is the hub's only block of the network.
func (w *world) there() *v1alpha1.IPBlock {
	w.Helper()
	blocks := w.hub.blocks()
	if len(blocks) != 1 {
		w.Fatalf("the hub has %d blocks, want 1: %+v", len(blocks), blocks)
	}
	return &blocks[0]
}

// TestLate: a write that arrives when others have gone on changes nothing. There is one block, and it is the other member's by then.
func TestLate(t *testing.T) {
	// A claimed block that was taken back meanwhile is not opened.
	t.Run("opening", func(t *testing.T) {
		w := newWorld(t)
		s := w.subnet("", "10.6.0.0/24")
		a, b := w.members[0], w.members[1]
		opening := a.gate(true, func(method, body string) bool {
			return (method == http.MethodPut || method == http.MethodPatch) && !strings.Contains(body, `"cluster":"`)
		})
		last := a.gate(true, deletion)
		a.start(func(rc *rest.Config) *rest.Config { return opening.into(last.into(rc)) })
		a.wantInStep(s, "True InStep")
		p := a.pool(s, 20)
		opening.wait()
		last.wait() // it returns, and is gone in the hub

		b.start(nil)
		b.wantInStep(s, "True InStep")
		q := b.pool(s, 20)
		b.wantHas(q, 20)
		if code := opening.open(); code != http.StatusConflict {
			t.Errorf("the late opening: %d", code)
		}
		w.check()
		last.open()
		a.wantCarved(p, "False SubnetExhausted")
		w.check()
		a.remove(p)
		b.remove(q)
		w.wantNoBlocks()
	})

	// In the hub only the very block is deleted that was ours.
	t.Run("return", func(t *testing.T) {
		w := newWorld(t)
		s := w.subnet("", "10.6.0.0/24")
		a, b := w.members[0], w.members[1]
		back := w.hub.gate(true, deletion)
		a.start(back.into)
		a.wantInStep(s, "True InStep")
		p := a.pool(s, 20)
		a.wantHas(p, 20)
		a.remove(p)
		back.wait()

		b.start(nil)
		b.wantInStep(s, "True InStep")
		q := b.pool(s, 20)
		b.wantHas(q, 20) // since it was returned again
		before := w.there()
		if code := back.open(); code != http.StatusConflict {
			t.Errorf("the late deletion: %d", code)
		}
		if after := w.there(); after.UID != before.UID {
			t.Errorf("in the hub there is %+v, was %+v", after, before)
		}
		w.check()
		b.remove(q)
		w.wantNoBlocks()
	})

	// What is ours in the hub and unknown here is not claimed while it is about to be returned.
	t.Run("return of what is unknown", func(t *testing.T) {
		w := newWorld(t)
		s := w.subnet("", "10.6.0.0/24")
		a := w.members[0]
		back := w.hub.gate(false, deletion)
		a.start(back.into)
		a.wantInStep(s, "True InStep")
		var ns corev1.Namespace
		if err := a.admin.Get(t.Context(), client.ObjectKey{Name: "kube-system"}, &ns); err != nil {
			t.Fatal(err)
		}
		stray := &v1alpha1.IPBlock{}
		first := netip.MustParseAddr("10.6.0.0")
		stray.Name, stray.Spec.Network, stray.Spec.First, stray.Spec.Cluster = carve.Name(w.network, first), w.network, first.String(), a.name
		stray.Annotations = map[string]string{v1alpha1.AnnotationClusterUID: string(ns.UID)}
		w.hub.create(stray)
		back.wait()

		p := a.pool(s, 20)
		a.wantCarved(p, "False SubnetExhausted")
		back.open()
		a.wantHas(p, 20)
		if there := w.there(); there.UID == stray.UID {
			t.Error("it was not returned")
		}
		a.remove(p)
		w.wantNoBlocks()
	})
}

// TestUnheard: who has not heard that a block is another's is told so by the claim.
func TestUnheard(t *testing.T) {
	w := newWorld(t)
	s := w.subnet("", "10.6.0.0/24")
	a, b := w.members[0], w.members[1]
	a.every = time.Hour // so that only the claim can tell
	watches := &apitest.Faults{}
	a.start(func(rc *rest.Config) *rest.Config {
		if rc.Host == a.rc.Host {
			return rc
		}
		return watches.Into(rc)
	})
	a.wantInStep(s, "True InStep")
	release := watches.HoldWatches("/ipblocks")
	defer release()
	b.start(nil)
	b.wantInStep(s, "True InStep")
	q := b.pool(s, 20)
	b.wantHas(q, 20)
	p := a.pool(s, 20)
	apitest.Eventually(t, "pool "+p, func() error { w.check(); return a.carved(p, "False SubnetExhausted") })
	w.check()
	a.remove(p)
	b.remove(q)
	w.wantNoBlocks()
}

// TestLeftOtherwise: a hub whose HubMember is not as the member wrote it last was restored, though nobody saw it away: nothing is claimed of it. The claim
// finds that, unless a look that the hub's Subnet asked for comes first.
func TestLeftOtherwise(t *testing.T) {
	w := newWorld(t)
	s := w.subnet("", "10.6.0.0/24")
	a := w.members[0]
	a.every = time.Hour
	a.start(nil)
	a.wantInStep(s, "True InStep")
	w.hub.patch(&v1alpha1.HubMember{ObjectMeta: metav1.ObjectMeta{Name: a.name}}, `{"spec":{"seen":"2026-01-01T00:00:00Z"}}`)
	p := a.pool(s, 20)
	apitest.Eventually(t, "pool "+p, func() error {
		if got := subnettest.Condition(a.get(p).Status.Conditions, v1alpha1.PoolCarved); !strings.HasPrefix(got, "False HubAway") || !strings.Contains(got, "restored from a backup") {
			return errors.New(got)
		}
		return nil
	})
	a.remove(p)
	w.wantNoBlocks()
}
