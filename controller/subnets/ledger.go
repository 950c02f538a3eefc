package subnets

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
)

// ledger reads the blocks of networks from the cache and from what it wrote itself, which the cache may not have seen yet, and writes
// them. What it does not know costs another try, never an address: every write is compared by the API server with what was read.
type ledger struct {
	cached, live client.Reader
	writer       client.Writer
	blocks       Blocks

	mu       sync.Mutex
	networks map[string]*sync.Mutex
	own      map[string]note        // by name of the block
	parsed   map[types.UID]*reading // of blocks in the cache
}

// note of a block as it was written or last seen by ourselves.
type note struct {
	block   *v1alpha1.IPBlock // nil: deleted
	version string
	at      time.Time
}

type reading struct {
	version string
	block   *carve.Block
}

func newLedger(c client.Client, live client.Reader, blocks Blocks) *ledger {
	return &ledger{cached: c, live: live, writer: c, blocks: blocks, networks: map[string]*sync.Mutex{}, own: map[string]note{}, parsed: map[types.UID]*reading{}}
}

// lock a network: in one process, one at a time decides over it. Among processes the writes decide.
func (l *ledger) lock(network string) (unlock func()) {
	l.mu.Lock()
	m := l.networks[network]
	if m == nil {
		m = &sync.Mutex{}
		l.networks[network] = m
	}
	l.mu.Unlock()
	m.Lock()
	return m.Unlock
}

// read the blocks of a network, by their first address. The caller holds its lock, or only looks.
func (l *ledger) read(ctx context.Context, network string) (map[netip.Addr]*v1alpha1.IPBlock, error) {
	var list v1alpha1.IPBlockList
	if err := l.cached.List(ctx, &list, client.MatchingFields{networkIndex: network}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	seen := make(map[string]*v1alpha1.IPBlock, len(list.Items))
	for i := range list.Items {
		seen[list.Items[i].Name] = &list.Items[i]
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, n := range l.own {
		if of, _, err := ipam.ParseLeaseName(name); err != nil || of != network {
			continue
		}
		cached := seen[name]
		switch {
		case cached == nil && n.block == nil,
			cached != nil && n.block == nil && newer(cached.ResourceVersion, n.version),
			cached != nil && n.block != nil && !newer(n.version, cached.ResourceVersion):
			delete(l.own, name) // the cache has come so far
		case time.Since(n.at) > maxLag:
			// The cache ought to have seen it: someone else changed it since, and the cache has missed that it ever was so.
			delete(l.own, name)
		case n.block == nil:
			delete(seen, name)
		default:
			seen[name] = n.block
		}
	}
	out := make(map[netip.Addr]*v1alpha1.IPBlock, len(seen))
	for _, b := range seen {
		if _, first, err := ipam.ParseLeaseName(b.Name); err == nil {
			out[first] = b
		}
	}
	return out, nil
}

// maxLag of the cache behind our own writes.
const maxLag = 30 * time.Second

func newer(a, b string) bool {
	n, err := resourceversion.CompareResourceVersion(a, b)
	return err != nil || n > 0
}

// book of the blocks. One that is not understood is full.
func (l *ledger) book(objects map[netip.Addr]*v1alpha1.IPBlock) *carve.Book {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.parsed) > 2*len(objects)+10000 {
		clear(l.parsed) // of blocks that are gone, most of them
	}
	blocks := make([]*carve.Block, 0, len(objects))
	for first, o := range objects {
		r := l.parsed[o.UID]
		if r == nil || r.version != o.ResourceVersion {
			b, err := carve.Read(o)
			if err != nil {
				b = carve.Full(first)
			}
			r = &reading{o.ResourceVersion, b}
			l.parsed[o.UID] = r
		}
		blocks = append(blocks, r.block)
	}
	return carve.NewBook(blocks...)
}

// errAgain means that somebody else was faster, or that the cache had not seen all: decide again.
var errAgain = errors.New("the blocks have changed meanwhile")

// write the blocks that are changed in the book, in order, against the objects that it was made of. At the first that fails it stops.
func (l *ledger) write(ctx context.Context, network string, s *v1alpha1.Subnet, book *carve.Book, objects map[netip.Addr]*v1alpha1.IPBlock) error {
	for _, b := range book.Changed() {
		name := carve.Name(network, b.First)
		old := objects[b.First]
		var err error
		switch {
		case old == nil && len(b.Parts) == 0:
			continue
		case old == nil:
			o := &v1alpha1.IPBlock{}
			o.Name, o.Spec.Network, o.Spec.First = name, network, b.First.String()
			b.Write(&o.Spec)
			if err = l.blocks.Claim(ctx, s, o); err == nil {
				l.note(name, o, o.ResourceVersion)
				blocksMade.Inc()
			}
		case len(b.Parts) == 0:
			if err = l.blocks.GiveBack(ctx, old.DeepCopy()); err == nil || apierrors.IsNotFound(err) {
				l.note(name, nil, old.ResourceVersion)
				l.forget(old.UID)
				blocksDeleted.Inc()
				err = nil
			}
		default:
			o := old.DeepCopy()
			b.Write(&o.Spec)
			if err = l.writer.Update(ctx, o); err == nil {
				l.note(name, o, o.ResourceVersion)
			}
		}
		if err != nil {
			return l.failed(ctx, name, err)
		}
	}
	return nil
}

// failed looks at the block that could not be written, so that the next try begins with what it is.
func (l *ledger) failed(ctx context.Context, name string, err error) error {
	var now v1alpha1.IPBlock
	switch e := l.live.Get(ctx, client.ObjectKey{Name: name}, &now); {
	case e == nil:
		l.note(name, &now, now.ResourceVersion)
	default:
		l.mu.Lock()
		delete(l.own, name)
		l.mu.Unlock()
	}
	if errors.Is(err, ErrElsewhere) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		carveConflicts.Inc()
		return errAgain
	}
	return fmt.Errorf("block %q: %w", name, err)
}

func (l *ledger) note(name string, b *v1alpha1.IPBlock, version string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own[name] = note{b, version, time.Now()}
}

func (l *ledger) forget(uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.parsed, uid)
}
