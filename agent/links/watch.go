//go:build linux

package links

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const settling = 200 * time.Millisecond

// interest is which links' events matter. A node's other links come and go with every pod.
type interest struct {
	names   map[string]bool
	indexes map[int]bool
}

func (l *Links) setInterest(wants []Want, now Observed) {
	in := interest{map[string]bool{}, map[int]bool{}}
	for _, w := range wants {
		names := append(w.made(), w.Parent)
		if w.Bond != nil {
			names = append(names, w.Bond.Members...)
		}
		for _, name := range names {
			in.names[name] = true
		}
	}
	for name, link := range now {
		if link.owner() != "" {
			in.names[name] = true
		}
		if in.names[name] {
			in.indexes[link.Index] = true
		}
	}
	l.mu.Lock()
	l.interest = in
	l.mu.Unlock()
}

// watch wakes Run for events that matter, until stop.
func (l *Links) watch(ctx context.Context) (stop func(), err error) {
	events, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("subscribe to link and address events: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			messages, _, err := events.Receive()
			if err != nil && !errors.Is(err, unix.ENOBUFS) { // which is: events were lost, so anything may have changed
				if ctx.Err() == nil {
					l.log.Error("link events are lost from now on; only looking from time to time", "every", l.cfg.Period, "err", err)
				}
				return
			}
			if err != nil || slices.ContainsFunc(messages, l.matters) {
				l.wake()
			}
		}
	}()
	return func() {
		events.Close()
		<-done
	}, nil
}

func (l *Links) matters(m syscall.NetlinkMessage) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch m.Header.Type {
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return len(m.Data) >= unix.SizeofIfAddrmsg && l.interest.indexes[int(binary.NativeEndian.Uint32(m.Data[4:]))]
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(m.Data) < unix.SizeofIfInfomsg {
			return false
		}
		info := nl.DeserializeIfInfomsg(m.Data)
		if l.interest.indexes[int(info.Index)] {
			return true
		}
		attrs, err := nl.ParseRouteAttr(m.Data[info.Len():])
		if err != nil {
			return true
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_IFNAME {
				return l.interest.names[strings.TrimRight(string(a.Value), "\x00")]
			}
		}
	}
	return false
}
