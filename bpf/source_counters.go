package bpf

import "fmt"

// refusals names the counters for people; docs and metrics use these names. Their order is that of source.h.
var refusals = [sourceRefusalREFUSALS]string{
	sourceRefusalSOURCE_MAC:       "source_mac",       // the frame's source is not the interface's MAC
	sourceRefusalSOURCE_IPV4:      "source_ipv4",      // an IPv4 source that the interface has no lease of
	sourceRefusalSOURCE_IPV6:      "source_ipv6",      // an IPv6 source that it has no lease of, and not link-local
	sourceRefusalSOURCE_ARP:       "source_arp",       // ARP in the name of another MAC or address
	sourceRefusalSOURCE_ND:        "source_nd",        // neighbour discovery about another MAC or address, or in fragments
	sourceRefusalSOURCE_ROUTER:    "source_router",    // a router advertisement or a redirect
	sourceRefusalSOURCE_VLAN:      "source_vlan",      // tagged
	sourceRefusalSOURCE_NOT_IP:    "source_not_ip",    // neither IP nor ARP
	sourceRefusalSOURCE_TRUNCATED: "source_truncated", // shorter than its headers
	sourceRefusalSOURCE_MALFORMED: "source_malformed", // headers that contradict themselves, or too many of them; or what was judged would be written over
	sourceRefusalSOURCE_UNKNOWN:   "source_unknown",   // of an interface that is being removed
}

// Refusals are the names of all counters of the source guard, in order.
func Refusals() []string { return append([]string(nil), refusals[1:]...) }

// Counters are the frames that were dropped by reason, summed over interfaces and CPUs.
func (g *SourceGuard) Counters() (map[string]uint64, error) {
	sums := make(map[string]uint64, len(refusals)-1)
	var cpus []uint64
	for i, name := range refusals {
		if name == "" {
			continue
		}
		if err := g.maps.Refusals.Lookup(uint32(i), &cpus); err != nil {
			return nil, fmt.Errorf("counter %s: %w", name, err)
		}
		sums[name] = 0
		for _, n := range cpus {
			sums[name] += n
		}
	}
	return sums, nil
}
