package bpf

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/tests/netns"
)

// lab is a node with one NIC, a vmac on it, a pod beside, and the wire at the NIC's other end:
//
//	pod: eth0 (pod1)  ┐
//	node: vmac ───────┴ nic ── peer :wire
type lab struct {
	*testing.T
	node, pod, wire *netns.NS
	cfg             Config
}

var (
	node4, node6 = addr("192.168.1.5"), addr("2001:db8:5::5")
	pod4, pod6   = addr("10.1.0.11"), addr("2001:db8:1::11")
)

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{T: t, node: netns.New(t), pod: netns.New(t), wire: netns.New(t)}
	l.cfg = Config{PinDir: filepath.Join(mountBPF(t), "berth"), Name: "vmac7", MAC: vmac}

	l.pod.Do(func() { l.noDAD() })
	l.node.Do(func() {
		l.noDAD()
		nic := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "nic", MTU: 9000}, PeerName: "peer", PeerMTU: 9000,
			PeerNamespace: netlink.NsFd(l.wire.FD()),
		}
		l.must(netlink.LinkAdd(nic))
		l.must(netlink.LinkSetUp(nic))
		l.cfg.Parent = nic.Index
		l.addMacvlan("eth0", pod1, netlink.NsFd(l.pod.FD()))
		for _, a := range []netip.Addr{node4, node6} {
			l.addAddress("lo", a)
		}
		l.addVMAC()
	})
	l.wire.Do(func() { l.must(netlink.LinkSetUp(l.link("peer"))) })
	l.pod.Do(func() {
		for _, a := range []netip.Addr{pod4, pod6} {
			l.addAddress("eth0", a)
		}
		l.addRoute("eth0", Gateway4, netip.Addr{})
		l.addRoute("eth0", node4, Gateway4)
		l.addRoute("eth0", node6, Gateway6)
		l.waitUp("eth0")
	})
	l.node.Do(func() { l.waitUp(l.cfg.Name) })
	return l
}

// mountBPF mounts a BPF file system of the test's own.
func mountBPF(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpf: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount bpf: %v", err)
		}
	})
	return dir
}

// addVMAC makes the vmac as the agent does, in the node's namespace.
func (l *lab) addVMAC() {
	l.Helper()
	l.addMacvlan(l.cfg.Name, vmac, nil)
	link := l.link(l.cfg.Name)
	l.cfg.VMAC = link.Attrs().Index
	// Instead of joining the solicited-node groups.
	l.must(netlink.LinkSetAllmulticastOn(link))
	for _, a := range []netip.Addr{pod4, pod6} {
		l.addRoute(l.cfg.Name, a, netip.Addr{})
		l.must(netlink.NeighSet(&netlink.Neigh{LinkIndex: l.cfg.VMAC, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: pod1[:]}))
	}
}

func (l *lab) addMacvlan(name string, address mac, namespace any) {
	l.Helper()
	l.must(netlink.LinkAdd(&netlink.Macvlan{
		LinkAttrs: netlink.LinkAttrs{Name: name, ParentIndex: l.cfg.Parent, HardwareAddr: address[:], Namespace: namespace},
		Mode:      netlink.MACVLAN_MODE_BRIDGE,
	}))
	if namespace == nil {
		l.must(netlink.LinkSetUp(l.link(name)))
	}
}

func (l *lab) addAddress(name string, a netip.Addr) {
	l.Helper()
	link := l.link(name)
	l.must(netlink.LinkSetUp(link))
	full := &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
	l.must(netlink.AddrAdd(link, &netlink.Addr{IPNet: full}))
}

func (l *lab) addRoute(name string, to, via netip.Addr) {
	l.Helper()
	route := &netlink.Route{
		LinkIndex: l.link(name).Attrs().Index,
		Dst:       &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())},
		Scope:     netlink.SCOPE_LINK,
	}
	if via.IsValid() {
		route.Gw, route.Scope = via.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	l.must(netlink.RouteAdd(route))
}

// noDAD saves the seconds that a new IPv6 address takes to prove itself.
func (l *lab) noDAD() {
	l.Helper()
	for _, name := range []string{"all", "default"} {
		l.must(os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_dad", []byte("0"), 0))
	}
}

// waitUp: a link drops what it is to send until the kernel's link watch has seen its carrier, up to a second later.
func (l *lab) waitUp(name string) {
	l.Helper()
	for end := time.Now().Add(3 * time.Second); l.link(name).Attrs().OperState != netlink.OperUp; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			l.Fatalf("link %s does not come up", name)
		}
	}
}

func (l *lab) link(name string) netlink.Link {
	l.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		l.Fatalf("link %s: %v", name, err)
	}
	return link
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// attach attaches in the node, with the pod known and the node's addresses steered.
func (l *lab) attach() *Steer {
	l.Helper()
	s := l.reattach()
	l.must(s.SyncEndpoints([]Endpoint{{pod4, pod1}, {pod6, pod1}}))
	l.must(s.SyncPrefixes(map[netip.Prefix]Class{
		netip.PrefixFrom(node4, 32):  ClassNode,
		netip.PrefixFrom(node6, 128): ClassNode,
	}))
	return s
}

// reattach trusts the pinned maps.
func (l *lab) reattach() *Steer {
	l.Helper()
	var s *Steer
	l.node.Do(func() {
		var err error
		if s, err = Attach(l.cfg); err != nil {
			l.Fatal(err)
		}
	})
	l.Cleanup(func() { s.Close() })
	return s
}

// counted waits until a counter has the value, for packets take their time through macvlan's broadcast queue.
func (l *lab) counted(s *Steer, name string, want uint64) {
	l.Helper()
	var got map[string]uint64
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		var err error
		if got, err = s.Counters(); err != nil {
			l.Fatal(err)
		}
		if got[name] == want {
			return
		}
	}
	l.Errorf("%s is %d, want %d (%v)", name, got[name], want, got)
}

// send writes a frame to a link of the namespace. Of a frame above a page, the kernel keeps no more than the Ethernet
// header in the linear part.
func (l *lab) send(ns *netns.NS, name string, frames ...[]byte) {
	l.Helper()
	ns.Do(func() {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		l.must(err)
		defer unix.Close(fd)
		l.must(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
		to := &unix.SockaddrLinklayer{Ifindex: l.link(name).Attrs().Index}
		for _, frame := range frames {
			err := unix.Sendto(fd, append(make([]byte, 10), frame...), 0, to)
			if !errors.Is(err, unix.ENOBUFS) { // which is how the sender hears of guard's drop
				l.must(err)
			}
		}
	})
}

// capture collects the frames that arrive at a link until the test ends, or stop is called.
func (l *lab) capture(ns *netns.NS, name string) (stop func() [][]byte) {
	l.Helper()
	var fd int
	ns.Do(func() {
		var err error
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		l.must(err)
		all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8) // network order, and the same in the other
		l.must(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.link(name).Attrs().Index}))
	})
	l.Cleanup(func() { unix.Close(fd) })
	return func() (frames [][]byte) {
		buffer := make([]byte, 1<<16)
		for {
			n, _, err := unix.Recvfrom(fd, buffer, unix.MSG_DONTWAIT)
			if err != nil {
				return frames
			}
			frames = append(frames, append([]byte(nil), buffer[:n]...))
		}
	}
}

// echo starts a UDP echo server on the node, and returns a socket of the pod that is connected to it.
func (l *lab) echo(at netip.Addr) *net.UDPConn {
	l.Helper()
	var server, client *net.UDPConn
	l.node.Do(func() {
		var err error
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 7)))
		l.must(err)
	})
	l.Cleanup(func() { server.Close() })
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := server.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			if _, err := server.WriteToUDPAddrPort(buffer[:n], from); err != nil {
				return
			}
		}
	}()
	l.pod.Do(func() {
		var err error
		client, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 7)))
		l.must(err)
	})
	l.Cleanup(func() { client.Close() })
	return client
}

// roundTrip sends one datagram and waits for its echo.
func roundTrip(c *net.UDPConn) error {
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 100))
	return err
}
