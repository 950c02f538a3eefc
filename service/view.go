package service

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berthdev/berth/ipam"
)

// Node is what is kept of a Node object.
type Node struct {
	Name      string
	Zone      string
	Addresses []netip.Addr // InternalIP and ExternalIP, sorted
}

// ReadNode of a Node object.
func ReadNode(n *corev1.Node) *Node {
	out := &Node{Name: n.Name, Zone: n.Labels[corev1.LabelTopologyZone]}
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		if ip, err := parse(a.Address); err == nil && special(ip) == "" {
			out.Addresses = append(out.Addresses, ip)
		}
	}
	slices.SortFunc(out.Addresses, netip.Addr.Compare)
	out.Addresses = slices.Compact(out.Addresses)
	return out
}

// Equal says whether nothing that matters differs.
func (n *Node) Equal(o *Node) bool {
	return n.Name == o.Name && n.Zone == o.Zone && slices.Equal(n.Addresses, o.Addresses)
}

// View is what one node knows, besides Services, of where addresses are. It is not changed once made.
type View struct {
	zone  string              // "," + zone + ","; "" if the node has none
	nodes map[netip.Addr]bool // true: of another node, false: of this one
	edges []edge              // sorted
}

// edge is where addresses begin to be of a network, up to the next edge; "": of none, or of several.
type edge struct {
	from    netip.Addr
	network string
}

// NewView of the node of that name. Of pools count the addresses that they give out, not the whole subnet: hosts and routers are in
// that, too, of which macvlan reaches all but this node's. What a pool with delegate has, only its plugin knows.
func NewView(node string, nodes []*Node, pools []*ipam.Pool) *View {
	v := &View{nodes: map[netip.Addr]bool{}, edges: edgesOf(pools)}
	for _, n := range nodes {
		own := n.Name == node
		if own && n.Zone != "" {
			v.zone = "," + n.Zone + ","
		}
		for _, a := range n.Addresses {
			if other, known := v.nodes[a]; !known || other {
				v.nodes[a] = !own
			}
		}
	}
	return v
}

// SameZone says whether both views are from the same zone, so that hints mean the same in both.
func (v *View) SameZone(o *View) bool { return v.zone == o.zone }

// place is where an address is, as Backend says it.
type place struct {
	network string
	node    bool
}

func (v *View) place(a netip.Addr) place {
	if other, known := v.nodes[a]; known {
		return place{node: other}
	}
	i, exact := slices.BinarySearchFunc(v.edges, a, func(e edge, a netip.Addr) int { return e.from.Compare(a) })
	if !exact {
		i--
	}
	if i < 0 {
		return place{}
	}
	return place{network: v.edges[i].network}
}

// edgesOf the pools' ranges. Two networks may have the same addresses; then nothing can be said of those.
func edgesOf(pools []*ipam.Pool) (out []edge) {
	type step struct {
		at      netip.Addr
		network string
		by      int
	}
	var steps []step
	for _, p := range pools {
		for _, f := range ipam.Families {
			for _, r := range p.Ranges(f) {
				steps = append(steps, step{r.From, p.Network, 1})
				end := r.To.Next()
				if !end.IsValid() && r.To.Is4() {
					end = netip.IPv6Unspecified() // comes right after the last of IPv4
				}
				if end.IsValid() {
					steps = append(steps, step{end, p.Network, -1})
				}
			}
		}
	}
	slices.SortFunc(steps, func(a, b step) int { return a.at.Compare(b.at) })
	active := map[string]int{} // how many pools of a network have the addresses from here
	for i, s := range steps {
		if active[s.network] += s.by; active[s.network] == 0 {
			delete(active, s.network)
		}
		if i+1 < len(steps) && steps[i+1].at == s.at {
			continue
		}
		network := ""
		if len(active) == 1 {
			for network = range active {
			}
		}
		if n := len(out); n == 0 || out[n-1].network != network {
			out = append(out, edge{s.at, network})
		}
	}
	return out
}

// Equal says whether every address is at the same place in both views, and this node in the same zone.
func (v *View) Equal(o *View) bool {
	return v.zone == o.zone && slices.Equal(v.edges, o.edges) && maps.Equal(v.nodes, o.nodes)
}
