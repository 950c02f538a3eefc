package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/berthdev/berth/ipam/store"
)

// DefaultMaxSilence is how long the watch of pools may say nothing before an ADD reads them again. An API server says something at least
// once a minute, if only a bookmark (KEP-956). With the time of an ADD it must be less than what the controller's --return-after gives.
const DefaultMaxSilence = 90 * time.Second

// renewTimeout bounds the reading of all pools.
const renewTimeout = 10 * time.Second

// hearing is how far a watch can be relied on. What it says after a long silence may itself be old: what a socket held while the process
// was stopped, or what came in between on its way still.
//
//	state     the watch speaks   is silent for long   begins anew   all are read
//	unsure    unsure             unsure               unsure        sure
//	sure      sure               unsure               unsure        sure
type hearing struct {
	max time.Duration
	now func() time.Time

	mu   sync.Mutex
	last time.Time // when it spoke, or all were read; zero: unsure, as at the beginning
}

func (h *hearing) sure() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.recent(h.now())
}

func (h *hearing) spoke() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := h.now(); h.recent(now) {
		h.last = now
	} else {
		h.last = time.Time{}
	}
}

// recent says whether what was last heard is, by the wall clock too, since the other one stops with the machine; h.mu is held.
func (h *hearing) recent(now time.Time) bool {
	return max(now.Sub(h.last), now.Round(0).Sub(h.last.Round(0))) <= h.max
}

// read at a time, or after it; zero for what cannot be relied on any more.
func (h *hearing) read(at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = at
}

// listen to what a watch says.
func (h *hearing) listen(w watch.Interface, err error) (watch.Interface, error) {
	if err != nil {
		return nil, err
	}
	return watch.Filter(w, func(e watch.Event) (watch.Event, bool) {
		h.spoke()
		return e, true
	}), nil
}

// renew what is known of the pools from the API server itself, if their watch cannot be relied on: of a pool that is carved, an address
// may be another pool's by now. The error is store.ErrUnavailable.
func (p *pools) renew(ctx context.Context) error {
	if p.hearing.sure() {
		return nil
	}
	done := p.reading.DoChan("", func() (any, error) { // not ended by the ADD that came first
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
		defer cancel()
		at := p.hearing.now()
		list, err := p.client.List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("%w: read the pools, of which nothing was heard for more than %s: %w", store.ErrUnavailable, p.hearing.max, err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		there := map[string]bool{}
		for i := range list.Items {
			there[list.Items[i].Name] = true
			p.set(&list.Items[i])
		}
		for name := range p.pools {
			if !there[name] {
				delete(p.pools, name)
				p.stir(name)
			}
		}
		p.upTo = list.ResourceVersion
		p.changed()
		p.hearing.read(at)
		return nil, nil
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return fmt.Errorf("%w: the pools are being read, of which nothing was heard for more than %s; try again", store.ErrUnavailable, p.hearing.max)
	}
}

// anew begins what the watch says, with all pools as they are, or as some cache had them; or as a backup of etcd has them, with earlier
// versions than before.
func (p *pools) anew() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.upTo = ""
	p.hearing.read(time.Time{})
}

// outdated says whether what the watch says of a pool was known when all were last read (KEP-5504: resource versions are ordered); p.mu is held.
func (p *pools) outdated(version string) bool {
	c, err := resourceversion.CompareResourceVersion(version, p.upTo)
	return err == nil && c <= 0
}
