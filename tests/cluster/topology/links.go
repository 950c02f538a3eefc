package topology

import "fmt"

// Batch is a script for `ip -batch` in one network namespace.
type Batch struct {
	Namespace string // "" is the root namespace
	Lines     []string
}

// Sysctl is one setting of one network namespace.
type Sysctl struct{ Namespace, Path, Value string }

// Links returns, in the order to run them, the ip commands that wire the
// lab's namespaces together:
//
//	root ── <name>-mgmt ─┐                    router: br-a 10.6.0.1  br-b 10.7.0.1
//	                     br-mgmt (control)              │                │
//	       node-a ─ mgmt ┤├ mgmt ─ node-b        node-a eth0      node-b eth0
func (t *Topology) Links() []Batch {
	control, router := t.Namespace("control"), t.Namespace("router")
	var out []Batch

	c := Batch{Namespace: control}
	c.add("link set lo up")
	c.add("link add br-mgmt type bridge mcast_snooping 0")
	c.add("link set br-mgmt up")
	c.add("addr add %s/%d dev br-mgmt", t.API4, t.Mgmt4.Bits())
	c.add("addr add %s/%d dev br-mgmt nodad", t.API6, t.Mgmt6.Bits())
	c.add("link add root type veth peer name %s netns 1", t.RootLink())
	c.add("link set root master br-mgmt up")
	for _, n := range t.Nodes {
		c.add("link add %s type veth peer name mgmt netns %s", n.Name, t.Namespace(n.Name))
		c.add("link set %s master br-mgmt up", n.Name)
		// Webhooks and aggregated API servers are pods the API server calls.
		c.add("route add %s via %s", n.Pods4, n.Mgmt4)
		c.add("route add %s via %s", n.Pods6, n.Mgmt6)
	}
	out = append(out, c)

	r := Batch{Namespace: router}
	r.add("link set lo up")
	for _, z := range t.Zones {
		r.add("link add %s type bridge mcast_snooping 0", z.Bridge)
		r.add("link set %s up", z.Bridge)
		r.add("addr add %s/%d dev %s", z.Router4, z.Prefix4.Bits(), z.Bridge)
		r.add("addr add %s/%d dev %s nodad", z.Router6, z.Prefix6.Bits(), z.Bridge)
	}
	for _, n := range t.Nodes {
		r.add("link add %s type veth peer name eth0 netns %s", n.Name, t.Namespace(n.Name))
		r.add("link set %s master %s up", n.Name, n.Zone.Bridge)
	}
	out = append(out, r)

	for _, n := range t.Nodes {
		out = append(out, t.nodeLinks(n))
	}

	root := Batch{}
	root.add("addr add %s/%d dev %s", t.Root4, t.Mgmt4.Bits(), t.RootLink())
	root.add("addr add %s/%d dev %s nodad", t.Root6, t.Mgmt6.Bits(), t.RootLink())
	root.add("link set %s up", t.RootLink())
	return append(out, root)
}

func (t *Topology) nodeLinks(n Node) Batch {
	b := Batch{Namespace: t.Namespace(n.Name)}
	b.add("link set lo up")
	b.add("addr add %s/%d dev eth0", n.Under4, n.Zone.Prefix4.Bits())
	b.add("addr add %s/%d dev eth0 nodad", n.Under6, n.Zone.Prefix6.Bits())
	b.add("link set eth0 up")
	b.add("addr add %s/%d dev mgmt", n.Mgmt4, t.Mgmt4.Bits())
	b.add("addr add %s/%d dev mgmt nodad", n.Mgmt6, t.Mgmt6.Bits())
	b.add("link set mgmt up")
	b.add("route add default via %s dev eth0", n.Zone.Router4)
	b.add("route add ::/0 via %s dev eth0", n.Zone.Router6)
	for _, peer := range t.Nodes {
		if peer.Name == n.Name {
			continue
		}
		b.add("route add %s via %s dev mgmt", peer.Pods4, peer.Mgmt4)
		b.add("route add %s via %s dev mgmt", peer.Pods6, peer.Mgmt6)
	}
	return b
}

func (b *Batch) add(format string, args ...any) {
	b.Lines = append(b.Lines, fmt.Sprintf(format, args...))
}

// Sysctls returns the settings that must precede Links: forwarding, without
// which an IPv6 default route through a router is not kept apart from RAs.
func (t *Topology) Sysctls() []Sysctl {
	var out []Sysctl
	for _, ns := range t.Namespaces() {
		for path, value := range map[string]string{
			"net/ipv4/ip_forward":              "1",
			"net/ipv6/conf/all/forwarding":     "1",
			"net/ipv6/conf/default/forwarding": "1",
			"net/ipv6/conf/default/accept_ra":  "0",
		} {
			out = append(out, Sysctl{ns, path, value})
		}
	}
	return out
}

// Masquerade is the nft ruleset of a node: pods that speak to anything outside
// the cluster, the underlay included, carry the node's address there, since
// nobody out there has a route to pod addresses.
func (t *Topology) Masquerade() string {
	return fmt.Sprintf(`table inet lab {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr %[1]s ip daddr != { %[1]s, %[2]s } masquerade
		ip6 saddr %[3]s ip6 daddr != { %[3]s, %[4]s } masquerade
	}
}
`, PodCIDR4, t.Mgmt4, PodCIDR6, t.Mgmt6)
}
