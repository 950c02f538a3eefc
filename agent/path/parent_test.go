//go:build linux

package path

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/tests/netns"
)

// nic makes the eth0 of a node, and connects it to the wire's br0.
type nic func(*cluster, *node)

func plainNIC(c *cluster, n *node) {
	c.t.Helper()
	port := fmt.Sprintf("port%d", n.n)
	pair(c.t, n.NS, "eth0", c.wire, port)
	ip(c.t, c.wire, "link set %s master br0 up\n", port)
}

// bondNIC has two ports, of which one is in use.
func bondNIC(c *cluster, n *node) {
	c.t.Helper()
	ip(c.t, n.NS, "link add eth0 type bond mode active-backup miimon 50\n")
	for _, slave := range []string{"nic1", "nic2"} {
		port := fmt.Sprintf("port%d-%s", n.n, slave)
		pair(c.t, n.NS, slave, c.wire, port)
		ip(c.t, c.wire, "link set %s master br0 up\n", port)
		ip(c.t, n.NS, "link set %s master eth0\n", slave)
	}
}

// vlanNIC has the underlay as VLAN 7 of its link, tagged.
func vlanNIC(c *cluster, n *node) {
	c.t.Helper()
	port := fmt.Sprintf("port%d", n.n)
	pair(c.t, n.NS, "trunk", c.wire, port)
	ip(c.t, c.wire, "link set %s up\nlink add link %s name %s.7 type vlan id 7\nlink set %s.7 master br0 up\n", port, port, port, port)
	ip(c.t, n.NS, "link set trunk up\nlink add link trunk name eth0 type vlan id 7\n")
}

// bondVLANNIC has the underlay as VLAN 910 of a bond of two, as a HostNetwork makes it. The bond stays when the VLAN is made anew.
func bondVLANNIC(c *cluster, n *node) {
	c.t.Helper()
	if !strings.Contains(run(c.t, n.NS, "", "ip", "-o", "link", "show"), " bond0:") {
		ip(c.t, n.NS, "link add bond0 type bond mode active-backup miimon 50\n")
		for _, slave := range []string{"nic1", "nic2"} {
			port := fmt.Sprintf("port%d-%s", n.n, slave)
			pair(c.t, n.NS, slave, c.wire, port)
			ip(c.t, c.wire, "link set %s master br0 up\n", port)
			ip(c.t, n.NS, "link set %s master bond0\n", slave)
		}
		ip(c.t, n.NS, "link set bond0 up\n")
	}
	ip(c.t, n.NS, "link add link bond0 name eth0 type vlan id 910\n")
}

// TestServiceOnBond: all that TestService does, and again after a bond has changed its port.
func TestServiceOnBond(t *testing.T) {
	netns.NeedBond(t)
	c := newClusterOn(t, 2, bondNIC)
	client := walkServices(t, c)
	n1, n2 := c.nodes[0], c.nodes[1]

	vips := n1.service(100, n2.own())
	first := n1.activePort()
	ip(t, n1.NS, "link set %s down\n", first)
	eventually(t, 5*time.Second, "the other port", func() error {
		if now := n1.activePort(); now == first || now == "" {
			return fmt.Errorf("active is %q", now)
		}
		return nil
	})
	for _, to := range slices.Concat(n1.own(), n2.own(), vips) {
		for _, network := range []string{"tcp", "udp"} {
			if _, err := ask(client.NS, network, to); err != nil {
				t.Errorf("by the other port, to %s %s: %v", network, to, err)
			}
		}
	}
}

// activePort of the node's bond.
func (n *node) activePort() (name string) {
	n.t.Helper()
	n.Do(func() {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			n.t.Fatal(err)
		}
		active := l.(*netlink.Bond).ActiveSlave
		if active <= 0 {
			return
		}
		if l, err = netlink.LinkByIndex(active); err != nil {
			n.t.Fatal(err)
		}
		name = l.Attrs().Name
	})
	return name
}

func TestServiceOnVLAN(t *testing.T) {
	netns.NeedVLAN(t)
	walkServices(t, newClusterOn(t, 2, vlanNIC))
}

func TestServiceOnBondVLAN(t *testing.T) {
	netns.NeedBond(t)
	netns.NeedVLAN(t)
	walkServices(t, newClusterOn(t, 2, bondVLANNIC))
}

// TestBondVLANReturns: a VLAN that is made anew gets its vmac again, though the bond below was there all the time.
func TestBondVLANReturns(t *testing.T) {
	netns.NeedBond(t)
	netns.NeedVLAN(t)
	deleteAndReturn(t, newClusterOn(t, 1, bondVLANNIC))
}

func TestGatewayOfEachNodeOnBond(t *testing.T) {
	netns.NeedBond(t)
	askForGateways(t, newClusterOn(t, 2, bondNIC))
}

func TestGatewayOfEachNodeOnVLAN(t *testing.T) {
	netns.NeedVLAN(t)
	askForGateways(t, newClusterOn(t, 2, vlanNIC))
}
