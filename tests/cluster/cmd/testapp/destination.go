package main

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
)

// tellDestination has a socket tell of each packet to which address it came.
func tellDestination(c syscall.Conn, level, option int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(failed, err)
}

// destination is the address to which a packet came, and the control message that sends an answer from there.
func destination(control []byte) (answer []byte, to netip.Addr) {
	messages, _ := syscall.ParseSocketControlMessage(control)
	for _, m := range messages {
		switch {
		case m.Header.Level == syscall.IPPROTO_IPV6 && m.Header.Type == syscall.IPV6_PKTINFO && len(m.Data) >= 20:
			to = netip.AddrFrom16([16]byte(m.Data[:16])).Unmap()
			binary.NativeEndian.PutUint32(m.Data[16:], 0) // by whichever link leads back
		case m.Header.Level == syscall.IPPROTO_IP && m.Header.Type == syscall.IP_PKTINFO && len(m.Data) >= 12:
			to = netip.AddrFrom4([4]byte(m.Data[8:12]))
			binary.NativeEndian.PutUint32(m.Data, 0)
		}
	}
	return control, to
}
