//go:build linux

package path

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/berthdev/berth/bpf"
	"github.com/berthdev/berth/tests/netns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stranger is a host on the wire that is no node, with addresses that it has from nobody.
type stranger struct {
	*netns.NS
	t   testing.TB
	mac net.HardwareAddr
}

func (c *cluster) stranger(addrs ...netip.Addr) *stranger {
	c.t.Helper()
	ns := namespace(c.t)
	pair(c.t, ns, "eth0", c.wire, "stranger")
	ip(c.t, c.wire, "link set stranger master br0 up\n")
	ip(c.t, ns, "link set eth0 up\n")
	for _, a := range addrs {
		if a.Is4() {
			ip(c.t, ns, "address add %s/16 dev eth0\n", a)
		} else {
			ip(c.t, ns, "address add %s/64 dev eth0 nodad\n", a)
			local(c.t, ns, a)
		}
	}
	// The bridge forwards for a port once the kernel has noticed its carrier, which it may do a second later.
	eventually(c.t, 10*time.Second, "the wire serves the stranger", func() (err error) {
		c.wire.Do(func() {
			var link netlink.Link
			if link, err = netlink.LinkByName("stranger"); err == nil && link.Attrs().OperState != netlink.OperUp {
				err = errors.New(link.Attrs().OperState.String())
			}
		})
		return err
	})
	h := &stranger{NS: ns, t: c.t}
	h.Do(func() {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			c.t.Fatal(err)
		}
		h.mac = link.Attrs().HardwareAddr
	})
	return h
}

// asks for target in the name of sender by ARP; who asks for itself announces itself.
func (h *stranger) asks(sender, target string) {
	h.t.Helper()
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	frame := slices.Concat(broadcast, h.mac, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1},
		h.mac, addr("%s", sender).AsSlice(), make([]byte, 6), addr("%s", target).AsSlice())
	h.Do(func() {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			h.t.Fatal(err)
		}
		defer unix.Close(fd)
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			h.t.Fatal(err)
		}
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
			h.t.Fatal(err)
		}
	})
}

// sends a datagram, for which the kernel has to find the neighbour first.
func (h *stranger) sends(from string, to netip.Addr) {
	h.t.Helper()
	h.Do(func() {
		local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
		c, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
		if err != nil {
			h.t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte{0}); err != nil {
			h.t.Fatal(err)
		}
	})
}

// by is a sighting of the host.
func (h *stranger) by(a string) Sighting { return Sighting{"eth0", addr("%s", a), h.mac.String()} }

func (n *node) watch(w Watched) {
	n.t.Helper()
	if _, err := n.call(request{Op: "watch", Watched: map[string]Watched{"eth0": w}}); err != nil {
		n.t.Fatal(err)
	}
}

// sees waits until the node has told exactly these sightings, in any order.
func (n *node) sees(want ...Sighting) {
	n.t.Helper()
	got := map[Sighting]bool{}
	eventually(n.t, 5*time.Second, fmt.Sprintf("node %d sees", n.n), func() error {
		for _, s := range n.must("sighted").Sighted {
			got[s] = true
		}
		for _, s := range want {
			if !got[s] {
				return fmt.Errorf("saw %v, want %v", slices.Collect(maps.Keys(got)), s)
			}
		}
		return nil
	})
	for s := range got {
		if !slices.Contains(want, s) {
			n.t.Errorf("node %d saw %v besides", n.n, s)
		}
	}
}

// TestSightings: a host and a pod of another node use the wire as hosts do, and the nodes with pods there hear of it.
func TestSightings(t *testing.T) {
	c := newCluster(t, 2)
	n1, n2 := c.nodes[0], c.nodes[1]
	n1.start()
	n2.start()
	n1.attached(1)
	remote := n2.attached(1)
	router := addr("2001:db8:6::ffff")
	watched := Watched{Addresses: prefixes("10.6.1.0/24", "10.6.2.0/24", "2001:db8:6:0:1::/80", "2001:db8:6:0:2::/80"), Routers: []netip.Addr{router}}
	n1.watch(watched)
	n2.watch(watched)

	h := c.stranger(addr("2001:db8:6:0:1::99"))

	// Announcements, as of a host that has just come up, of an address that is watched and of one that is not.
	h.asks("10.6.3.99", "10.6.3.99")
	h.asks("10.6.1.99", "10.6.1.99")
	n1.sees(h.by("10.6.1.99"))
	n2.sees(h.by("10.6.1.99"))

	// A question in the name of an address that a pod has: its own node hears it as the others do.
	h.asks("10.6.1.1", "10.6.0.11")
	n1.sees(h.by("10.6.1.1"))
	n2.sees(h.by("10.6.1.1"))

	// IPv6: whoever uses an address asks for its router sooner or later.
	h.sends("2001:db8:6:0:1::99", router)
	n1.sees(h.by("2001:db8:6:0:1::99"))
	n2.sees(h.by("2001:db8:6:0:1::99"))

	// A pod that looks for a neighbour: heard on all nodes but its own, where it is known.
	if _, err := ask(remote.NS, "tcp", addr("10.6.77.77")); err == nil {
		t.Fatal("somebody answers")
	}
	n1.sees(Sighting{"eth0", remote.addrs[0], remote.mac.String()})
	n2.sees()

	// Nobody is heard twice.
	h.asks("10.6.1.99", "10.6.1.99")
	h.asks("10.6.1.98", "10.6.1.98")
	n1.sees(h.by("10.6.1.98"))
	counts := n1.must("sightings").Counters[n1.vmac().Name]
	if counts[bpf.SightingsTold] != 5 || counts[bpf.SightingsOverBudget] != 0 {
		t.Errorf("%v", counts)
	}
}

// TestDuplicateAddressDetection: pods start with IPv6 addresses that hosts use, and their kernels do not ask for that. The hosts are asked,
// and their answers heard.
func TestDuplicateAddressDetection(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.start()
	n.watch(Watched{Addresses: prefixes("2001:db8:6:0:1::/80")})
	h := c.stranger(addr("2001:db8:6:0:1::2"), addr("2001:db8:6:0:1::3"))
	// A pod that is gone by then needs no answer.
	gone := Endpoint{Parent: "eth0", Address: addr("2001:db8:6:0:1::3"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 3}}
	n.must("attach", gone)
	n.must("detach", gone)
	p := n.pod(2)
	n.must("attach", p.endpoints()...)
	n.sees(h.by("2001:db8:6:0:1::2"))

	// Two at a time, of which one is nobody else's.
	q := n.pod(3)
	n.must("attach", Endpoint{Parent: "eth0", Address: addr("2001:db8:6:0:1::4"), MAC: q.mac}, q.endpoints()[1])
	n.sees(h.by("2001:db8:6:0:1::3"))
}

// TestSightingsAfterRestart: what is watched and heard does not depend on the agent before, nor on the programs that it left.
func TestSightingsAfterRestart(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	n.start()
	p := n.attached(1)
	h := c.stranger()
	const taken = "10.6.1.99"
	watched := Watched{Addresses: prefixes("10.6.1.0/24")}
	n.watch(watched)
	h.asks(taken, taken)
	n.sees(h.by(taken))

	n.kill()
	h.asks(taken, taken)
	n.start()
	n.must("sync", p.endpoints()...)
	n.watch(watched)
	h.asks(taken, taken)
	n.sees(h.by(taken))

	// Somebody takes a pin away, and so the programs are attached anew.
	if err := os.Remove(filepath.Join(n.cfg.PinDir, n.vmac().Name, "counters")); err != nil {
		t.Fatal(err)
	}
	n.must("mend")
	h.asks(taken, taken)
	n.sees(h.by(taken))

	n.watch(Watched{})
	before := n.counts()["drop_arp_other"]
	h.asks("10.6.1.98", "10.6.1.98")
	eventually(t, 5*time.Second, "question", func() error {
		if n.counts()["drop_arp_other"] == before {
			return errors.New("not yet there")
		}
		return nil
	})
	n.sees()
}
