// Package topology is the fixed plan of the lab: which nodes and zones there
// are and which address each of them has. It is pure; what it says is made
// real by the packages fabric, node and controlplane.
package topology

import (
	"fmt"
	"net/netip"
	"regexp"
)

// Cluster-wide address ranges. They live in namespaces of the lab only, so two
// labs on one machine use the same ones.
const (
	PodCIDR4     = "10.244.0.0/16"
	PodCIDR6     = "fd00:244::/48"
	ServiceCIDR4 = "10.96.0.0/16"
	ServiceCIDR6 = "fd00:96::/112"

	DNS4           = "10.96.0.10"
	DNS6           = "fd00:96::a"
	APIService4    = "10.96.0.1"
	APIServicePort = 443
	APIPort        = 6443
	ClusterDomain  = "cluster.local"
)

// MaxName bounds the length of a lab's name: "<name>-mgmt" names a link in the
// root namespace, and Linux allows a link 15 characters.
const MaxName = 10

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9]*$`)

// Zone is one segment of the underlay: a bridge with a router's address on it.
type Zone struct {
	Name    string // "a"
	Bridge  string // in the router's namespace
	Prefix4 netip.Prefix
	Prefix6 netip.Prefix
	Router4 netip.Addr
	Router6 netip.Addr
}

// Node is one Kubernetes node.
type Node struct {
	Name  string // Kubernetes node name, "node-a"
	Zone  Zone
	Index int

	Under4, Under6 netip.Addr // eth0, in the zone's segment
	Mgmt4, Mgmt6   netip.Addr // mgmt, the node-ip
	Pods4, Pods6   netip.Prefix
}

// Topology is a lab's plan. Slot sets the management range apart from that of
// other labs on the machine, for it is reachable from the root namespace.
type Topology struct {
	Name  string
	Slot  int
	Zones []Zone
	Nodes []Node

	Mgmt4, Mgmt6 netip.Prefix
	Root4, Root6 netip.Addr // the machine's own end
	API4, API6   netip.Addr // the control plane
}

// New returns the plan of the lab called name in management slot 0..255.
func New(name string, slot int) (*Topology, error) {
	if !nameRE.MatchString(name) || len(name) > MaxName {
		return nil, fmt.Errorf("lab name %q: want at most %d lower-case letters and digits, a letter first", name, MaxName)
	}
	if slot < 0 || slot > 255 {
		return nil, fmt.Errorf("management slot %d: want 0..255", slot)
	}
	t := &Topology{
		Name:  name,
		Slot:  slot,
		Mgmt4: netip.MustParsePrefix(fmt.Sprintf("172.30.%d.0/24", slot)),
		Mgmt6: netip.MustParsePrefix(fmt.Sprintf("fd00:172:30:%x::/64", slot)),
		Zones: []Zone{zone("a", 6), zone("b", 7)},
	}
	t.Root4, t.Root6 = nth(t.Mgmt4, 1), nth(t.Mgmt6, 1)
	t.API4, t.API6 = nth(t.Mgmt4, 2), nth(t.Mgmt6, 2)
	for i, z := range t.Zones {
		// Hosts read alike in both families: 10.6.0.11 and fd00:6::11.
		host := 11 + i
		t.Nodes = append(t.Nodes, Node{
			Name:   "node-" + z.Name,
			Zone:   z,
			Index:  i,
			Under4: nth(z.Prefix4, host),
			Under6: netip.MustParseAddr(fmt.Sprintf("%s%d", z.Prefix6.Addr(), host)),
			Mgmt4:  nth(t.Mgmt4, host),
			Mgmt6:  netip.MustParseAddr(fmt.Sprintf("%s%d", t.Mgmt6.Addr(), host)),
			Pods4:  netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i)),
			Pods6:  netip.MustParsePrefix(fmt.Sprintf("fd00:244:0:%x::/64", i)),
		})
	}
	return t, nil
}

func zone(name string, net int) Zone {
	z := Zone{
		Name:    name,
		Bridge:  "br-" + name,
		Prefix4: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", net)),
		Prefix6: netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", net)),
	}
	z.Router4, z.Router6 = nth(z.Prefix4, 1), nth(z.Prefix6, 1)
	return z
}

// nth returns the address n after the first of p, for small n.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// Node finds a node by its Kubernetes name.
func (t *Topology) Node(name string) (Node, bool) {
	for _, n := range t.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// Server is the API server's URL, the same from the machine and from nodes.
func (t *Topology) Server() string {
	return fmt.Sprintf("https://%s:%d", t.API4, APIPort)
}

// RootLink is the one link the lab has in the root namespace.
func (t *Topology) RootLink() string { return t.Name + "-mgmt" }

// Namespace is the name under /run/netns of one of the lab's members: a node,
// "router" or "control".
func (t *Topology) Namespace(member string) string { return t.Name + "-" + member }

// Namespaces lists all network namespaces of the lab.
func (t *Topology) Namespaces() []string {
	ns := []string{t.Namespace("router"), t.Namespace("control")}
	for _, n := range t.Nodes {
		ns = append(ns, t.Namespace(n.Name))
	}
	return ns
}
