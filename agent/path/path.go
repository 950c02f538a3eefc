//go:build linux

// Package path keeps the service path of one node, in steering mode: for each parent link that has macvlan pods a sibling
// on the host (vmac) with the program of package bpf on it, and around it what the host needs: sysctls, multicast groups, a
// route and a permanent neighbour per pod address, and a table that masquerades.
//
// It works on levels, not on edges. What is wanted is held here; what is there is read from the kernel; the difference is
// acted on. So it does not matter who changed what, or whether an agent died in the middle. It works in the network
// namespace of its process, and owns there only links with the alias "berth", routes of protocol 98 on them, their permanent
// neighbours, and the nftables tables "inet berth" and "inet berth-tenants".
package path

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
)

// Endpoint is one address of one local pod interface that is a macvlan child in bridge mode of Parent.
type Endpoint struct {
	Parent  string
	Address netip.Addr
	MAC     net.HardwareAddr
}

// Config does not change while the agent runs.
type Config struct {
	NodeName string
	PinDir   string        // on a bpffs, say /sys/fs/bpf/berth
	Idle     time.Duration // how long a vmac without endpoints is kept
}

// Prefixes are what is steered, besides the node's own addresses, which Path finds itself.
type Prefixes struct {
	Services, Pods, User []netip.Prefix
	LocalPods            []netip.Prefix // pod CIDRs of this node: its overlay pods see the client's own address
	Served               bool           // Services are translated on this node, if at all: what is for one and is not does not leave
}

// ErrNoPrefixes says that SetPrefixes has not been called. An agent that restarts finds a working path, and must not take
// prefixes out of it only because it does not know them yet.
var ErrNoPrefixes = errors.New("the steered prefixes are not known yet")

// Path is the service path of this node.
type Path struct {
	cfg   Config
	log   *slog.Logger
	kick  chan struct{}            // wakes Run
	fresh chan struct{}            // wakes seat
	mine  atomic.Pointer[interest] // which links' events matter
	see   func(Sighting)           // nil: nobody is told

	tell func(links []string) error // nil: nobody is told

	listeners sync.WaitGroup // to programs

	mu         sync.Mutex
	k          *kernel
	prefixes   *Prefixes // nil: not known yet
	changed    bool      // prefixes changed since the last reconciliation
	synced     bool      // desired is complete, so that what is not in it may go
	desired    endpoints
	multihomed []netip.Addr        // sorted
	watched    map[string]Watched  // by parent
	others     *[]OtherNode        // nil: not known yet
	onLink     map[netip.Addr]bool // addresses of others, at the last look
	tenants    Tenants
	vmacs      map[string]*vmac              // by parent
	asks       map[string]map[netip.Addr]mac // see askLater; by parent
	own        []ownAddress
	strays     []netlink.Addr // addresses on vmacs
	watching   bool           // own is kept fresh by events
	warned     string
}

// New has no effect on the node.
func New(cfg Config, log *slog.Logger) *Path {
	return &Path{cfg: cfg, log: log, kick: make(chan struct{}, 1), fresh: make(chan struct{}, 1), desired: endpoints{}, vmacs: map[string]*vmac{},
		asks: map[string]map[netip.Addr]mac{}}
}

// SetPrefixes says what is to be steered. Run, or the next Attach or Sync, carries it out.
func (p *Path) SetPrefixes(prefixes Prefixes) {
	clean, err := prefixes.normalized()
	if err != nil {
		p.log.Error("steered prefixes ignored; correct the agent's configuration", "err", err)
	}
	p.mu.Lock()
	p.prefixes, p.changed = &clean, true
	p.mu.Unlock()
	p.wake()
}

// SetMultihomed says which addresses are of pods of this node that have a macvlan interface besides the overlay's: those of either
// interface. See ruleset. Run carries it out.
func (p *Path) SetMultihomed(addrs []netip.Addr) {
	addrs = slices.Clone(addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	p.mu.Lock()
	same := slices.Equal(p.multihomed, addrs)
	p.multihomed = addrs
	p.mu.Unlock()
	if !same {
		p.wake()
	}
}

// OnLinks has f told the names of the vmacs, before a pod is answered that its path is complete. It may be called with what it knows
// already, and must not call back. Call it before anything else.
func (p *Path) OnLinks(f func(links []string) error) { p.tell = f }

// Attach makes the path for these endpoints and returns when it is complete. If it fails, none of them is attached that
// was not before, and an address that was another MAC's is that again.
func (p *Path) Attach(ctx context.Context, eps ...Endpoint) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.usable(ctx); err != nil {
		return err
	}

	parents := map[string]map[netip.Addr]mac{}
	var added, replaced []Endpoint
	defer func() {
		if err != nil {
			restored := p.restore(replaced)
			_, undone := p.detach(added)
			err = errors.Join(err, restored, undone)
		}
	}()
	for _, ep := range eps {
		before, had := p.desired[ep.Parent][ep.Address.Unmap()]
		addr, m, err := p.desired.put(ep)
		if err != nil {
			return err
		}
		if !had {
			added = append(added, ep)
		} else if before != m {
			replaced = append(replaced, Endpoint{ep.Parent, addr, before[:]})
		}
		if parents[ep.Parent] == nil {
			parents[ep.Parent] = map[netip.Addr]mac{}
		}
		parents[ep.Parent][addr] = m
		if before != m {
			p.askLater(ep.Parent, addr, m)
		}
	}
	if err := forward(p.log, anyIs4(parents), anyIs6(parents)); err != nil {
		return err
	}
	for parent, addrs := range parents {
		if err := p.attach(parent, addrs); err != nil {
			return err
		}
	}
	return nil
}

// Detach takes endpoints out. Those that are not attached, or attached with another MAC by now, are no error; an empty Parent
// or MAC stands for any. The vmac stays for Config.Idle after its last endpoint.
func (p *Path) Detach(ctx context.Context, eps ...Endpoint) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := p.kernel(); err != nil {
		return err
	}
	idle, err := p.detach(eps)
	if idle || err != nil { // the one has a time to wait for, the other something to mend
		p.wake()
	}
	return err
}

// Sync sets the whole set of endpoints, as an agent does at its start, before any Attach or Detach. From then on what is
// not wanted is removed. One endpoint that cannot be had does not keep back the others.
func (p *Path) Sync(ctx context.Context, all []Endpoint) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.usable(ctx); err != nil {
		return err
	}
	var errs []error
	desired := endpoints{}
	for _, ep := range all {
		_, _, err := desired.put(ep)
		errs = append(errs, err)
	}
	p.desired, p.synced = desired, true
	return errors.Join(append(errs, p.reconcile(false))...)
}

// Steered is what pods route via the service gateway: services, pods, user prefixes and the node's own addresses. The
// order is stable.
func (p *Path) Steered() []netip.Prefix {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.watching {
		if err := p.readOwn(); err != nil {
			p.log.Warn("the node's own addresses may be out of date", "err", err)
		}
	}
	var prefixes Prefixes
	if p.prefixes != nil {
		prefixes = *p.prefixes
	}
	return steered(prefixes, p.own)
}

// Close lets go of descriptors. The path lives on.
func (p *Path) Close() error {
	defer p.listeners.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for parent, v := range p.vmacs {
		errs = append(errs, v.program.Close())
		delete(p.vmacs, parent)
	}
	if p.k != nil {
		p.k.close()
		p.k = nil
	}
	return errors.Join(errs...)
}

func (p *Path) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.prefixes == nil {
		return ErrNoPrefixes
	}
	_, err := p.kernel()
	return err
}

func (p *Path) kernel() (*kernel, error) {
	if p.k == nil {
		k, err := openKernel()
		if err != nil {
			return nil, fmt.Errorf("open routing netlink: %w", err)
		}
		p.k = k
	}
	return p.k, nil
}

func (p *Path) wake() {
	select {
	case p.kick <- struct{}{}:
	default: // awake already
	}
}
