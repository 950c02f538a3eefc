//go:build linux

package path

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/tests/netns"
)

// TestSCTP: a kernel may have no SCTP sockets (see TestSCTPAssociation). An INIT by a raw socket shows the translation.
func TestSCTP(t *testing.T) {
	w := newTwoNodes(t)
	w.n1.serve()
	for i, k := range w.kinds() {
		if k.name == "itself" {
			continue // its raw socket would hear the INIT on its way out
		}
		s, vips := virtual(i+1, k.server)
		w.n1.set(s)
		for family, network := range []string{"ip4:132", "ip6:132"} {
			var server net.PacketConn
			var client net.Conn
			var err, err2 error
			k.ns.Do(func() { server, err = net.ListenPacket(network, k.server[family].String()) })
			w.client.Do(func() { client, err2 = net.Dial(network, vips[family].String()) })
			if err := errors.Join(err, err2); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Write(sctpInit()); err != nil {
				t.Fatal(err)
			}
			_ = server.SetReadDeadline(time.Now().Add(2 * time.Second))
			b := make([]byte, 1000)
			_, from, err := server.ReadFrom(b)
			if err != nil {
				t.Errorf("%s %s: %v", k.name, vips[family], err)
			} else if seen, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP); !slices.Contains(k.behind, seen.Unmap()) {
				t.Errorf("%s %s: the server saw %s; want one of %s", k.name, vips[family], seen, k.behind)
			}
			server.Close()
			client.Close()
		}
	}
}

// TestSCTPAssociation: the whole of it, where the kernel has SCTP sockets.
func TestSCTPAssociation(t *testing.T) {
	if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP); err != nil {
		t.Skipf("no SCTP sockets in this kernel: %v", err)
	} else {
		unix.Close(fd)
	}
	w := newTwoNodes(t)
	for _, k := range w.served() {
		for family, vip := range k.vips {
			t.Run(fmt.Sprintf("%s %s", k.name, vip), func(t *testing.T) {
				server := sctpSocket(t, k.ns, netip.AddrPortFrom(k.server[family], port))
				if err := unix.Listen(server, 1); err != nil {
					t.Fatal(err)
				}
				seen := make(chan error, 1)
				go func() { seen <- sctpEcho(server, k.behind) }()
				client := sctpSocket(t, w.client.NS, netip.AddrPortFrom(w.client.addrs[family], 0))
				err := unix.Connect(client, sockaddr(netip.AddrPortFrom(vip, port)))
				if err == nil {
					_, err = unix.Write(client, []byte("x"))
				}
				b := make([]byte, 100)
				n := 0
				if err == nil {
					n, err = unix.Read(client, b)
				}
				if err != nil || string(b[:n]) != "x" {
					t.Errorf("said x, heard %q, %v", b[:n], err)
				}
				if err := <-seen; err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// sctpEcho says once what it hears, and whether it is from one of those.
func sctpEcho(server int, from []netip.Addr) error {
	fd, peer, err := unix.Accept(server)
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	defer unix.Close(fd)
	b := make([]byte, 100)
	n, err := unix.Read(fd, b)
	if err == nil {
		_, err = unix.Write(fd, b[:n])
	}
	var seen netip.Addr
	switch a := peer.(type) {
	case *unix.SockaddrInet4:
		seen = netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		seen = netip.AddrFrom16(a.Addr)
	}
	if err == nil && !slices.Contains(from, seen) {
		err = fmt.Errorf("the server saw %s; want one of %s", seen, from)
	}
	return err
}

// sctpSocket of an address and a port; it gives up after two seconds.
func sctpSocket(t *testing.T, ns *netns.NS, at netip.AddrPort) (fd int) {
	t.Helper()
	var err error
	ns.Do(func() { fd, err = unix.Socket(family(at.Addr()), unix.SOCK_STREAM, unix.IPPROTO_SCTP) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	wait := &unix.Timeval{Sec: 2}
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, wait),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, wait), unix.Bind(fd, sockaddr(at))); err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	return fd
}

func sctpInit() []byte {
	p := make([]byte, 12+20)
	binary.BigEndian.PutUint16(p[0:], 40000)
	binary.BigEndian.PutUint16(p[2:], port)
	p[12] = 1 // INIT
	binary.BigEndian.PutUint16(p[14:], 20)
	binary.BigEndian.PutUint32(p[16:], 0x1234) // tag
	binary.BigEndian.PutUint32(p[20:], 65536)  // window
	binary.BigEndian.PutUint16(p[24:], 1)      // streams
	binary.BigEndian.PutUint16(p[26:], 1)
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return p
}
