//go:build linux

package path

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// told is what other nodes know of a node with these macvlan pods.
func (n *node) told(pods ...*pod) OtherNode {
	o := OtherNode{Addresses: n.own(), Overlay: n.steering().LocalPods}
	for _, p := range pods {
		o.Pods = append(o.Pods, p.addrs...)
	}
	return o
}

func (n *node) others(all ...OtherNode) {
	n.t.Helper()
	if _, err := n.call(request{Op: "others", Others: all}); err != nil {
		n.t.Fatal(err)
	}
}

// ownerRoutesAre says pod → node, both families, of a node.
func (n *node) ownerRoutesAre(want map[*pod]*node) {
	n.t.Helper()
	for i, family := range []string{"-4", "-6"} {
		rules := run(n.t, n.NS, "", "ip", family, "rule", "show", "priority", "9800")
		routes := ""
		if rules != "" { // without, the table may not exist
			routes = run(n.t, n.NS, "", "ip", family, "route", "show", "table", "98")
		}
		lines := strings.Count(routes, "\n")
		for p, owner := range want {
			if !strings.Contains(routes, fmt.Sprintf("%s via %s ", p.addrs[i], owner.own()[i])) {
				n.t.Errorf("node %d has no route to %s by node %d:\n%s", n.n, p.addrs[i], owner.n, routes)
			}
		}
		if lines != len(want) {
			n.t.Errorf("node %d has %d owner routes, want %d:\n%s", n.n, lines, len(want), routes)
		}
	}
}

// sees says whether the server sees that, by a service and without, TCP and UDP, both families; nil: what it answers is not understood,
// since it does not come back by the service.
func sees(t *testing.T, when string, client *pod, server, vips, want []netip.Addr) {
	t.Helper()
	for family := range server {
		for _, to := range []netip.Addr{server[family], vips[family]} {
			for _, network := range []string{"tcp", "udp"} {
				seen, err := ask(client.NS, network, to)
				if want == nil && err == nil && to == vips[family] {
					t.Errorf("%s: %s by %s answers, though the way back is not that there", when, to, network)
				} else if want != nil && (err != nil || seen != want[family]) {
					t.Errorf("%s: the server behind %s saw %v by %s (%v), want %s", when, to, seen, network, err, want[family])
				}
			}
		}
	}
}

// TestOwnerRoutes: an overlay pod of another node sees the client's own address where its node leads the answers by the client's node.
func TestOwnerRoutes(t *testing.T) {
	c := newCluster(t, 3)
	n1, n2, n3 := c.nodes[0], c.nodes[1], c.nodes[2]
	overlay2 := n2.overlayPod()
	for _, n := range c.nodes {
		run(t, n.NS, "", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
		n.start()
		n.must("sync")
	}
	client, still := n1.attached(1), n1.attached(2)
	serve(t, overlay2.NS, overlay2.addrs...)
	serve(t, client.NS, client.addrs...)
	vips := map[*node][]netip.Addr{n1: n1.service(1, overlay2.addrs), n3: n3.service(1, overlay2.addrs)}
	sees(t, "without owner routes", client, overlay2.addrs, vips[n1], n1.own())
	n2.ownerRoutesAre(nil)

	n1.others(n2.told())
	sees(t, "with no route back", client, overlay2.addrs, vips[n1], nil)
	n2.others(n1.told(client, still), n3.told())
	n2.ownerRoutesAre(map[*pod]*node{client: n1, still: n1})
	sees(t, "with owner routes", client, overlay2.addrs, vips[n1], client.addrs)
	sees(t, "with owner routes, a neighbour", still, overlay2.addrs, vips[n1], still.addrs)
	for family, to := range client.addrs {
		for from, want := range map[*pod]netip.Addr{overlay2: overlay2.addrs[family], {NS: n2.NS}: n2.own()[family], {NS: n1.NS}: n1.own()[family]} {
			if seen, err := ask(from.NS, "tcp", to); err != nil || seen != want {
				t.Errorf("the pod saw %v (%v), want %s", seen, err, want)
			}
		}
	}
	for family, to := range overlay2.addrs { // as berth-agent trace tells
		res, err := n1.call(request{Op: "seen as", Addresses: []netip.Addr{client.addrs[family], to}})
		if err != nil || !res.Source.Own || res.Source.Why != toKept {
			t.Errorf("seen as %+v (%v)", res.Source, err)
		}
	}
	for family, to := range n2.own() { // a node answers as it is asked
		serve(t, n2.NS, to)
		if seen, err := ask(client.NS, "tcp", to); err != nil || seen != client.addrs[family] {
			t.Errorf("node 2 saw %v (%v)", seen, err)
		}
	}

	for _, n := range []*node{n1, n2} { // killed, and started anew
		n.kill()
	}
	sees(t, "without agents", client, overlay2.addrs, vips[n1], client.addrs)
	n1.start()
	n2.start()
	n1.others(n2.told())
	n2.others(n1.told(client, still), n3.told())
	n2.must("sync")
	if _, err := n1.call(request{Op: "sync", Endpoints: append(client.endpoints(), still.endpoints()...)}); err != nil {
		t.Fatal(err)
	}
	n2.ownerRoutesAre(map[*pod]*node{client: n1, still: n1})
	sees(t, "after a restart", client, overlay2.addrs, vips[n1], client.addrs)

	// The pod moves to node 3, with its addresses.
	n1.must("detach", client.endpoints()...)
	ip(t, client.NS, "link delete net1\n")
	moved := n3.pod(9)
	ip(t, moved.NS, "address flush dev net1 scope global\n")
	moved.addrs = client.addrs
	ip(t, moved.NS, "address add %s/16 dev net1\naddress add %s/64 dev net1 nodad\nroute replace 169.254.1.1 dev net1 scope link\n", moved.addrs[0], moved.addrs[1])
	local(t, moved.NS, moved.addrs[1])
	n3.must("attach", moved.endpoints()...)
	n3.steer(moved)
	n3.others(n2.told())
	n2.others(n1.told(still), n3.told(moved))
	n2.ownerRoutesAre(map[*pod]*node{moved: n3, still: n1})
	sees(t, "moved", moved, overlay2.addrs, vips[n3], moved.addrs)
	sees(t, "moved, the one that stays", still, overlay2.addrs, vips[n1], still.addrs)

	n2.others(n1.told(still), n3.told()) // it is gone
	n2.ownerRoutesAre(map[*pod]*node{still: n1})
	for _, f := range examine(t, n2) {
		t.Errorf("doctor: %s", f)
	}
	ip(t, n2.NS, "route flush table 98\n")
	if found := examine(t, n2); len(found) != 1 || !strings.Contains(found[0], "owner routes") {
		t.Errorf("doctor, of missing routes: %q", found)
	}
	n2.must("mend")
	n2.ownerRoutesAre(map[*pod]*node{still: n1})

	n2.others() // turned off
	n1.others()
	n2.ownerRoutesAre(nil)
	sees(t, "turned off", still, overlay2.addrs, vips[n1], n1.own())
	n2.others(n1.told(still))
	if err := n2.cleanup(); err != nil {
		t.Error(err)
	}
	n2.ownerRoutesAre(nil)
}

// examine tells what is wrong with the node's owner routes.
func examine(t *testing.T, n *node) (found []string) {
	t.Helper()
	res, err := n.call(request{Op: "examine"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range res.Found {
		if f.Check == checkRoutes && f.Severity != "ok" {
			found = append(found, f.What)
		}
	}
	return found
}
