package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// SCTP by raw sockets, as a kernel may have none of its own: the first two packets of an association. The INIT ACK says who asked, in
// a padding parameter.
const (
	sctpInit, sctpInitAck = 1, 2
	sctpPadding           = 0x8005 // RFC 4820
	sctpWho               = 8080
)

// sctpPacket with one chunk, INIT or INIT ACK.
type sctpPacket struct {
	from, to     uint16 // ports
	tag, initTag uint32
	kind         byte
	padding      []byte
}

func (p sctpPacket) bytes() []byte {
	b := make([]byte, 12+20)
	binary.BigEndian.PutUint16(b[0:], p.from)
	binary.BigEndian.PutUint16(b[2:], p.to)
	binary.BigEndian.PutUint32(b[4:], p.tag)
	b[12] = p.kind
	binary.BigEndian.PutUint32(b[16:], p.initTag)
	binary.BigEndian.PutUint32(b[20:], 65536) // window
	binary.BigEndian.PutUint16(b[24:], 1)     // streams
	binary.BigEndian.PutUint16(b[26:], 1)
	if len(p.padding) > 0 {
		b = binary.BigEndian.AppendUint16(b, sctpPadding)
		b = binary.BigEndian.AppendUint16(b, uint16(4+len(p.padding)))
		b = append(b, p.padding...)
	}
	binary.BigEndian.PutUint16(b[14:], uint16(len(b)-12))
	b = append(b, make([]byte, -len(b)&3)...)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func parseSCTP(b []byte) (p sctpPacket, ok bool) {
	if len(b) < 32 {
		return p, false
	}
	p = sctpPacket{from: binary.BigEndian.Uint16(b[0:]), to: binary.BigEndian.Uint16(b[2:]), tag: binary.BigEndian.Uint32(b[4:]),
		kind: b[12], initTag: binary.BigEndian.Uint32(b[16:])}
	if b = b[32:]; len(b) > 4 && binary.BigEndian.Uint16(b) == sctpPadding {
		if n := int(binary.BigEndian.Uint16(b[2:])); n >= 4 && n <= len(b) {
			p.padding = b[4:n]
		}
	}
	return p, p.kind == sctpInit || p.kind == sctpInitAck
}

func whoSCTP(ctx context.Context, to string) (a Answer, err error) {
	host, portText, err := net.SplitHostPort(to)
	if err != nil {
		return a, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return a, err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "ip:132", host)
	if err != nil {
		return a, err
	}
	defer c.Close()
	end, _ := ctx.Deadline()
	if err := c.SetDeadline(end); err != nil {
		return a, err
	}
	init := sctpPacket{from: uint16(32768 + rand.IntN(28000)), to: uint16(port), kind: sctpInit, initTag: rand.Uint32() | 1}
	if _, err := c.Write(init.bytes()); err != nil {
		return a, err
	}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := c.(*net.IPConn).ReadFrom(buf)
		if err != nil {
			return a, err
		}
		if p, ok := parseSCTP(buf[:n]); ok && p.kind == sctpInitAck && p.to == init.from && p.tag == init.initTag {
			return a, json.Unmarshal(p.padding, &a)
		}
	}
}

// whoAssociations answers INITs of one family, "ip4:132" or "ip6:132", from the address at which each came.
func whoAssociations(c *net.IPConn, network string) error {
	var err error
	if network == "ip4:132" {
		err = tellDestination(c, syscall.IPPROTO_IP, syscall.IP_PKTINFO)
	} else {
		err = tellDestination(c, syscall.IPPROTO_IPV6, syscall.IPV6_RECVPKTINFO)
	}
	if err != nil {
		return err
	}
	buf, control := make([]byte, 64<<10), make([]byte, 256)
	for {
		n, nc, _, from, err := c.ReadMsgIP(buf, control)
		if err != nil {
			return err
		}
		b := buf[:n]
		if network == "ip4:132" && n > 0 { // has its header
			b = b[min(n, int(b[0]&15)*4):]
		}
		p, ok := parseSCTP(b)
		if !ok || p.kind != sctpInit || p.to != sctpWho {
			continue
		}
		oob, local := destination(control[:nc])
		remote, _ := netip.AddrFromSlice(from.IP)
		text := answerTo(netip.AddrPortFrom(remote.Unmap(), p.from).String(), netip.AddrPortFrom(local, p.to).String(), "SCTP")
		ack := sctpPacket{from: p.to, to: p.from, tag: p.initTag, initTag: rand.Uint32() | 1, kind: sctpInitAck, padding: bytes.TrimSpace(text)}
		if _, _, err := c.WriteMsgIP(ack.bytes(), oob, from); errors.Is(err, net.ErrClosed) {
			return err
		}
	}
}
