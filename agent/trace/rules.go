//go:build linux

package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/service"
)

// tracer hears what the node's nftables rules, whoever's, drop of a pod's packets. For that it marks them in a table of its own, which
// belongs to its socket: the kernel removes it with that, in whatever way that goes (NFT_TABLE_F_OWNER, kernel 5.12).
type tracer struct {
	marks  *netlink.Conn // of the table
	events *netlink.Conn
	from   map[uint32]flow // by the kernel's number of a packet: only its first event in a chain has headers
}

const (
	traceTable = "berth-watch"
	tableOwner = 2    // NFT_TABLE_F_OWNER of linux/netfilter/nf_tables.h
	mostFlows  = 4096 // that are remembered
	nfgenmsg   = 4    // bytes
)

type flow struct {
	src, dst netip.AddrPort
	protocol uint8
	length   int
}

// newTracer marks what comes in by the vmacs from the addresses, to one of the frontends if there are some.
func newTracer(vmacs []string, from []netip.Addr, to []service.Frontend, perSecond uint32) (_ *tracer, err error) {
	t := &tracer{from: map[uint32]flow{}}
	defer func() {
		if err != nil {
			_ = t.close()
			err = fmt.Errorf("nftables: watch what rules drop: %w", err)
		}
	}()
	if t.events, err = netlink.Dial(unix.NETLINK_NETFILTER, nil); err != nil {
		return nil, err
	}
	if err := t.events.JoinGroup(unix.NFNLGRP_NFTRACE); err != nil {
		return nil, err
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		t.marks = c
		return nil
	}))
	if err != nil {
		return nil, err
	}
	if err := ownTable(t.marks); err != nil {
		return nil, err
	}
	table := &nftables.Table{Name: traceTable, Family: nftables.TableFamilyINet}
	before := nftables.ChainPriority(-350) // before conntrack, and who translates
	chain := conn.AddChain(&nftables.Chain{Name: "mark", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: &before})
	for _, vmac := range vmacs {
		for _, a := range from {
			if len(to) == 0 {
				conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: marking(vmac, a, nil, perSecond)})
			}
			for _, f := range to {
				if f.Address.Is4() == a.Is4() {
					conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: marking(vmac, a, &f, perSecond)})
				}
			}
		}
	}
	return t, conn.Flush()
}

// ownTable makes the table the socket's own, which the library does not do.
func ownTable(c *netlink.Conn) error {
	generic := func(family byte, resource uint16) []byte {
		return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	}
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: []byte(traceTable + "\x00")},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, tableOwner)},
	})
	if err != nil {
		return err
	}
	sent, err := c.SendMessages([]netlink.Message{
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request}, Data: generic(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)},
		{Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE, Flags: netlink.Request | netlink.Acknowledge | netlink.Create},
			Data: append(generic(byte(nftables.TableFamilyINet), 0), attrs...)},
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: netlink.Request}, Data: generic(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)},
	})
	if err != nil {
		return err
	}
	replies, err := c.Receive() // the acknowledgement
	if err != nil {
		return err
	}
	return netlink.Validate(sent[1], replies)
}

func marking(vmac string, from netip.Addr, to *service.Frontend, perSecond uint32) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, vmac)
	family, src, dst := byte(unix.NFPROTO_IPV4), uint32(12), uint32(16)
	if from.Is6() {
		family, src, dst = unix.NFPROTO_IPV6, 8, 24
	}
	is := func(value []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value} }
	at := func(base expr.PayloadBase, offset uint32, value []byte) []expr.Any {
		return []expr.Any{&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: uint32(len(value))}, is(value)}
	}
	all := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, is(name),
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, is([]byte{family}),
	}
	all = append(all, at(expr.PayloadBaseNetworkHeader, src, from.AsSlice())...)
	if to != nil {
		all = append(all, at(expr.PayloadBaseNetworkHeader, dst, to.Address.AsSlice())...)
		all = append(all, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, is([]byte{byte(to.Protocol)}))
		all = append(all, at(expr.PayloadBaseTransportHeader, 2, binary.BigEndian.AppendUint16(nil, to.Port))...)
	}
	return append(all, &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(perSecond), Unit: expr.LimitTimeSecond, Burst: perSecond},
		&expr.Immediate{Register: 1, Data: []byte{1}}, &expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: 1})
}

// read waits for drops, no longer than until then (os.ErrDeadlineExceeded).
func (t *tracer) read(until time.Time) (drops []report.Packet, err error) {
	if err := t.events.SetReadDeadline(until); err != nil {
		return nil, err
	}
	messages, err := t.events.Receive()
	if errors.Is(err, unix.ENOBUFS) { // some were lost
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if m.Header.Type != unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_TRACE || len(m.Data) < nfgenmsg {
			continue
		}
		p, err := t.event(m.Data[nfgenmsg:])
		if err != nil {
			return drops, fmt.Errorf("nftables: trace: %w", err)
		}
		if p != nil {
			drops = append(drops, *p)
		}
	}
	return drops, nil
}

// event is a drop, or nil.
func (t *tracer) event(data []byte) (*report.Packet, error) {
	attrs, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return nil, err
	}
	attrs.ByteOrder = binary.BigEndian
	const accept = 1 // NF_ACCEPT; NF_DROP is 0
	var id, kind uint32
	var table, chain string
	var network, transport []byte
	verdict, policy := uint32(accept), uint32(accept)
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_TRACE_ID:
			id = attrs.Uint32()
		case unix.NFTA_TRACE_TYPE:
			kind = attrs.Uint32()
		case unix.NFTA_TRACE_TABLE:
			table = attrs.String()
		case unix.NFTA_TRACE_CHAIN:
			chain = attrs.String()
		case unix.NFTA_TRACE_NETWORK_HEADER:
			network = attrs.Bytes()
		case unix.NFTA_TRACE_TRANSPORT_HEADER:
			transport = attrs.Bytes()
		case unix.NFTA_TRACE_POLICY:
			policy = attrs.Uint32()
		case unix.NFTA_TRACE_VERDICT:
			attrs.Nested(func(in *netlink.AttributeDecoder) error {
				for in.Next() {
					if in.Type() == unix.NFTA_VERDICT_CODE {
						verdict = in.Uint32()
					}
				}
				return nil
			})
		}
	}
	if err := attrs.Err(); err != nil {
		return nil, err
	}
	if f, ok := dissect(network, transport); ok {
		if len(t.from) >= mostFlows {
			clear(t.from)
		}
		t.from[id] = f
	}
	if !(kind == unix.NFT_TRACETYPE_RULE && verdict == 0 || kind == unix.NFT_TRACETYPE_POLICY && policy == 0) {
		return nil, nil
	}
	f, ok := t.from[id]
	if !ok {
		return nil, nil
	}
	p := &report.Packet{Time: time.Now(), At: "rules drop", Rule: fmt.Sprintf("table %s, chain %s", table, chain), From: f.src.Addr().String(), To: f.dst.Addr().String(), Length: f.length}
	if f.src.Port() != 0 {
		p.From, p.To = f.src.String(), f.dst.String()
	}
	p.Protocol = service.Protocol(f.protocol).String()
	return p, nil
}

// dissect the headers that an event has.
func dissect(network, transport []byte) (f flow, ok bool) {
	var src, dst netip.Addr
	switch {
	case len(network) >= 20 && network[0]>>4 == 4:
		src, dst = netip.AddrFrom4([4]byte(network[12:16])), netip.AddrFrom4([4]byte(network[16:20]))
		f.protocol, f.length = network[9], int(binary.BigEndian.Uint16(network[2:]))
	case len(network) >= 40 && network[0]>>4 == 6:
		src, dst = netip.AddrFrom16([16]byte(network[8:24])), netip.AddrFrom16([16]byte(network[24:40]))
		f.protocol, f.length = network[6], 40+int(binary.BigEndian.Uint16(network[4:]))
	default:
		return f, false
	}
	f.length += 14 // of the frame, as elsewhere
	var ports [2]uint16
	if p := service.Protocol(f.protocol); len(transport) >= 4 && (p == service.TCP || p == service.UDP || p == service.SCTP) {
		ports = [2]uint16{binary.BigEndian.Uint16(transport), binary.BigEndian.Uint16(transport[2:])}
	}
	f.src, f.dst = netip.AddrPortFrom(src, ports[0]), netip.AddrPortFrom(dst, ports[1])
	return f, true
}

func (t *tracer) close() error {
	var errs []error
	for _, c := range []*netlink.Conn{t.marks, t.events} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// follow tells of drops until the context's end, or an error.
func (t *tracer) follow(done <-chan struct{}, tell func(report.Packet) error) error {
	for {
		select {
		case <-done:
			return nil
		default:
		}
		drops, err := t.read(time.Now().Add(renewEvery / 4))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		for _, p := range drops {
			if err := tell(p); err != nil {
				return err
			}
		}
	}
}
