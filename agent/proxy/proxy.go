//go:build linux

// Package proxy serves Services to the macvlan pods of a node where nobody else does: no kube-proxy, or one that does not see what
// comes in by a vmac. It does so in a table of its own, inet berth-services, for connections that come in by vmac links only:
//
//	map services4: daddr . l4proto . dport → chain of a Service's port
//	chain of a port: one of its backends, by chance or as before → dnat
//
// The maps are hash tables, so a packet's way does not get longer with more Services, and a change of a Service touches what is
// the Service's. What leaves the node then is masqueraded by inet berth, which is agent/path's; the two know nothing of each other.
//
// It works on levels: what is wanted is held here, what is there is read from the kernel, the difference is one transaction.
// Whatever fails, or is changed by others, is read anew. A connection that has begun stays with its backend: conntrack has it.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"

	"github.com/berthdev/berth/service"
)

const period = 30 * time.Second

// Proxy is the table and what it should be. Nothing is done to the node before Sync.
type Proxy struct {
	log  *slog.Logger
	wake chan struct{} // flows have to be looked at

	mu     sync.Mutex
	conn   *nftables.Conn // nil: not yet, or after an error
	want   *wanted
	base   base
	synced bool
	have   *state // nil: has to be read
	gen    uint32 // of the ruleset, as far as we know
	left   leftovers
	flows  map[service.Frontend]bool // of UDP, whose flows may have to move
}

// New has no effect on the node.
func New(log *slog.Logger) *Proxy {
	return &Proxy{log: log, wake: make(chan struct{}, 1), want: newWanted(), flows: map[service.Frontend]bool{}, left: newLeftovers()}
}

// SetLinks says by which links the pods come.
func (p *Proxy) SetLinks(names []string) error {
	names = slices.Sorted(slices.Values(names))
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Equal(names, p.base.links) {
		return nil
	}
	p.base.links = names
	return p.reconcile(touched{})
}

// SetServiceCIDRs says which addresses are cluster IPs: what no Service has there is not to leave the node.
func (p *Proxy) SetServiceCIDRs(cidrs []netip.Prefix) error {
	cidrs = slices.Clone(cidrs)
	slices.SortFunc(cidrs, func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) })
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Equal(cidrs, p.base.cidrs) {
		return nil
	}
	p.base.cidrs = cidrs
	return p.reconcile(touched{})
}

// Sync sets all Services at once, as at the start. What the table has of others goes; what is right in it is not touched.
func (p *Proxy) Sync(all []service.Service) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.want = newWanted()
	for _, s := range all {
		p.want.put(s)
	}
	for f := range p.want.claims {
		p.look(f) // whoever was here before us may have died between a change and its flows
	}
	p.synced, p.have = true, nil
	return p.reconcile(touched{})
}

// Set Services, new or not. An error leaves them wanted: the next call, or Run, tries again.
func (p *Proxy) Set(all ...service.Service) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := newTouched()
	for _, s := range all {
		p.lookWhoStayed(s.Name)
		t.add(p.want.put(s))
	}
	return p.reconcile(t)
}

// Delete Services by their names. One that is not there is no error.
func (p *Proxy) Delete(names ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := newTouched()
	for _, name := range names {
		t.add(p.want.remove(name))
	}
	return p.reconcile(t)
}

// Run mends the table and moves UDP flows until ctx ends. The table outlives it.
func (p *Proxy) Run(ctx context.Context) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	flows := &conntrack{}
	defer flows.close()
	complaint := ""
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
			err = p.moveFlows(flows)
		case <-tick.C:
			err = errors.Join(p.mend(), p.moveFlows(flows))
		}
		if now := fmt.Sprint(err); err != nil && now != complaint {
			p.log.Error("the table of Services is incomplete; will try again", "err", err)
			complaint = now
		} else if err == nil {
			complaint = ""
		}
	}
}

// mend looks whether someone else has changed the ruleset, and if so, reads the table anew. It also ends what is left over.
func (p *Proxy) mend() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	gen, err := generation()
	if err != nil {
		return err
	}
	if gen != p.gen {
		p.have = nil
	}
	if err := p.reconcile(touched{}); err != nil {
		return err
	}
	return p.clear()
}

// Remove the table. Connections that are translated already stay so.
func (p *Proxy) Remove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.have, p.synced = nil, false
	p.hangUp()
	return Remove()
}

// Remove the table that any proxy left on this node. None is no error.
func Remove() error {
	conn, err := connect()
	if err != nil {
		return err
	}
	tx := begin(conn)
	tx.dropTable()
	if err := tx.commit(); err != nil {
		return fmt.Errorf("nftables: remove table inet %s: %w", tx.table.Name, err)
	}
	return nil
}

// lookWhoStayed: flows that stayed with endpoints which get nothing new may not any more, and no rule says so.
func (p *Proxy) lookWhoStayed(name string) {
	for _, port := range p.want.services[name].Ports {
		if len(port.Staying) == 0 {
			continue
		}
		for _, f := range port.Frontends {
			p.look(f)
		}
	}
}

func (p *Proxy) look(f service.Frontend) {
	if f.Protocol == service.UDP {
		p.flows[f] = true
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}
