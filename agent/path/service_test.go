//go:build linux

package path

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berthdev/berth/tests/netns"
)

// TestService walks the table of ruleset: who is reached, and with which address the client is seen.
func TestService(t *testing.T) { walkServices(t, newCluster(t, 2)) }

func walkServices(t *testing.T, c *cluster) (client *pod) {
	n1, n2 := c.nodes[0], c.nodes[1]
	overlay1, overlay2 := n1.overlayPod(), n2.overlayPod()
	n1.start()
	n2.start()
	client = n1.attached(1)
	neighbour, remote := n1.attached(2), n2.attached(1)

	serve(t, client.NS, client.addrs...)
	serve(t, neighbour.NS, neighbour.addrs...)
	serve(t, remote.NS, remote.addrs...)
	serve(t, overlay1.NS, overlay1.addrs...)
	serve(t, overlay2.NS, overlay2.addrs...)
	serve(t, n1.NS, n1.own()...)
	serve(t, n2.NS, n2.own()...)

	kept := func(p *pod) []netip.Addr { return p.addrs }
	type peer struct {
		name string
		ns   *netns.NS
		kept []netip.Addr
	}
	macvlan := peer{"macvlan pod", client.NS, kept(client)}
	tests := []struct {
		from   peer
		to     string
		server []netip.Addr
		direct []netip.Addr // who may be seen without a service; nil: not a way of this package
		behind []netip.Addr // who may be seen by way of a service
	}{
		{macvlan, "own node", n1.own(), kept(client), kept(client)},
		{macvlan, "other node", n2.own(), kept(client), n1.own()}, // direct: on the underlay, not steered
		{macvlan, "macvlan pod of this node", neighbour.addrs, kept(client), n1.own()},
		{macvlan, "macvlan pod of the other node", remote.addrs, kept(client), n1.own()},
		{macvlan, "itself", client.addrs, kept(client), n1.own()},
		{macvlan, "overlay pod of this node", overlay1.addrs, kept(client), kept(client)},
		{macvlan, "overlay pod of the other node", overlay2.addrs, n1.own(), n1.own()},
		{peer{"overlay pod", overlay1.NS, nil}, "macvlan pod", client.addrs, kept(overlay1), kept(overlay1)},
		{peer{"node", n1.NS, nil}, "macvlan pod", client.addrs, n1.own(), n1.own()},
		{peer{"other node", n2.NS, nil}, "macvlan pod", client.addrs, n2.own(), nil},
	}
	for i, tt := range tests {
		vips := n1.service(i+1, tt.server)
		for family, name := range []string{"IPv4", "IPv6"} {
			for _, network := range []string{"tcp", "udp"} {
				check := func(how string, to netip.Addr, allowed []netip.Addr) {
					if allowed == nil {
						return
					}
					t.Run(fmt.Sprintf("%s to %s %s %s %s", tt.from.name, tt.to, how, name, network), func(t *testing.T) {
						seen, err := ask(tt.from.ns, network, to)
						if err != nil {
							t.Fatalf("%v", err)
						}
						if !slices.Contains(allowed, seen) {
							t.Errorf("the server saw %s; want one of %s", seen, allowed)
						}
					})
				}
				check("directly", tt.server[family], tt.direct)
				check("by a service", vips[family], tt.behind)
			}
		}
	}
	if t.Failed() {
		for _, n := range c.nodes {
			t.Logf("node %d: %v\n%s", n.n, n.must("counters").Counters, run(t, n.NS, "", "nft", "list", "ruleset"))
		}
	}
	return client
}

// TestNotYetTranslated: what a pod sends to a Service that nobody translates yet does not leave the node. If it did, conntrack would remember
// for two minutes that this port of the pod's goes to that Service untranslated, whatever rules there are by then.
func TestNotYetTranslated(t *testing.T) {
	w := newTwoNodes(t)
	serve(t, w.remote.NS, w.remote.addrs...)
	from := func(network string, to netip.Addr) (seen netip.Addr, err error) {
		dialer := net.Dialer{Timeout: 1500 * time.Millisecond, LocalAddr: &net.TCPAddr{Port: 40000}}
		if network == "udp" {
			dialer.LocalAddr = &net.UDPAddr{Port: 40000}
		}
		var conn net.Conn
		w.client.NS.Do(func() { conn, err = dialer.Dial(network, netip.AddrPortFrom(to, port).String()) })
		if err != nil {
			return netip.Addr{}, err
		}
		defer conn.Close()
		return say(conn)
	}
	vips := []netip.Addr{addr("10.96.0.1"), addr("2001:db8:96::1")}
	for _, vip := range vips {
		for _, network := range []string{"tcp", "udp"} {
			if _, err := from(network, vip); err == nil {
				t.Fatalf("%s %s is served by nobody, and answers", network, vip)
			}
		}
	}
	w.n1.service(1, w.remote.addrs)
	for family, vip := range vips {
		for _, network := range []string{"tcp", "udp"} {
			if seen, err := from(network, vip); err != nil || seen != w.n1.own()[family] {
				t.Errorf("%s %s: seen as %s, %v", network, vip, seen, err)
			}
		}
	}
}

// TestMultihomed: a pod in the overlay with a macvlan interface besides is reached by Services at either address. It would
// answer by the other interface, past the translation, if it saw the client's address.
func TestMultihomed(t *testing.T) {
	c := newCluster(t, 1)
	n := c.nodes[0]
	overlay := n.overlayPod()
	n.start()
	client := n.attached(1)
	second := n.macvlan(overlay.NS, 2)
	n.must("attach", second.endpoints()...)
	multihomed := slices.Concat(overlay.addrs, second.addrs)
	if _, err := n.call(request{Op: "multihomed", Addresses: multihomed}); err != nil {
		t.Fatal(err)
	}
	serve(t, overlay.NS, multihomed...)

	gateway := []netip.Addr{addr("10.244.1.1"), addr("2001:db8:244:1::1")}
	for i, tt := range []struct {
		from   string
		ns     *netns.NS
		to     string
		server []netip.Addr
		seen   []netip.Addr
	}{
		{"macvlan pod", client.NS, "its overlay address", overlay.addrs, gateway},
		{"macvlan pod", client.NS, "its macvlan address", second.addrs, n.own()},
		{"the pod itself", overlay.NS, "its macvlan address", second.addrs, n.own()},
	} {
		for family, vip := range n.service(i+1, tt.server) {
			for _, network := range []string{"tcp", "udp"} {
				t.Run(fmt.Sprintf("%s to %s %s %s", tt.from, tt.to, network, vip), func(t *testing.T) {
					seen, err := ask(tt.ns, network, vip)
					if err != nil {
						t.Fatal(err)
					}
					if seen != tt.seen[family] {
						t.Errorf("the server saw %s; want %s", seen, tt.seen[family])
					}
				})
			}
		}
	}
	if t.Failed() {
		t.Log(run(t, n.NS, "", "nft", "list", "ruleset"))
	}

	if _, err := n.call(request{Op: "multihomed"}); err != nil {
		t.Fatal(err)
	}
	if list := run(t, n.NS, "", "nft", "list", "table", "inet", "berth"); strings.Contains(list, "multihomed") {
		t.Errorf("rules of a pod that is gone:\n%s", list)
	}
}
