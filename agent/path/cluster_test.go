//go:build linux

package path

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/tests/netns"
	"github.com/vishvananda/netlink"
)

// cluster is an underlay and some nodes on it:
//
//	wire: bridge br0 ── port1 ─ eth0 of node 1 (10.6.0.11, 2001:db8:6::11) ── macvlan pods 10.6.1.x, 2001:db8:6:0:1::x
//	               └── port2 ─ eth0 of node 2 (10.6.0.12, …::12)           ── macvlan pods 10.6.2.x, 2001:db8:6:0:2::x
//
// Each node has an overlay too, routed by the nodes: 10.244.N.0/24 and 2001:db8:244:N::/64, with the node as .1.
type cluster struct {
	t     testing.TB
	wire  *netns.NS
	nic   nic
	nodes []*node
}

type node struct {
	*netns.NS
	t   testing.TB
	n   int
	cfg Config
	*agent
}

func addr(format string, args ...any) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf(format, args...))
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// own are a node's addresses on the underlay.
func (n *node) own() []netip.Addr {
	return []netip.Addr{addr("10.6.0.1%d", n.n), addr("2001:db8:6::1%d", n.n)}
}

func (n *node) steering() Prefixes {
	return Prefixes{
		Services:  prefixes("10.96.0.0/16", "2001:db8:96::/112"),
		Pods:      prefixes("10.244.0.0/16", "2001:db8:244::/48"),
		LocalPods: prefixes(fmt.Sprintf("10.244.%d.0/24", n.n), fmt.Sprintf("2001:db8:244:%d::/64", n.n)),
		Served:    true,
	}
}

func newCluster(t testing.TB, nodes int) *cluster {
	t.Helper()
	return newClusterOn(t, nodes, plainNIC)
}

func newClusterOn(t testing.TB, nodes int, nic nic) *cluster {
	t.Helper()
	c := &cluster{t: t, wire: namespace(t), nic: nic}
	ip(t, c.wire, "link add br0 type bridge\nlink set br0 up\n")
	for i := 1; i <= nodes; i++ {
		n := &node{NS: namespace(t), t: t, n: i}
		n.cfg = Config{NodeName: fmt.Sprintf("node-%d", i), PinDir: bpffs(t) + "/berth", Idle: time.Minute}
		c.nodes = append(c.nodes, n)
		// A masquerade that is left to itself takes the address of the first link.
		ip(t, n.NS, "link add first type bridge\nlink set first up\naddress add 192.168.99.%d/24 dev first\n"+
			"address add 2001:db8:99::a%d/64 dev first nodad\n", i, i)
		c.plug(n)
		for _, other := range c.nodes[:i-1] {
			overlayRoute(t, n, other)
			overlayRoute(t, other, n)
		}
		t.Cleanup(func() { // a program that is pinned in a bpffs keeps nothing else alive, but be clean
			if err := startAgent(t, n.NS, n.cfg).cleanup(); err != nil {
				t.Error(err)
			}
		})
	}
	return c
}

// namespace is one where IPv6 addresses are usable at once, and ICMPv6 is limited as by older kernels; newer ones begin with 100.
func namespace(t testing.TB) *netns.NS {
	t.Helper()
	ns := netns.New(t)
	run(t, ns, "", "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.icmp.ratelimit=1000")
	return ns
}

// plug gives a node its NIC. It can be done again after the NIC was deleted.
func (c *cluster) plug(n *node) {
	c.t.Helper()
	c.nic(c, n)
	ip(c.t, n.NS, "link set eth0 up\naddress add 10.6.0.1%d/16 dev eth0\naddress add 2001:db8:6::1%d/64 dev eth0 nodad\n"+
		"route add default via 10.6.255.254\nroute add default via 2001:db8:6::ffff\n", n.n, n.n)
	local(c.t, n.NS, n.own()[1])
}

// local waits until the kernel delivers to a new IPv6 address. That is for a worker to arrange, nodad or not.
func local(t testing.TB, ns *netns.NS, a netip.Addr) {
	t.Helper()
	eventually(t, 5*time.Second, a.String(), func() error {
		if run(t, ns, "", "ip", "-6", "route", "show", "table", "local", "type", "local", a.String()) == "" {
			return fmt.Errorf("not local")
		}
		return nil
	})
}

func overlayRoute(t testing.TB, from, to *node) {
	t.Helper()
	ip(t, from.NS, "route add 10.244.%d.0/24 via 10.6.0.1%d\nroute add 2001:db8:244:%d::/64 via 2001:db8:6::1%d\n", to.n, to.n, to.n, to.n)
}

// pair connects two namespaces by a veth.
func pair(t testing.TB, a *netns.NS, nameA string, b *netns.NS, nameB string) {
	t.Helper()
	a.Do(func() {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = nameA
		v := &netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(b.FD())}
		if err := netlink.LinkAdd(v); err != nil {
			t.Fatalf("veth %s: %v", nameA, err)
		}
	})
}

func (n *node) start() *agent {
	n.t.Helper()
	n.agent = startAgent(n.t, n.NS, n.cfg)
	n.prefixes(n.steering())
	return n.agent
}

// pod is a macvlan pod with one address of each family, and the routes that IPAM would give it.
type pod struct {
	*netns.NS
	addrs []netip.Addr
	mac   net.HardwareAddr
}

func (p *pod) endpoints() (eps []Endpoint) {
	for _, a := range p.addrs {
		eps = append(eps, Endpoint{Parent: "eth0", Address: a, MAC: p.mac})
	}
	return eps
}

func (n *node) pod(i int) *pod {
	n.t.Helper()
	return n.macvlan(namespace(n.t), i)
}

// macvlan gives a namespace the interface of a pod.
func (n *node) macvlan(ns *netns.NS, i int) *pod {
	n.t.Helper()
	p := &pod{NS: ns, addrs: []netip.Addr{addr("10.6.%d.%d", n.n, i), addr("2001:db8:6:0:%d::%d", n.n, i)}}
	n.Do(func() {
		parent, err := netlink.LinkByName("eth0")
		if err != nil {
			n.t.Fatal(err)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex, attrs.Namespace = "net1", parent.Attrs().Index, netlink.NsFd(p.FD())
		if err := netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
			n.t.Fatalf("macvlan: %v", err)
		}
	})
	ip(n.t, p.NS, "link set net1 up\naddress add %s/16 dev net1\naddress add %s/64 dev net1 nodad\nroute add 169.254.1.1 dev net1 scope link\n",
		p.addrs[0], p.addrs[1])
	local(n.t, p.NS, p.addrs[1])
	p.Do(func() {
		link, err := netlink.LinkByName("net1")
		if err != nil {
			n.t.Fatal(err)
		}
		p.mac = link.Attrs().HardwareAddr
	})
	return p
}

// steer gives a pod the routes of its node.
func (n *node) steer(p *pod) {
	n.t.Helper()
	var routes strings.Builder
	for _, prefix := range n.must("steered").Steered {
		gateway := "169.254.1.1"
		if prefix.Addr().Is6() {
			gateway = "fe80::1"
		}
		fmt.Fprintf(&routes, "route replace %s via %s dev net1\n", prefix, gateway)
	}
	ip(n.t, p.NS, "%s", routes.String())
}

// attached is a pod whose path is complete.
func (n *node) attached(i int) *pod {
	n.t.Helper()
	p := n.pod(i)
	n.must("attach", p.endpoints()...)
	n.steer(p)
	return p
}

// overlayPod is a pod on the cluster's default network.
func (n *node) overlayPod() *pod {
	n.t.Helper()
	p := &pod{NS: namespace(n.t), addrs: []netip.Addr{addr("10.244.%d.9", n.n), addr("2001:db8:244:%d::9", n.n)}}
	pair(n.t, n.NS, "cni0", p.NS, "eth0")
	ip(n.t, n.NS, "link set cni0 up\naddress add 10.244.%d.1/24 dev cni0\naddress add 2001:db8:244:%d::1/64 dev cni0 nodad\n", n.n, n.n)
	ip(n.t, p.NS, "link set eth0 up\naddress add %s/24 dev eth0\naddress add %s/64 dev eth0 nodad\n"+
		"route add default via 10.244.%d.1\nroute add default via 2001:db8:244:%d::1\n", p.addrs[0], p.addrs[1], n.n, n.n)
	local(n.t, p.NS, p.addrs[1])
	run(n.t, n.NS, "", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	return p
}

// service translates a virtual address of both families to a backend, as kube-proxy would.
func (n *node) service(i int, backend []netip.Addr) (vips []netip.Addr) {
	n.t.Helper()
	vips = []netip.Addr{addr("10.96.0.%d", i), addr("2001:db8:96::%d", i)}
	for hook, priority := range map[string]int{"prerouting": -100, "output": -100} {
		run(n.t, n.NS, fmt.Sprintf(`
table inet proxy {
	chain %[1]s {
		type nat hook %[1]s priority %[2]d
		ip daddr %[3]s dnat ip to %[4]s
		ip6 daddr %[5]s dnat ip6 to %[6]s
	}
}`, hook, priority, vips[0], backend[0], vips[1], backend[1]), "nft", "-f", "-")
	}
	return vips
}

const port = 8080

// serve answers on TCP and UDP, at each address, with the client's address.
func serve(t testing.TB, ns *netns.NS, addrs ...netip.Addr) {
	t.Helper()
	for _, a := range addrs {
		at := netip.AddrPortFrom(a, port)
		var tcp *net.TCPListener
		var udp *net.UDPConn
		var err, err2 error
		ns.Do(func() {
			tcp, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
			udp, err2 = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		})
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		t.Cleanup(func() { tcp.Close(); udp.Close() })
		go func() {
			for {
				conn, err := tcp.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(conn, conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
				conn.Close()
			}
		}()
		go func() {
			b := make([]byte, 100)
			for {
				n, from, err := udp.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				_, _ = udp.WriteToUDPAddrPort(append(b[:n:n], " "+from.Addr().Unmap().String()...), from)
			}
		}()
	}
}

// ask says with which address the server at to saw a client in ns.
func ask(ns *netns.NS, network string, to netip.Addr) (netip.Addr, error) {
	var conn net.Conn
	var err error
	ns.Do(func() {
		conn, err = (&net.Dialer{Timeout: 2 * time.Second}).Dial(network, netip.AddrPortFrom(to, port).String())
	})
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	b := make([]byte, 100)
	if network == "udp" {
		// A pod's first packet may be lost to nothing: neighbours wait for the answer. So none is repeated.
		if _, err := conn.Write([]byte("x")); err != nil {
			return netip.Addr{}, err
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return netip.Addr{}, err
	}
	n, err := conn.Read(b)
	if err != nil {
		return netip.Addr{}, err
	}
	fields := bytes.Fields(b[:n])
	return netip.ParseAddr(string(fields[len(fields)-1]))
}
