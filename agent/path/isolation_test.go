//go:build linux

package path

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthdev/berth/bpf"
	"golang.org/x/sys/unix"
)

func TestStrangersAreDropped(t *testing.T) {
	c := newCluster(t, 2)
	n := c.nodes[0]
	n.start()
	good := n.attached(1)
	stranger := n.pod(2)
	n.steer(stranger)
	spoofer := n.pod(3)
	n.steer(spoofer)
	ip(t, spoofer.NS, "address add %s/32 dev net1\naddress add %s/128 dev net1 nodad\n", good.addrs[0], good.addrs[1])
	for i, gateway := range []string{"169.254.1.1", "fe80::1"} { // as if it had answered, and with good's address as source
		mac := n.vmac().HardwareAddr
		for _, p := range []*pod{stranger, spoofer} {
			ip(t, p.NS, "neigh replace %s lladdr %s dev net1 nud permanent\n", gateway, mac)
		}
		ip(t, spoofer.NS, "route replace %s via %s dev net1 src %s\n", host(n.own()[i]), gateway, good.addrs[i])
	}
	serve(t, n.NS, n.own()...)

	before := n.counts()
	for _, a := range n.own() {
		if _, err := ask(good.NS, "tcp", a); err != nil {
			t.Errorf("good to %s: %v", a, err)
		}
		for name, p := range map[string]*pod{"stranger": stranger, "spoofer": spoofer} {
			if seen, err := ask(p.NS, "tcp", a); err == nil {
				t.Errorf("%s reached %s as %s", name, a, seen)
			}
		}
	}
	after := n.counts()
	for _, reason := range []string{"drop_spoofed_address", "drop_spoofed_mac"} {
		if after[reason] <= before[reason] {
			t.Errorf("%s: %d before, %d after", reason, before[reason], after[reason])
		}
	}
}

func (n *node) counts() map[string]uint64 {
	n.t.Helper()
	return n.must("counters").Counters[n.vmac().Name]
}

func TestGatewayOfEachNode(t *testing.T) { askForGateways(t, newCluster(t, 2)) }

func askForGateways(t *testing.T, c *cluster) {
	n1, n2 := c.nodes[0], c.nodes[1]
	n1.start()
	n2.start()
	p1, p2 := n1.attached(1), n2.attached(1)
	var asked atomic.Int64
	c.countGatewayQuestions(&asked)
	gateways := []netip.Addr{bpf.Gateway4, bpf.Gateway6}

	// Each node's pod has its own node's MAC, and no question leaves the node.
	for range 3 {
		for _, g := range gateways {
			for n, p := range map[*node]*pod{n1: p1, n2: p2} {
				if got, want := p.resolve(t, g), n.vmac().HardwareAddr.String(); got != want {
					t.Errorf("node %d: %s is at %q, want %s", n.n, g, got, want)
				}
			}
		}
	}
	if asked.Load() != 0 {
		t.Errorf("%d questions for the gateway on the wire", asked.Load())
	}

	// Where a node has no path, its pod's question goes to the wire, and the other node does not answer it.
	if err := n2.cleanup(); err != nil {
		t.Fatal(err)
	}
	before := n1.counts()
	for _, g := range gateways {
		if got := p2.resolve(t, g); got != "" {
			t.Errorf("%s is at %s, of another node", g, got)
		}
	}
	if asked.Load() == 0 {
		t.Error("no question counted: this test sees nothing")
	}
	after := n1.counts()
	for _, reason := range []string{"drop_arp_stranger", "drop_nd_stranger"} {
		if after[reason] <= before[reason] {
			t.Errorf("%s: %d before, %d after", reason, before[reason], after[reason])
		}
	}
}

// resolve asks anew who has an address, and says what MAC was learnt.
func (p *pod) resolve(t testing.TB, a netip.Addr) string {
	t.Helper()
	run(t, p.NS, "", "ip", "neigh", "flush", "to", a.String(), "dev", "net1")
	to := "10.96.255.1"
	if a.Is6() {
		to = "2001:db8:96::ffff"
	}
	for deadline := time.Now().Add(1500 * time.Millisecond); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		p.Do(func() {
			if fd, err := unix.Socket(family(a), unix.SOCK_DGRAM, 0); err == nil { // makes the kernel ask
				_ = unix.Sendto(fd, []byte("x"), 0, sockaddr(netip.AddrPortFrom(netip.MustParseAddr(to), port)))
				unix.Close(fd)
			}
		})
		fields := strings.Fields(run(t, p.NS, "", "ip", "neigh", "show", "to", a.String(), "dev", "net1"))
		for i, f := range fields {
			if f == "lladdr" {
				return fields[i+1]
			}
		}
	}
	return ""
}

func family(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// countGatewayQuestions counts who-has and neighbour solicitations for the gateway that any port of the underlay sees.
func (c *cluster) countGatewayQuestions(n *atomic.Int64) {
	c.t.Helper()
	var fd int
	var err error
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8)
	c.wire.Do(func() { fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(all)) })
	if err != nil {
		c.t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000}); err != nil {
		c.t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	c.t.Cleanup(func() { close(stop); <-done; unix.Close(fd) })
	go func() {
		defer close(done)
		frame := make([]byte, 2048)
		for {
			select {
			case <-stop:
				return
			default:
			}
			size, _, err := unix.Recvfrom(fd, frame, 0)
			if err == nil && asksForGateway(frame[:size]) {
				n.Add(1)
			}
		}
	}()
}

func asksForGateway(frame []byte) bool {
	if len(frame) < 42 {
		return false
	}
	switch fmt.Sprintf("%x", frame[12:14]) {
	case "0806":
		return bytes.Equal(frame[38:42], bpf.Gateway4.AsSlice())
	case "86dd":
		return len(frame) >= 78 && frame[20] == unix.IPPROTO_ICMPV6 && frame[54] == 135 && bytes.Equal(frame[62:78], bpf.Gateway6.AsSlice())
	}
	return false
}
