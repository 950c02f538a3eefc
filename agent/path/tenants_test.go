//go:build linux

package path

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/tests/netns"
)

func ranges(s ...string) (out []Range) {
	for _, r := range s {
		first, last, ok := strings.Cut(r, "-")
		if !ok {
			last = first
		}
		out = append(out, Range{netip.MustParseAddr(first), netip.MustParseAddr(last)})
	}
	return out
}

func TestMerged(t *testing.T) {
	for _, tc := range []struct{ in, want []Range }{
		{nil, nil},
		{ranges("10.0.0.5", "10.0.0.1-10.0.0.3", "10.0.0.4"), ranges("10.0.0.1-10.0.0.5")},
		{ranges("10.0.0.1-10.0.0.9", "10.0.0.2", "10.0.0.11"), ranges("10.0.0.1-10.0.0.9", "10.0.0.11")},
		{ranges("fd00::1", "255.255.255.255", "255.255.255.254-255.255.255.255", "0.0.0.0"), ranges("0.0.0.0", "255.255.255.254-255.255.255.255", "fd00::1")},
		{ranges("255.255.255.255", "::"), ranges("255.255.255.255", "::")},
	} {
		if diff := cmp.Diff(tc.want, merged(tc.in), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%v (-want +got)\n%s", tc.in, diff)
		}
	}
}

func TestDesiredIsolation(t *testing.T) {
	all := map[string][]Range{"a": ranges("10.6.0.0-10.6.0.255"), "b": ranges("10.9.0.0-10.9.0.255"), "c": ranges("10.9.1.0-10.9.1.255")}
	links := []*vmac{{name: "vmac2", parent: "eth0"}, {name: "vmac3", parent: "eth1"}, {name: "vmac4", parent: "eth2"}, {name: "vmac5", parent: "eth3"}}
	for _, tc := range []struct {
		name  string
		t     Tenants
		vmacs []*vmac
		own   string
		apart string
	}{
		{name: "no tenants", vmacs: links},
		{name: "no links", t: Tenants{Ranges: all}},
		{name: "tenants elsewhere", t: Tenants{Ranges: all}, vmacs: links[:1], own: "map[]", apart: "[]"},
		{name: "one each", t: Tenants{all, map[string][]string{"eth0": {"a"}, "eth1": {"b"}}}, vmacs: links[:3],
			own: "map[vmac2:[{10.6.0.0 10.6.0.255}] vmac3:[{10.9.0.0 10.9.0.255}]]", apart: "[[vmac2 vmac3] [vmac3 vmac2] [vmac4 vmac2] [vmac4 vmac3]]"},
		{name: "two on a link, one of them on another", t: Tenants{all, map[string][]string{"eth0": {"b", "c"}, "eth1": {"b"}}}, vmacs: links[:2],
			own: "map[vmac2:[{10.9.0.0 10.9.1.255}] vmac3:[{10.9.0.0 10.9.0.255}]]", apart: "[[vmac3 vmac2]]"},
	} {
		got := desiredIsolation(tc.t, slices.Values(tc.vmacs))
		if tc.own == "" {
			if got.vmacs != nil {
				t.Errorf("%s: %+v, want no table", tc.name, got)
			}
			continue
		}
		if fmt.Sprint(got.own) != tc.own || fmt.Sprint(got.apart) != tc.apart {
			t.Errorf("%s: own %v, apart %v; want %s, %s", tc.name, got.own, got.apart, tc.own, tc.apart)
		}
	}
}

// wireWith gives a node a further NIC on a wire of its own, and another host on that wire: a plain one, or with a trunk the VLAN of
// that number on it.
func (c *cluster) wireWith(n *node, trunk *netns.NS, nic string, net int) (host *pod) {
	c.t.Helper()
	wire := trunk
	if trunk == nil {
		wire = namespace(c.t)
		pair(c.t, n.NS, nic, wire, "port1")
		ip(c.t, wire, "link add br0 type bridge\nlink set br0 up\nlink set port1 master br0\nlink set port1 up\n")
	} else {
		ip(c.t, n.NS, "link add link trunk name %s type vlan id %d\n", nic, net)
		ip(c.t, wire, "link add link trunk name trunk.%[1]d type vlan id %[1]d\nlink add br%[1]d type bridge\nlink set br%[1]d up\n"+
			"link set trunk.%[1]d master br%[1]d\nlink set trunk.%[1]d up\n", net)
	}
	host = &pod{NS: namespace(c.t), addrs: []netip.Addr{addr("10.%d.2.1", net), addr("2001:db8:%d::2:1", net)}}
	port, bridge := "port2", "br0"
	if trunk != nil {
		port, bridge = fmt.Sprintf("host%d", net), fmt.Sprintf("br%d", net)
	}
	pair(c.t, host.NS, "eth0", wire, port)
	ip(c.t, wire, "link set %[1]s master %[2]s\nlink set %[1]s up\n", port, bridge)
	ip(c.t, n.NS, "link set %[1]s up\naddress add 10.%[2]d.0.11/16 dev %[1]s\naddress add 2001:db8:%[2]d::11/64 dev %[1]s nodad\n", nic, net)
	ip(c.t, host.NS, "link set eth0 up\naddress add %s/16 dev eth0\naddress add %s/64 dev eth0 nodad\n", host.addrs[0], host.addrs[1])
	local(c.t, host.NS, host.addrs[1])
	local(c.t, n.NS, addr("2001:db8:%d::11", net))
	return host
}

// on a parent of the node, a pod with its path.
func (n *node) on(parent string, net, i int) *pod {
	n.t.Helper()
	p := &pod{NS: namespace(n.t), addrs: []netip.Addr{addr("10.%d.1.%d", net, i), addr("2001:db8:%d::1:%d", net, i)}}
	n.Do(func() {
		link, err := netlink.LinkByName(parent)
		if err != nil {
			n.t.Fatal(err)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex, attrs.Namespace = "net1", link.Attrs().Index, netlink.NsFd(p.FD())
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
	eps := p.endpoints()
	for i := range eps {
		eps[i].Parent = parent
	}
	n.must("attach", eps...)
	n.steer(p)
	return p
}

func (n *node) tenants(t Tenants) {
	n.t.Helper()
	if _, err := n.call(request{Op: "tenants", Tenants: t}); err != nil {
		n.t.Fatal(err)
	}
}

// TestTenants: who is of another wire on the host's way stays of another wire, be it directly, where a user has it steered, or by
// a Service; whatever is no tenant's is reached, and answers come back.
func TestTenants(t *testing.T) { keepTenantsApart(t, newCluster(t, 1), nil) }

// TestTenantsOnVLANs: two of the wires are VLANs of one link.
func TestTenantsOnVLANs(t *testing.T) {
	netns.NeedVLAN(t)
	c := newCluster(t, 1)
	trunk := namespace(t)
	pair(t, c.nodes[0].NS, "trunk", trunk, "trunk")
	ip(t, trunk, "link set trunk up\n")
	ip(t, c.nodes[0].NS, "link set trunk up\n")
	keepTenantsApart(t, c, trunk)
}

func keepTenantsApart(t *testing.T, c *cluster, trunk *netns.NS) {
	n := c.nodes[0]
	overlay := n.overlayPod()
	remoteB := c.wireWith(n, trunk, "eth1", 9)
	c.wireWith(n, trunk, "eth2", 8)
	n.start()
	t.Cleanup(func() { // before the wires go
		if err := n.cleanup(); err != nil {
			t.Error(err)
		}
		if out := run(t, n.NS, "", "nft", "list", "tables"); strings.Contains(out, "berth") {
			t.Errorf("left behind: %s", out)
		}
	})
	steering := n.steering()
	steering.User = prefixes("10.9.0.0/16", "2001:db8:9::/64")
	n.prefixes(steering)
	// On eth0 is tenant a, on eth1 tenant b, on eth2 is no tenant.
	a1, a2 := n.on("eth0", 6, 1), n.on("eth0", 6, 2)
	b1, d1, d2 := n.on("eth1", 9, 1), n.on("eth2", 8, 1), n.on("eth2", 8, 2)
	for _, p := range []*pod{a1, a2, b1, d1, d2, overlay, remoteB} {
		serve(t, p.NS, p.addrs...)
	}
	names := map[*pod]string{a1: "a1", a2: "a2", b1: "b1", d1: "d1", d2: "d2", overlay: "overlay", remoteB: "b elsewhere"}
	vips := map[*pod][]netip.Addr{}
	for i, p := range []*pod{a1, a2, b1, d1, d2, overlay, remoteB} {
		vips[p] = n.service(i+1, p.addrs)
	}
	check := func(from, to *pod, pass, direct bool) {
		t.Helper()
		for i, vip := range vips[to] {
			at := vip
			if direct {
				at = to.addrs[i]
			}
			if from != overlay {
				res, err := n.call(request{Op: "seen as", Addresses: []netip.Addr{from.addrs[i], to.addrs[i]}})
				if err != nil || res.Source.Dropped == pass {
					t.Errorf("%s to %s at %s: said to be %+v, %v; want it to pass: %t", names[from], names[to], at, res.Source, err, pass)
				}
			}
			seen, err := ask(from.NS, "tcp", at)
			if (err == nil) != pass {
				t.Errorf("%s to %s at %s: seen as %s, %v; want it to pass: %t", names[from], names[to], at, seen, err, pass)
			}
		}
	}
	before := []struct{ from, to *pod }{{a1, b1}, {b1, a1}, {a1, remoteB}, {d1, b1}, {d1, a1}}
	for _, way := range before { // without tenants all ways are open
		check(way.from, way.to, true, false)
	}
	check(a1, b1, true, true)

	apart := Tenants{
		Ranges: map[string][]Range{
			"a": ranges("10.6.1.0-10.6.1.255", "2001:db8:6::1:0-2001:db8:6::1:ffff"),
			"b": ranges("10.9.1.0-10.9.255.255", "2001:db8:9::1:0-2001:db8:9::ffff:ffff"),
			"c": ranges("10.7.0.0-10.7.255.255"),
		},
		Of: map[string][]string{"eth0": {"a"}, "eth1": {"b"}},
	}
	n.tenants(apart)
	for _, way := range before {
		check(way.from, way.to, false, false)
	}
	check(a1, b1, false, true)
	for _, way := range []struct{ from, to *pod }{{a1, a2}, {a1, a1}, {b1, remoteB}, {a1, d1}, {b1, d1}, {d1, d2}, {a1, overlay}, {overlay, b1}, {overlay, a1}} {
		check(way.from, way.to, true, false)
	}
	if _, err := ask(n.NS, "tcp", b1.addrs[0]); err != nil {
		t.Errorf("the node to its own pod: %v", err)
	}
	counted := n.must("kept apart").Apart
	if len(counted) != 3 || counted[vmacOf(n, "eth0")] == 0 || counted[vmacOf(n, "eth1")] == 0 || counted[vmacOf(n, "eth2")] == 0 {
		t.Errorf("dropped %v", counted)
	}

	// The same again changes nothing, and what someone took away is back.
	handles := run(t, n.NS, "", "nft", "-a", "list", "table", "inet", "berth-tenants")
	n.tenants(apart)
	if diff := cmp.Diff(head(handles), head(run(t, n.NS, "", "nft", "-a", "list", "table", "inet", "berth-tenants"))); diff != "" {
		t.Errorf("replaced (-before +after)\n%s", diff)
	}
	said := func(want string) {
		t.Helper()
		if found := fmt.Sprint(n.must("examine").Found); !strings.Contains(found, want) {
			t.Errorf("the doctor says %s, not %q", found, want)
		}
	}
	said("table inet berth-tenants: 12 rules")
	run(t, n.NS, "", "nft", "flush", "chain", "inet", "berth-tenants", "postrouting")
	said("table inet berth-tenants: it has 0 rules that are not the 12 wanted: tenants are not kept apart on this node")
	n.must("mend")
	said("table inet berth-tenants: 12 rules")
	check(a1, b1, false, false)

	// Networks may use the same addresses: of those that are a's as well, the one on this node is still b's.
	apart.Ranges["a"] = append(apart.Ranges["a"], apart.Ranges["b"]...)
	n.tenants(apart)
	check(a1, b1, false, false)
	check(b1, remoteB, true, false)

	n.tenants(Tenants{})
	check(a1, b1, true, false)
	if out := run(t, n.NS, "", "nft", "list", "tables"); strings.Contains(out, "berth-tenants") {
		t.Errorf("without tenants there is still %s", out)
	}
}

// head of a listing: the table with its handle.
func head(listing string) string {
	first, _, _ := strings.Cut(listing, "\n")
	return first
}

func vmacOf(n *node, parent string) (name string) {
	n.Do(func() {
		if link, err := netlink.LinkByName(parent); err == nil {
			name = vmacName(link.Attrs().Index)
		}
	})
	return name
}
