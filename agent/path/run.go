//go:build linux

package path

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	period   = 30 * time.Second
	settling = 50 * time.Millisecond // a change of links or addresses comes as a burst of events
)

// interest is which links' events matter. A node's other links come and go with every pod.
type interest struct {
	names   map[string]bool
	indexes map[int]bool
}

func (p *Path) interests() *interest {
	in := &interest{map[string]bool{}, map[int]bool{}}
	for parent := range p.desired {
		in.names[parent] = true
	}
	for parent, v := range p.vmacs {
		in.names[parent] = true
		in.indexes[v.index], in.indexes[v.parentIndex] = true, true
	}
	return in
}

// Run keeps the path as wanted until ctx ends: on changes of what is wanted, on events of links and addresses, and every
// half minute. The path itself outlives it.
func (p *Path) Run(ctx context.Context) error {
	events, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return fmt.Errorf("subscribe to link and address events: %w", err)
	}
	var done sync.WaitGroup
	done.Go(func() { p.watch(ctx, events) })
	done.Go(func() { p.seat(ctx) })
	defer func() {
		events.Close()
		done.Wait()
		p.setWatching(false)
	}()
	p.setWatching(true)

	complaint, mend := "", false
	for {
		wait, err := p.turn(mend)
		switch now := fmt.Sprint(err); {
		case err == nil && complaint != "":
			p.log.Info("service path is complete again")
			complaint = ""
		case err != nil && now != complaint:
			p.log.Error("service path is incomplete; will try again", "err", err)
			complaint = now
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-p.kick:
			mend = false
			select {
			case <-ctx.Done():
			case <-time.After(settling):
			}
		case <-timer.C:
			mend = wait == period
		}
		timer.Stop()
	}
}

// turn is one round of Run. It says when the next is due at the latest.
func (p *Path) turn(mend bool) (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.prefixes == nil {
		return period, nil
	}
	if _, err := p.kernel(); err != nil {
		return period, err
	}
	err := p.reconcile(mend)
	p.warnForward()
	wait := period
	for _, v := range p.vmacs {
		if left := time.Until(v.idleSince.Add(p.cfg.Idle)); !v.idleSince.IsZero() && p.synced && err == nil {
			wait = min(wait, max(left, 10*time.Millisecond))
		}
	}
	return wait, err
}

// seat has programs find new endpoints faster, until ctx ends. It is apart from Run's turns, as ADDs would wait for the kernel with those.
func (p *Path) seat(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.fresh:
		}
		programs := map[string]program{}
		p.mu.Lock()
		for _, v := range p.vmacs {
			programs[v.name] = v.program
		}
		p.mu.Unlock()
		for name, program := range programs {
			if err := program.Seat(); err != nil {
				p.log.Warn("what pods send to Services is judged more slowly than it could be", "link", name, "err", err)
			}
		}
	}
}

// unseated tells of endpoints that were told to a program.
func (p *Path) unseated() {
	select {
	case p.fresh <- struct{}{}:
	default: // it is known already
	}
}

func (p *Path) setWatching(on bool) {
	p.mu.Lock()
	p.watching = on
	p.mu.Unlock()
}

// watch wakes Run for events that matter, until the socket is closed.
func (p *Path) watch(ctx context.Context, events *nl.NetlinkSocket) {
	for ctx.Err() == nil {
		messages, _, err := events.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // events were lost, so anything may have changed
			p.wake()
			continue
		case err != nil:
			if ctx.Err() == nil {
				p.log.Error("link and address events are lost from now on; only looking every half minute", "err", err)
				p.setWatching(false)
			}
			return
		}
		if slices.ContainsFunc(messages, func(m syscall.NetlinkMessage) bool { return p.matters(m.Header.Type, m.Data) }) {
			p.wake()
		}
	}
}

func (p *Path) matters(kind uint16, data []byte) bool {
	switch kind {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return len(data) >= unix.SizeofIfAddrmsg && nl.DeserializeIfAddrmsg(data).Scope == unix.RT_SCOPE_UNIVERSE
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		mine := p.mine.Load()
		if mine == nil || len(data) < unix.SizeofIfInfomsg {
			return false
		}
		message := nl.DeserializeIfInfomsg(data)
		if mine.indexes[int(message.Index)] {
			return true
		}
		attrs, err := nl.ParseRouteAttr(data[message.Len():])
		if err != nil {
			return true
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_IFNAME {
				return mine.names[strings.TrimRight(string(a.Value), "\x00")]
			}
		}
	}
	return false
}

// warnForward tells, once, of a firewall that may swallow what pods send to services.
func (p *Path) warnForward() {
	if len(p.vmacs) == 0 {
		return
	}
	chains, err := droppingForward()
	if err != nil {
		p.log.Debug("cannot look for firewalls", "err", err)
		return
	}
	now := strings.Join(chains, ", ")
	if now != "" && now != p.warned {
		links := slices.Sorted(maps.Keys(p.interests().names))
		p.log.Warn("a firewall of this node drops forwarded packets by default; if macvlan pods do not reach services on "+
			"other nodes, make it accept what comes in by or leaves to vmac links", "chains", now, "parents", links)
	}
	p.warned = now
}
