//go:build linux

package path

import (
	"fmt"
	"net/netip"

	"github.com/berthdev/berth/agent/report"
	"github.com/berthdev/berth/bpf"
)

// few findings of a kind are told one by one.
const few = 10

// compared tells each difference. Of what is not wanted nothing is said where that may be incomplete.
func compared[K, V comparable](check, where string, desired, actual map[K]V, complete bool, compare func(a, b K) int, entry func(K) string) (found []report.Finding) {
	set, remove := difference(desired, actual, compare)
	add := func(format string, args ...any) {
		found = append(found, bad(check, mended, "%s: %s", where, fmt.Sprintf(format, args...)))
	}
	for _, k := range set {
		if have, there := actual[k]; there {
			add("%s has %v, not %v", entry(k), have, desired[k])
		} else {
			add("%s is missing", entry(k))
		}
	}
	for _, k := range remove {
		if complete {
			add("%s is there, and nobody wants it", entry(k))
		}
	}
	if n := len(found); n > few {
		found = append(found[:few], bad(check, mended, "%s: and %d more", where, n-few))
	}
	return found
}

// examineMaps looks at what the programs know.
func (s *scene) examineMaps(v *sight) (found []report.Finding, err error) {
	if v.view == nil {
		return nil, nil // said before
	}
	if s.want != nil {
		known, err := v.view.Endpoints()
		if err != nil {
			return nil, err
		}
		actual := map[netip.Addr]mac{}
		for _, e := range known {
			actual[e.Address] = e.MAC
		}
		found = append(found, orOK(compared(checkEndpoints, v.name, s.desired[v.parent], actual, s.complete, netip.Addr.Compare,
			func(a netip.Addr) string { return "the map entry of " + a.String() }),
			checkEndpoints, "%s: the programs know %d addresses", v.name, len(actual))...)
	}
	prefixes, err := s.examinePrefixes(v)
	return append(found, prefixes...), err
}

func (s *scene) examinePrefixes(v *sight) ([]report.Finding, error) {
	actual, err := v.view.Prefixes()
	if err != nil {
		return nil, err
	}
	var found []report.Finding
	if s.want != nil && s.want.Prefixes == nil {
		return []report.Finding{warn(checkPrefixes, "wait until the agent has read the cluster's CIDRs; its log says what it waits for",
			"%s: the agent does not know yet what is to be steered", v.name)}, nil
	}
	services := 0
	for _, class := range actual {
		if class == bpf.ClassService {
			services++
		}
	}
	if services == 0 {
		found = append(found, bad(checkPrefixes, "set --service-cidrs of the agent, or see that the cluster has a ServiceCIDR object; "+
			"pods that run keep their routes, so delete them then", "%s: no service CIDR is steered", v.name))
	}
	if s.want != nil {
		found = append(found, compared(checkPrefixes, v.name, desiredClasses(*s.want.Prefixes, s.own), actual, true, comparePrefix,
			func(p netip.Prefix) string { return "steered prefix " + p.String() })...)
	}
	return orOK(found, checkPrefixes, "%s: %d prefixes are steered, %d of them service CIDRs", v.name, len(actual), services), nil
}
