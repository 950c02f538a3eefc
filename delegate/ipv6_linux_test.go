package delegate_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/tests/netns"
)

// TestIPv6AtOnce: a pod's first connection, across a router, is from its own address. The kernel may still have to do what ADD queued, but
// detects no duplicates: meanwhile the pod would ask in the name of its link-local address, which no router forwards, or nothing at all.
func TestIPv6AtOnce(t *testing.T) {
	node := newNode(t, "macvlan")
	agent := newAgent(t, func(string, delegate.Request) (int, string) {
		return 200, `{"cniVersion":"1.1.0","ips":[{"address":"fd00:6::7/64"}],"routes":[{"dst":"fd00:9::/64","gw":"fd00:6::1"}]}`
	})
	pod, own := netns.New(t), netip.MustParseAddr("fd00:6::7")
	list := confList(t, `{"cniVersion":"1.0.0","name":"vlan910","plugins":[{"type":"macvlan","master":"parent0","mode":"bridge",
		"ipam":{"type":"berth","socket":%q}}]}`, agent.socket)
	netns.IP(t, node.NS, "address add fd00:6::1/64 dev wire0 nodad\naddress add fd00:9::1/128 dev lo nodad\n")
	netns.Run(t, node.NS, "", "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	var wire int
	var server net.Listener
	node.Do(func() {
		wire = listen(t, "wire0")
		var err error
		if server, err = net.Listen("tcp", "[fd00:9::1]:0"); err != nil {
			t.Fatal(err)
		}
		if _, err := node.cni.AddNetworkList(t.Context(), list, runtimeConf(pod)); err != nil {
			t.Fatalf("ADD: %v", err)
		}
	})
	defer server.Close()
	const tentative = unix.IFA_F_TENTATIVE | unix.IFA_F_OPTIMISTIC
	for end := time.Now().Add(10 * time.Second); flagsOf(t, pod, own)&tentative != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s is tentative still", own)
		}
	}
	if slices.Contains(detected(t, wire), own) {
		t.Errorf("the kernel looked for duplicates of %s", own)
	}

	var conn net.Conn
	var err error
	pod.Do(func() { conn, err = net.Dial("tcp", server.Addr().String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if from := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr(); from != own {
		t.Errorf("the pod connects as %s, not as %s", from, own)
	}
}

// flagsOf an address of the namespace.
func flagsOf(t *testing.T, ns *netns.NS, address netip.Addr) (flags int) {
	t.Helper()
	found := false
	ns.Do(func() {
		list, err := netlink.AddrList(nil, unix.AF_INET6) //nolint:forbidigo // nobody else changes this namespace
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			if address.String() == a.IP.String() {
				flags, found = a.Flags, true
			}
		}
	})
	if !found {
		t.Fatalf("%s is not there", address)
	}
	return flags
}

// listen gives a packet socket that gets all IPv6 of a link.
func listen(t *testing.T, link string) (fd int) {
	t.Helper()
	l, err := net.InterfaceByName(link)
	if err != nil {
		t.Fatal(err)
	}
	if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	ipv6 := binary.NativeEndian.Uint16([]byte{unix.ETH_P_IPV6 >> 8, unix.ETH_P_IPV6 & 0xff})
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ipv6, Ifindex: l.Index}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// detected drains the socket, and gives the targets of duplicate address detection: of neighbour solicitations from the unspecified address
// (RFC 4862, 5.4.2).
func detected(t *testing.T, fd int) (targets []netip.Addr) {
	t.Helper()
	b := make([]byte, 1500)
	for {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if errors.Is(err, unix.EAGAIN) {
			return targets
		}
		if err != nil {
			t.Fatal(err)
		}
		const solicitation = 135
		if from.(*unix.SockaddrLinklayer).Pkttype != unix.PACKET_OUTGOING && n >= 64 && b[6] == unix.IPPROTO_ICMPV6 && b[40] == solicitation &&
			netip.AddrFrom16([16]byte(b[8:24])).IsUnspecified() {
			targets = append(targets, netip.AddrFrom16([16]byte(b[48:64])))
		}
	}
}
