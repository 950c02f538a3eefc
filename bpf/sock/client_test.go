package sock

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/tests/netns"
)

// socket is one of an application, by plain system calls, in the pod.
type socket struct {
	*netns.NS
	fd     int
	family int
}

// newSocket of a family and SOCK_STREAM or SOCK_DGRAM. It gives up on what takes long.
func (l *lab) newSocket(ns *netns.NS, family, kind int) *socket {
	l.Helper()
	s := &socket{ns, -1, family}
	ns.Do(func() {
		var err error
		s.fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		l.must(err)
	})
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		limit := unix.NsecToTimeval(wait.Nanoseconds())
		l.must(unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, option, &limit))
	}
	return s
}

func (s *socket) close() { unix.Close(s.fd) }

func (s *socket) address(a netip.AddrPort) unix.Sockaddr {
	if s.family == unix.AF_INET {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())} // v4-mapped, if need be
}

func addrPort(a unix.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

func (s *socket) connect(to netip.AddrPort) error {
	return again(func() error { return unix.Connect(s.fd, s.address(to)) })
}

// disconnect makes the socket one that may connect anew.
func (s *socket) disconnect() error {
	unspecified := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&unspecified)), unsafe.Sizeof(unspecified))
	if errno != 0 {
		return errno
	}
	return nil
}

func (s *socket) peer() (netip.AddrPort, error) {
	a, err := unix.Getpeername(s.fd)
	return addrPort(a), err
}

// send names no address if there is none.
func (s *socket) send(to netip.AddrPort) error {
	return again(func() error {
		if !to.IsValid() {
			return unix.Send(s.fd, []byte("?"), 0)
		}
		return unix.Sendto(s.fd, []byte("?"), 0, s.address(to))
	})
}

// receive returns the answer and whom it is from.
func (s *socket) receive() (who string, from netip.AddrPort, err error) {
	buffer := make([]byte, 512)
	err = again(func() error {
		n, a, err := unix.Recvfrom(s.fd, buffer, 0)
		if err == nil {
			who, from = string(buffer[:n]), addrPort(a)
		}
		return err
	})
	return who, from, err
}

// again: the runtime interrupts threads as it likes.
func again(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// way of an application to use a Service.
type style struct {
	name      string
	family    int
	datagrams bool
	connected bool
	vip       netip.Addr
}

var styles = []style{
	{"tcp/v4", unix.AF_INET, false, true, vip4},
	{"tcp/v6", unix.AF_INET6, false, true, vip6},
	{"tcp/v4-mapped", unix.AF_INET6, false, true, vip4},
	{"udp/v4", unix.AF_INET, true, true, vip4},
	{"udp/v6", unix.AF_INET6, true, true, vip6},
	{"udp/v4-mapped", unix.AF_INET6, true, true, vip4},
	{"unconnected/v4", unix.AF_INET, true, false, vip4},
	{"unconnected/v6", unix.AF_INET6, true, false, vip6},
	{"unconnected/v4-mapped", unix.AF_INET6, true, false, vip4},
}

func (st style) socket(l *lab, ns *netns.NS) *socket {
	l.Helper()
	if st.datagrams {
		return l.newSocket(ns, st.family, unix.SOCK_DGRAM)
	}
	return l.newSocket(ns, st.family, unix.SOCK_STREAM)
}

// answer is what an application sees of one question.
type answer struct {
	Who        string         // says who answered
	From, Peer netip.AddrPort // what recvfrom and getpeername say; not valid where they say nothing
}

// ask uses the socket for a question, in the style.
func (st style) ask(s *socket, to netip.AddrPort) (a answer, err error) {
	if st.connected {
		if err := s.connect(to); err != nil {
			return a, fmt.Errorf("connect: %w", err)
		}
		if a.Peer, err = s.peer(); err != nil {
			return a, fmt.Errorf("getpeername: %w", err)
		}
	}
	if st.datagrams {
		named := to
		if st.connected {
			named = netip.AddrPort{}
		}
		if err := s.send(named); err != nil {
			return a, fmt.Errorf("send: %w", err)
		}
	}
	if a.Who, a.From, err = s.receive(); err != nil {
		return a, fmt.Errorf("receive: %w", err)
	}
	return a, nil
}

// ask asks once, by a new socket.
func (l *lab) ask(st style, to netip.AddrPort) (answer, error) {
	l.Helper()
	s := st.socket(l, l.pod)
	defer s.close()
	return st.ask(s, to)
}

// who answers a new connection.
func (l *lab) who(st style) string {
	l.Helper()
	a, err := l.ask(st, netip.AddrPortFrom(st.vip, port80))
	l.must(err)
	return a.Who
}

func eventually(f func() bool) bool {
	for end := time.Now().Add(wait); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return true
		}
	}
	return false
}
