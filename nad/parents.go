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
	VLAN int32 // IEEE 802.1Q; 0: not known
	// Missing says where it is not, and why; empty: nothing is known against it.
	Missing string
}

// mostNodes are named in a message; the rest is counted.
const mostNodes = 3

// ParentsOf the HostNetworks, by name of the link. Of other links of the nodes nothing is known.
func ParentsOf(networks []v1alpha1.HostNetwork) map[string]Parent {
	out := map[string]Parent{}
	for i := range networks {
		n := &networks[i]
		for name, vlan := range Links(n) {
			p := out[name]
			p.VLAN = vlan
			if m := n.Spec.MTU; m != nil && (p.MTU == 0 || int(*m) < p.MTU) {
				p.MTU = int(*m)
			}
			if why := missing(n, name); why != "" && p.Missing == "" {
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
	slices.Sort(bad)
	more := ""
	if len(bad) > mostNodes {
		more = fmt.Sprintf(" and %d more", len(bad)-mostNodes)
		bad = bad[:mostNodes]
	}
	return fmt.Sprintf("HostNetwork %q has not made it on %s%s", n.Name, strings.Join(bad, ", "), more)
}
