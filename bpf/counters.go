package bpf

import "fmt"

// reasons names the counters for people; docs and metrics use these names. Their order is that of counters.h.
var reasons = [programReasonREASONS]string{
	programReasonSTEERED_IPV4:         "steered_ipv4",         // from a local pod to a steered prefix
	programReasonSTEERED_IPV6:         "steered_ipv6",         //
	programReasonARP_ANSWERED:         "arp_answered",         // a local pod asked for the gateway or the node
	programReasonND_ANSWERED:          "nd_answered",          //
	programReasonDROP_ARP_OTHER:       "drop_arp_other",       // a reply, or a question about somebody else
	programReasonDROP_ARP_PROBE:       "drop_arp_probe",       // somebody probes the gateway's or the node's address
	programReasonDROP_ARP_STRANGER:    "drop_arp_stranger",    // a question to answer, by no local pod
	programReasonDROP_ND_OTHER:        "drop_nd_other",        // no solicitation, or one of somebody else
	programReasonDROP_ND_DAD:          "drop_nd_dad",          // somebody probes the gateway's or the node's address
	programReasonDROP_ND_STRANGER:     "drop_nd_stranger",     // a solicitation to answer, by no local pod
	programReasonDROP_SPOOFED_ADDRESS: "drop_spoofed_address", // the source address is no local pod's
	programReasonDROP_SPOOFED_MAC:     "drop_spoofed_mac",     // the source address is that of a pod with another MAC
	programReasonDROP_NOT_STEERED:     "drop_not_steered",     // the destination is in no steered prefix
	programReasonDROP_LINK_LOCAL:      "drop_link_local",      // the source is link-local
	programReasonDROP_MULTICAST:       "drop_multicast",       // to a group, or to all
	programReasonDROP_WRONG_MAC:       "drop_wrong_mac",       // not to the vmac
	programReasonDROP_VLAN:            "drop_vlan",            // tagged
	programReasonDROP_NOT_IP:          "drop_not_ip",          // neither IP nor ARP
	programReasonDROP_TRUNCATED:       "drop_truncated",       // shorter than its headers say
	programReasonDROP_MALFORMED:       "drop_malformed",       // headers that contradict themselves
	programReasonDROP_WRITE_FAILED:    "drop_write_failed",    // the kernel had no room for the answer
	programReasonGUARD_ARP:            "guard_arp",            // about the gateway, kept from the wire
	programReasonGUARD_ND:             "guard_nd",             //
}

// Reasons are the names of all counters, in order.
func Reasons() []string { return append([]string(nil), reasons[1:]...) }

// count is one CPU's value in the counters map.
type count struct{ Packets, Bytes uint64 }

// Counters are the packets by reason, summed over CPUs.
func (s *Steer) Counters() (map[string]uint64, error) {
	return s.sum(func(c count) uint64 { return c.Packets })
}

// Bytes are the bytes by reason, summed over CPUs. Answers count with the length of the answer.
func (s *Steer) Bytes() (map[string]uint64, error) {
	return s.sum(func(c count) uint64 { return c.Bytes })
}

func (s *Steer) sum(value func(count) uint64) (map[string]uint64, error) {
	sums := make(map[string]uint64, len(reasons)-1)
	var cpus []count
	for i, name := range reasons {
		if name == "" {
			continue
		}
		if err := s.maps.Counters.Lookup(uint32(i), &cpus); err != nil {
			return nil, fmt.Errorf("counter %s: %w", name, err)
		}
		sums[name] = 0
		for _, c := range cpus {
			sums[name] += value(c)
		}
	}
	return sums, nil
}
