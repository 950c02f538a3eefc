//go:build linux

package path

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/service"
	"github.com/berthdev/berth/tests/netns"
)

// The tests of this file have no kube-proxy: agent/proxy serves, and what it translates has to get on with inet berth.

// serve starts the node's own service.
func (n *node) serve(all ...service.Service) {
	n.t.Helper()
	if _, err := n.call(request{Op: "serve", Prefixes: n.steering(), Services: all}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) set(all ...service.Service) {
	n.t.Helper()
	if _, err := n.call(request{Op: "service", Services: all}); err != nil {
		n.t.Fatal(err)
	}
}

var protocols = map[string]service.Protocol{"tcp": service.TCP, "udp": service.UDP}

// virtual is a Service with a cluster IP of each family, on all protocols. backends have one address of each family.
func virtual(i int, backends ...[]netip.Addr) (s service.Service, vips []netip.Addr) {
	vips = []netip.Addr{addr("10.96.0.%d", i), addr("2001:db8:96::%d", i)}
	s = service.Service{Name: fmt.Sprintf("default/s%d", i)}
	for family, vip := range vips {
		for _, protocol := range []service.Protocol{service.TCP, service.UDP, service.SCTP} {
			p := service.Port{Frontends: []service.Frontend{{Address: vip, Port: port, Protocol: protocol}}}
			for _, b := range backends {
				p.Backends = append(p.Backends, service.Backend{Address: b[family], Port: port})
			}
			s.Ports = append(s.Ports, p)
		}
	}
	return s, vips
}

// twoNodes with all kinds of backends. The client is a macvlan pod of node 1.
type twoNodes struct {
	*cluster
	n1, n2                    *node
	client, neighbour, remote *pod
	overlay1, overlay2        *pod
}

func newTwoNodes(t *testing.T) *twoNodes {
	c := newCluster(t, 2)
	w := &twoNodes{cluster: c, n1: c.nodes[0], n2: c.nodes[1]}
	w.overlay1, w.overlay2 = w.n1.overlayPod(), w.n2.overlayPod()
	w.n1.start()
	w.n2.start()
	w.client, w.neighbour, w.remote = w.n1.attached(1), w.n1.attached(2), w.n2.attached(1)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(run(t, w.n1.NS, "", "nft", "list", "ruleset"))
		}
	})
	return w
}

type kind struct {
	name   string
	ns     *netns.NS
	server []netip.Addr
	behind []netip.Addr // who may be seen by way of a Service
	vips   []netip.Addr // of its Service, once it is served
}

// kinds are the rows of ruleset's table.
func (w *twoNodes) kinds() []kind {
	return []kind{
		{name: "own node", ns: w.n1.NS, server: w.n1.own(), behind: w.client.addrs},
		{name: "other node", ns: w.n2.NS, server: w.n2.own(), behind: w.n1.own()},
		{name: "macvlan pod of this node", ns: w.neighbour.NS, server: w.neighbour.addrs, behind: w.n1.own()},
		{name: "macvlan pod of the other node", ns: w.remote.NS, server: w.remote.addrs, behind: w.n1.own()},
		{name: "itself", ns: w.client.NS, server: w.client.addrs, behind: w.n1.own()},
		{name: "overlay pod of this node", ns: w.overlay1.NS, server: w.overlay1.addrs, behind: w.client.addrs},
		{name: "overlay pod of the other node", ns: w.overlay2.NS, server: w.overlay2.addrs, behind: w.n1.own()},
	}
}

// served are all kinds, each by a Service of its own, and by no other.
func (w *twoNodes) served() []kind {
	kinds := w.kinds()
	all := make([]service.Service, len(kinds))
	for i := range kinds {
		all[i], kinds[i].vips = virtual(i+1, kinds[i].server)
	}
	w.n1.serve(all...)
	return kinds
}

// TestServe: each kind of backend is reached, by cluster IP and by NodePort, and sees the client as inet berth's table says.
func TestServe(t *testing.T) {
	w := newTwoNodes(t)
	var all []service.Service
	for i, k := range w.kinds() {
		serve(t, k.ns, k.server...)
		s, _ := virtual(i+1, k.server)
		for j := range s.Ports {
			f := s.Ports[j].Frontends[0]
			any := netip.IPv4Unspecified()
			if f.Address.Is6() {
				any = netip.IPv6Unspecified()
			}
			s.Ports[j].Frontends = append(s.Ports[j].Frontends, service.Frontend{Address: any, Port: uint16(30000 + i), Protocol: f.Protocol})
		}
		all = append(all, s)
	}
	w.n1.serve(all...)
	for i, k := range w.kinds() {
		_, vips := virtual(i+1, k.server)
		for family, vip := range vips {
			for network := range protocols {
				for _, to := range []netip.AddrPort{netip.AddrPortFrom(vip, port), netip.AddrPortFrom(w.n1.own()[family], uint16(30000+i))} {
					t.Run(fmt.Sprintf("%s %s %s", k.name, network, to), func(t *testing.T) {
						seen, err := askAt(w.client.NS, network, to)
						if err != nil {
							t.Fatal(err)
						}
						if !slices.Contains(k.behind, seen) {
							t.Errorf("the server saw %s; want one of %s", seen, k.behind)
						}
					})
				}
				if i > 0 {
					continue
				}
				t.Run(fmt.Sprintf("%s %s %s: others' connections are not ours", k.name, network, vip), func(t *testing.T) {
					if _, err := askAt(w.overlay1.NS, network, netip.AddrPortFrom(vip, port)); err == nil {
						t.Error("an overlay pod was served")
					}
				})
			}
		}
	}
}

// TestRefused: what nobody serves is answered at once, or not at all.
func TestRefused(t *testing.T) {
	w := newTwoNodes(t)
	serve(t, w.remote.NS, w.remote.addrs...)
	none, vips := virtual(1)
	limited, limitedVIPs := virtual(2, w.remote.addrs)
	silent, silentVIPs := virtual(3)
	open, openVIPs := virtual(4, w.remote.addrs)
	for i := range limited.Ports {
		limited.Ports[i].Sources = prefixes("192.0.2.0/24")
		silent.Ports[i].Drop = true
		open.Ports[i].Sources = prefixes("10.6.0.0/16", "2001:db8:6::/48")
	}
	w.n1.serve(none, limited, silent, open)
	for family := range 2 {
		for network := range protocols {
			for _, tt := range []struct {
				name string
				to   netip.AddrPort
				want error // nil: served
			}{
				{"no backends", netip.AddrPortFrom(vips[family], port), syscall.ECONNREFUSED},
				{"no such port", netip.AddrPortFrom(vips[family], 1), syscall.ECONNREFUSED},
				{"no such Service", netip.AddrPortFrom(netip.MustParseAddr([]string{"10.96.0.77", "2001:db8:96::77"}[family]), port), errSilence},
				{"elsewhere by policy", netip.AddrPortFrom(silentVIPs[family], port), errSilence},
				{"for others only", netip.AddrPortFrom(limitedVIPs[family], port), errSilence},
				{"for us", netip.AddrPortFrom(openVIPs[family], port), nil},
			} {
				t.Run(fmt.Sprintf("%s %s %s", tt.name, network, tt.to), func(t *testing.T) {
					_, err := askAt(w.client.NS, network, tt.to)
					if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
						err = errSilence
					}
					if !errors.Is(err, tt.want) {
						t.Errorf("%v, want %v", err, tt.want)
					}
				})
			}
		}
	}
}

// TestRefusedAmidTraffic: a client is told at once that a Service has no backends also while it talks to its neighbour behind another one.
// Would the kernel want to send redirects by vmac, that would use up what limits how often ICMP may tell the client.
func TestRefusedAmidTraffic(t *testing.T) {
	w := newTwoNodes(t)
	serve(t, w.neighbour.NS, w.neighbour.addrs...)
	busy, busyVIPs := virtual(1, w.neighbour.addrs)
	none, vips := virtual(2)
	w.n1.serve(busy, none)
	for family, vip := range busyVIPs {
		c, err := dial(w.client.NS, "udp", netip.AddrPortFrom(vip, port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 100 {
			if _, err := say(c); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		refused := make(chan error, 1)
		go func() {
			_, err := askAt(w.client.NS, "udp", netip.AddrPortFrom(vips[family], port))
			refused <- err
		}()
		for done := false; !done; {
			select {
			case err := <-refused:
				if done = true; !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s: %v, want %v", vips[family], err, syscall.ECONNREFUSED)
				}
			case <-time.After(5 * time.Millisecond):
				if _, err := say(c); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

var errSilence = errors.New("silence")

// TestUntracked: a node's own server at a cluster IP, past conntrack, as NodeLocal DNSCache is, is reached beside the table.
func TestUntracked(t *testing.T) {
	w := newTwoNodes(t)
	s, vips := virtual(1, w.remote.addrs)
	w.n1.serve(s)
	for _, vip := range vips {
		ip(t, w.n1.NS, "address add %s dev lo\n", vip)
		run(t, w.n1.NS, fmt.Sprintf(`table inet local {
	chain prerouting { type filter hook prerouting priority raw
		%[1]s daddr %[2]s notrack
	}
	chain output { type filter hook output priority raw
		%[1]s saddr %[2]s notrack
	}
}`, map[bool]string{true: "ip", false: "ip6"}[vip.Is4()], vip), "nft", "-f", "-")
	}
	serve(t, w.n1.NS, vips...)
	for family, vip := range vips {
		for _, network := range []string{"tcp", "udp"} {
			if seen, err := ask(w.client.NS, network, vip); err != nil || seen != w.client.addrs[family] {
				t.Errorf("%s %s: seen as %s, %v", network, vip, seen, err)
			}
		}
	}
}

// askAt is ask at a port.
func askAt(ns *netns.NS, network string, to netip.AddrPort) (netip.Addr, error) {
	c, err := dial(ns, network, to)
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	return say(c)
}

func dial(ns *netns.NS, network string, to netip.AddrPort) (conn net.Conn, err error) {
	ns.Do(func() { conn, err = (&net.Dialer{Timeout: 2 * time.Second}).Dial(network, to.String()) })
	return conn, err
}

// say something on a connection, and hear who the server thinks said it.
func say(conn net.Conn) (netip.Addr, error) {
	if _, err := conn.Write([]byte("x")); err != nil {
		return netip.Addr{}, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return netip.Addr{}, err
	}
	b := make([]byte, 100)
	n, err := conn.Read(b)
	if err != nil {
		return netip.Addr{}, err
	}
	fields := strings.Fields(string(b[:n]))
	return netip.ParseAddr(fields[len(fields)-1])
}
