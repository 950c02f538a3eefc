//go:build linux

package path

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/berthdev/berth/bpf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var compareAddr = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestDifference(t *testing.T) {
	tests := []struct {
		name            string
		desired, actual map[string]int
		set, remove     []string
	}{
		{"nothing", nil, nil, nil, nil},
		{"all new, in order", map[string]int{"b": 1, "a": 2}, nil, []string{"a", "b"}, nil},
		{"all stale, in order", nil, map[string]int{"b": 1, "a": 2}, nil, []string{"a", "b"}},
		{"same", map[string]int{"a": 1}, map[string]int{"a": 1}, nil, nil},
		{"changed", map[string]int{"a": 1, "b": 0}, map[string]int{"a": 2, "c": 0}, []string{"a", "b"}, []string{"c"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			set, remove := difference(tt.desired, tt.actual, strings.Compare)
			if diff := cmp.Diff([][]string{tt.set, tt.remove}, [][]string{set, remove}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEndpoints(t *testing.T) {
	m1, m2 := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	a, b := netip.MustParseAddr("10.6.1.1"), netip.MustParseAddr("2001:db8::1")
	e := endpoints{}
	put := func(ep Endpoint, fails string) {
		t.Helper()
		if _, _, err := e.put(ep); (err == nil) != (fails == "") || err != nil && !strings.Contains(err.Error(), fails) {
			t.Errorf("put %v: %v, want %q", ep, err, fails)
		}
	}
	put(Endpoint{"eth0", a, m1}, "")
	put(Endpoint{"eth0", netip.MustParseAddr("::ffff:10.6.1.1"), m2}, "") // the same address, of a new pod
	put(Endpoint{"eth1", a, m1}, "already in use on eth0")
	put(Endpoint{"eth1", b, m1}, "")
	put(Endpoint{"", b, m1}, "no parent")
	put(Endpoint{"eth0", netip.MustParseAddr("fe80::2%eth0"), m1}, "not the address of a host")
	put(Endpoint{"eth0", netip.Addr{}, m1}, "not the address of a host")
	put(Endpoint{"eth0", b, m1[:4]}, "not an Ethernet address")
	want := endpoints{"eth0": {a: mac(m2)}, "eth1": {b: mac(m1)}}
	if diff := cmp.Diff(want, e, compareAddr); diff != "" {
		t.Error(diff)
	}
	if !anyIs4(e) || !anyIs6(e) || anyIs6(endpoints{"eth0": e["eth0"]}) || anyIs4(endpoints{}) {
		t.Error("families")
	}

	take := func(ep Endpoint, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, e.take(ep)); diff != "" {
			t.Errorf("take %v: %s", ep, diff)
		}
	}
	take(Endpoint{"eth0", a, m1})         // the pod before
	take(Endpoint{"eth1", a, m2})         // another parent
	take(Endpoint{"eth0", a, m2}, "eth0") // it
	take(Endpoint{"eth0", a, m2})         // again
	take(Endpoint{"", b, nil}, "eth1")
	if len(e) != 0 {
		t.Errorf("left: %v", e)
	}
}

func own(link int, cidr string) ownAddress {
	return ownAddress{Prefix: netip.MustParsePrefix(cidr), link: link}
}

func TestOwnAddress(t *testing.T) {
	tests := []struct {
		name, cidr   string
		scope        int
		flags        int
		ok, floating bool
	}{
		{"plain", "10.6.0.11/16", unix.RT_SCOPE_UNIVERSE, unix.IFA_F_PERMANENT, true, false},
		{"secondary, the same bit as temporary", "10.6.0.12/16", 0, unix.IFA_F_SECONDARY, true, false},
		{"node-local DNS", "169.254.20.10/32", 0, 0, true, false},
		{"the gateway itself", "169.254.1.1/32", 0, 0, false, false},
		{"loopback", "127.0.0.1/8", unix.RT_SCOPE_HOST, 0, false, false},
		{"global on lo", "192.0.2.1/32", 0, 0, true, false},
		{"link scope", "10.9.9.9/24", unix.RT_SCOPE_LINK, 0, false, false},
		{"IPv6", "2001:db8::1/64", 0, 0, true, false},
		{"IPv6 link-local", "fe80::2/64", unix.RT_SCOPE_LINK, 0, false, false},
		{"IPv6 link-local, said to be global", "fe80::2/64", 0, 0, false, false},
		{"tentative", "2001:db8::1/64", 0, unix.IFA_F_TENTATIVE, false, false},
		{"duplicate", "2001:db8::1/64", 0, unix.IFA_F_DADFAILED, false, false},
		{"privacy", "2001:db8::1/64", 0, unix.IFA_F_TEMPORARY, true, true},
		{"deprecated", "2001:db8::1/64", 0, unix.IFA_F_DEPRECATED, true, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := netlink.ParseAddr(tt.cidr)
			if err != nil {
				t.Fatal(err)
			}
			a.Scope, a.Flags, a.LinkIndex = tt.scope, tt.flags, 2
			got, ok := toOwnAddress(*a)
			want := ownAddress{}
			if tt.ok {
				want = own(2, tt.cidr)
				want.floating = tt.floating
			}
			if got != want || ok != tt.ok {
				t.Errorf("%+v %t, want %+v %t", got, ok, want, tt.ok)
			}
		})
	}
}

func TestSteered(t *testing.T) {
	temporary := own(2, "2001:db8::2/64")
	temporary.floating = true
	addresses := markVirtual([]ownAddress{
		own(2, "10.6.0.11/16"), own(2, "10.6.0.100/32"), // keepalived's
		own(3, "10.6.0.99/32"),                           // a /32 on a link of its own is the node's
		own(4, "10.244.1.1/24"), own(5, "10.96.0.10/32"), // covered
		own(2, "2001:db8::1/64"), temporary, own(6, "10.6.0.11/16"), // twice
	})
	p := Prefixes{Services: prefixes("10.96.0.0/16"), Pods: prefixes("10.244.0.0/16"), User: prefixes("172.16.0.0/12"),
		LocalPods: prefixes("10.244.1.0/24")}
	want := prefixes("10.6.0.11/32", "10.6.0.99/32", "10.96.0.0/16", "10.244.0.0/16", "172.16.0.0/12", "2001:db8::1/128")
	if diff := cmp.Diff(want, steered(p, addresses), compareAddr); diff != "" {
		t.Errorf("steered (-want +got):\n%s", diff)
	}
	classes := map[netip.Prefix]bpf.Class{}
	for prefix, class := range map[string]bpf.Class{
		"10.96.0.0/16": bpf.ClassService, "10.244.0.0/16": bpf.ClassPod, "172.16.0.0/12": bpf.ClassUser,
		"10.6.0.11/32": bpf.ClassNode, "10.6.0.100/32": bpf.ClassNode, "10.6.0.99/32": bpf.ClassNode, "10.244.1.1/32": bpf.ClassNode,
		"2001:db8::1/128": bpf.ClassNode, "2001:db8::2/128": bpf.ClassNode,
	} {
		classes[netip.MustParsePrefix(prefix)] = class
	}
	if diff := cmp.Diff(classes, desiredClasses(p, addresses), compareAddr); diff != "" {
		t.Errorf("classes (-want +got):\n%s", diff)
	}
}

func TestSourceFor(t *testing.T) {
	virtual := own(2, "10.6.0.100/16")
	virtual.floating = true
	addresses := []ownAddress{virtual, own(3, "10.6.0.9/16"), own(2, "192.168.0.11/24"), own(2, "10.6.0.11/16"), own(2, "2001:db8::1/64")}
	tests := []struct {
		endpoint string
		parent   int
		want     string
	}{
		{"10.6.1.1", 2, "10.6.0.11"},    // on the pod's subnet
		{"10.7.1.1", 2, "192.168.0.11"}, // none is: the parent's first
		{"10.6.1.1", 3, "10.6.0.9"},
		{"10.6.1.1", 4, ""}, // the kernel's choice
		{"2001:db8:1::1", 2, "2001:db8::1"},
		{"2001:db8:1::1", 3, ""},
	}
	for _, tt := range tests {
		var want netip.Addr
		if tt.want != "" {
			want = netip.MustParseAddr(tt.want)
		}
		if got := sourceFor(netip.MustParseAddr(tt.endpoint), addresses, tt.parent); got != want {
			t.Errorf("towards %s on %d: %s, want %s", tt.endpoint, tt.parent, got, want)
		}
	}
}

func TestNormalized(t *testing.T) {
	got, err := Prefixes{Services: prefixes("10.96.1.2/16", "10.96.0.0/16"), Pods: []netip.Prefix{{}, netip.MustParsePrefix("::ffff:10.0.0.0/104")},
		LocalPods: prefixes("2001:db8::1/64", "10.0.0.0/8")}.normalized()
	want := Prefixes{Services: prefixes("10.96.0.0/16"), LocalPods: prefixes("10.0.0.0/8", "2001:db8::/64")}
	if diff := cmp.Diff(want, got, compareAddr); diff != "" {
		t.Error(diff)
	}
	if err == nil || strings.Count(err.Error(), "pod prefix") != 2 {
		t.Errorf("error: %v", err)
	}
}

func TestGroups(t *testing.T) {
	if got := solicitedNode(bpf.Gateway6); got != (mac{0x33, 0x33, 0xff, 0, 0, 1}) {
		t.Error(got)
	}
	const file = `2    eth0            1     0     333300000001
3    vmac2           1     0     333300000001
3    vmac2           2     1     3333ff000001
3    vmac2           1     0     3333ff000002
3    vmac2           1     1     01005e000001
3    vmac2           1     1     nonsense
33   vmac3           1     1     3333ff000003
`
	got, err := parseGroups(strings.NewReader(file), 3)
	if diff := cmp.Diff(map[mac]bool{{0x33, 0x33, 0xff, 0, 0, 1}: true}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	want := map[mac]bool{{0x33, 0x33, 0xff, 0, 0, 1}: true, {0x33, 0x33, 0xff, 0, 0, 0x11}: true, {0x33, 0x33, 0xff, 0, 0, 5}: true}
	routers := []netip.Addr{netip.MustParseAddr("fe80::5"), netip.MustParseAddr("10.0.0.254")}
	if diff := cmp.Diff(want, desiredGroups([]ownAddress{own(2, "2001:db8::11/64"), own(2, "10.0.0.1/8")}, routers)); diff != "" {
		t.Error(diff)
	}
}

func TestVmacMAC(t *testing.T) {
	seen := map[mac]string{}
	for _, node := range []string{"a", "b", "ab", ""} {
		for _, parent := range []string{"eth0", "beth0", "bond0.910"} {
			m := vmacMAC(node, parent)
			if m[0]&3 != 2 {
				t.Errorf("%s is not a local unicast address", m)
			}
			if m != vmacMAC(node, parent) {
				t.Error("not the same twice")
			}
			if other, ok := seen[m]; ok {
				t.Errorf("%s/%s has the MAC of %s", node, parent, other)
			}
			seen[m] = node + "/" + parent
		}
	}
	if name := vmacName(1<<31 - 1); len(name) > 15 {
		t.Errorf("%s is too long for a link", name)
	}
}

func TestExpectedTable(t *testing.T) {
	if got := expected(ruleset{local: prefixes("10.0.0.0/8")}); !got.equal(tableState{}) {
		t.Errorf("without vmacs: %+v", got)
	}
	one := expected(ruleset{vmacs: []string{"vmac3", "vmac2"}, local: prefixes("10.0.0.0/8")})
	if !one.equal(expected(ruleset{vmacs: []string{"vmac2", "vmac3"}, local: prefixes("10.0.0.0/8")})) {
		t.Error("the order of links matters")
	}
	for _, other := range []ruleset{{}, {vmacs: []string{"vmac2"}, local: prefixes("10.0.0.0/8")}, {vmacs: []string{"vmac2", "vmac3"}}} {
		if one.equal(expected(other)) {
			t.Errorf("no difference to %+v", other)
		}
	}
	if rules := (ruleset{vmacs: []string{"vmac2"}}).postrouting(&nftables.Set{}, nil); len(rules) != 1 {
		t.Errorf("%d rules without local pods", len(rules))
	}
}
