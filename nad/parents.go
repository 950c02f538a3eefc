package nad

import (
	"fmt"
	"slices"
	"strings"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Parent is what is known of a host link that networks name as their master.
type Parent struct {
	MTU  int   // in bytes, the least of all nodes; 0: not known
	VLAN int32 // IEEE 802.1Q; 0: none, or not known
	// VLANKnown: nodes have told of the link, and all the same.
	VLANKnown bool
	// Missing says where it is not, and why; empty: nothing is known against it.
	Missing string
}

// mostNodes are named in a message; the rest is counted.
const mostNodes = 3

// ParentsOf the HostNetworks, and of what nodes have told (ParentsAnnotation, by node), by name of the link. A link that some nodes lack is
// not missing: networks are for nodes that have it. One that no node has is.
func ParentsOf(networks []v1alpha1.HostNetwork, told map[string]string) map[string]Parent {
	out := map[string]Parent{}
	lacking, vlans := map[string][]string{}, map[string]map[int32]bool{}
	for node, text := range told {
		for name, l := range ParseParents(text) {
			p := out[name]
			if l.Missing {
				lacking[name] = append(lacking[name], node)
				continue
			}
			if p.MTU == 0 || l.MTU < p.MTU {
				p.MTU = l.MTU
			}
			if vlans[name] == nil {
				vlans[name] = map[int32]bool{}
			}
			vlans[name][l.VLAN] = true
			p.VLAN, p.VLANKnown = l.VLAN, len(vlans[name]) == 1
			if !p.VLANKnown {
				p.VLAN = 0
			}
			out[name] = p
		}
	}
	for name, nodes := range lacking {
		if _, ok := out[name]; !ok {
			out[name] = Parent{Missing: "no node has it, by the word of " + few(nodes)}
		}
	}
	for i := range networks {
		n := &networks[i]
		for name, vlan := range Links(n) {
			p := out[name]
			if !p.VLANKnown {
				p.VLAN = vlan
			}
			if m := n.Spec.MTU; m != nil && (p.MTU == 0 || int(*m) < p.MTU) {
				p.MTU = int(*m)
			}
			if why := missing(n, name); why != "" {
				p.Missing = why
			}
			out[name] = p
		}
	}
	return out
}

// Links that a HostNetwork makes, and their VLANs; 0 for the bond, which may be an access port. A parent that was there already is not its.
func Links(n *v1alpha1.HostNetwork) map[string]int32 {
	out := map[string]int32{}
	base := n.Spec.Parent
	if n.Spec.Bond != nil {
		base = n.Spec.Bond.Name
		out[base] = 0
	}
	for _, v := range n.Spec.VLANs {
		out[fmt.Sprintf("%s.%d", base, v)] = v
	}
	return out
}

// missing says on which nodes a link is not, although they have told how the HostNetwork stands there.
func missing(n *v1alpha1.HostNetwork, link string) string {
	var bad []string
	for _, node := range n.Status.Nodes {
		if node.Ready || node.ObservedGeneration != n.Generation || slices.Contains(node.Links, link) {
			continue
		}
		why := node.Node
		if node.Message != "" {
			why += " (" + node.Message + ")"
		}
		bad = append(bad, why)
	}
	if len(bad) == 0 {
		return ""
	}
	return fmt.Sprintf("HostNetwork %q has not made it on %s", n.Name, few(bad))
}

// few of the words, and how many more there are.
func few(words []string) string {
	slices.Sort(words)
	more := ""
	if len(words) > mostNodes {
		more = fmt.Sprintf(" and %d more", len(words)-mostNodes)
		words = words[:mostNodes]
	}
	return strings.Join(words, ", ") + more
}
