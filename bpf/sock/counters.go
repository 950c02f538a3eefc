package sock

import "fmt"

// events names the counters for people; docs and metrics use these names. Their order is that of counters.h.
var events = [sockEventEVENTS]string{
	sockEventTRANSLATED_TCP:  "translated_tcp",  // connects
	sockEventTRANSLATED_UDP:  "translated_udp",  // connects, and datagrams that name an address
	sockEventNODE_STEERED:    "node_steered",    // left to the node: the Service's port is
	sockEventNODE_NOT_NATIVE: "node_not_native", // left to the node: the pod does not reach the chosen backend by itself
	sockEventNODE_CHANGING:   "node_changing",   // left to the node: the Service changed too fast to be read
	sockEventREFUSED:         "refused",         // the Service has no backend
	sockEventAFFINITY_HIT:    "affinity_hit",    // ClientIP affinity said where to
	sockEventRESELECTED:      "reselected",      // the backend of an affinity or a UDP socket was gone
}

// Events are the names of all counters, in order.
func Events() []string { return append([]string(nil), events[:]...) }

// Counters are the calls of pods to Services by what became of them, since the maps were made, summed over CPUs. One call may be
// counted by several.
func (v View) Counters() (map[string]uint64, error) {
	sums := make(map[string]uint64, len(events))
	var cpus []uint64
	for i, name := range events {
		if err := v.maps.Counters.Lookup(uint32(i), &cpus); err != nil {
			return nil, fmt.Errorf("counter %s: %w", name, err)
		}
		for _, n := range cpus {
			sums[name] += n
		}
	}
	return sums, nil
}
