package topology

import (
	"slices"
	"strings"
	"testing"
)

func TestNewAddresses(t *testing.T) {
	top, err := New("berth", 255)
	if err != nil {
		t.Fatal(err)
	}
	// Tests and documents outside this module name these.
	for _, tt := range []struct{ node, zone, under4, under6, mgmt4, pods4, pods6 string }{
		{"node-a", "a", "10.6.0.11", "fd00:6::11", "172.30.255.11", "10.244.0.0/24", "fd00:244::/64"},
		{"node-b", "b", "10.7.0.12", "fd00:7::12", "172.30.255.12", "10.244.1.0/24", "fd00:244:0:1::/64"},
	} {
		n, ok := top.Node(tt.node)
		if !ok {
			t.Fatalf("no node %s", tt.node)
		}
		got := []string{n.Zone.Name, n.Under4.String(), n.Under6.String(), n.Mgmt4.String(), n.Pods4.String(), n.Pods6.String()}
		want := []string{tt.zone, tt.under4, tt.under6, tt.mgmt4, tt.pods4, tt.pods6}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", tt.node, got, want)
		}
		if !n.Zone.Prefix4.Contains(n.Under4) || !n.Zone.Prefix6.Contains(n.Under6) || !top.Mgmt6.Contains(n.Mgmt6) {
			t.Errorf("%s: an address is outside its prefix", tt.node)
		}
	}
	if got := top.Server(); got != "https://172.30.255.2:6443" {
		t.Errorf("server %s", got)
	}
}

func TestNewRejects(t *testing.T) {
	for _, tt := range []struct {
		name string
		slot int
	}{{"", 0}, {"Berth", 0}, {"1st", 0}, {"a-b", 0}, {"elevenchars", 0}, {"berth", -1}, {"berth", 256}} {
		if _, err := New(tt.name, tt.slot); err == nil {
			t.Errorf("New(%q, %d) is no error", tt.name, tt.slot)
		}
	}
}

func TestRootLinkFits(t *testing.T) {
	top, err := New(strings.Repeat("x", MaxName), 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(top.RootLink()); n > 15 {
		t.Errorf("link name %q has %d characters, Linux allows 15", top.RootLink(), n)
	}
}

func TestLinks(t *testing.T) {
	top, err := New("berth", 7)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string][]string{}
	for _, b := range top.Links() {
		if b.Namespace != "" && !slices.Contains(top.Namespaces(), b.Namespace) {
			t.Errorf("commands for namespace %q, which is not made", b.Namespace)
		}
		for _, l := range b.Lines {
			if strings.HasPrefix(l, "-") {
				t.Errorf("%q: ip -batch takes no options", l)
			}
		}
		seen[b.Namespace] = append(seen[b.Namespace], b.Lines...)
	}
	for ns, line := range map[string]string{
		"":              "addr add 172.30.7.1/24 dev berth-mgmt",
		"berth-control": "route add 10.244.1.0/24 via 172.30.7.12",
		"berth-router":  "addr add 10.7.0.1/16 dev br-b",
		"berth-node-a":  "route add 10.244.1.0/24 via 172.30.7.12 dev mgmt",
		"berth-node-b":  "route add ::/0 via fd00:7::1 dev eth0",
	} {
		if !slices.Contains(seen[ns], line) {
			t.Errorf("namespace %q lacks %q", ns, line)
		}
	}
	// In the machine's own namespace a lab touches its one link only.
	for _, l := range seen[""] {
		if !strings.Contains(l, top.RootLink()) {
			t.Errorf("root namespace: %q", l)
		}
	}
}

func TestMasquerade(t *testing.T) {
	top, err := New("berth", 7)
	if err != nil {
		t.Fatal(err)
	}
	rules := top.Masquerade()
	for _, want := range []string{
		"ip saddr 10.244.0.0/16 ip daddr != { 10.244.0.0/16, 172.30.7.0/24 } masquerade",
		"ip6 saddr fd00:244::/48 ip6 daddr != { fd00:244::/48, fd00:172:30:7::/64 } masquerade",
	} {
		if !strings.Contains(rules, want) {
			t.Errorf("rules lack %q:\n%s", want, rules)
		}
	}
}
