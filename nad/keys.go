package nad

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// vocabulary is the annotations of one kind of object, by group. One that is nearly one of them is a typing error, and would leave a pod with
// another address than the person meant.
type vocabulary map[string][]string

var (
	ofPods = vocabulary{
		"berth.dev": {PoolAnnotation, PoolsAnnotation, IPsAnnotation, IdentityAnnotation, RoutesAnnotation, SteeringAnnotation, GuardAnnotation,
			AllowedAnnotation, FastModeAnnotation, SubnetAnnotation, SizeAnnotation, ReclaimAnnotation, NetspaceAnnotation},
		"ipam.spidernet.io": {spiderPool, spiderPools, spiderRoutes, spiderSubnet, spiderSubnets, spiderSize, spiderReclaim},
		"ipam.com":          {foreignNetspace},
	}
	ofNamespaces = vocabulary{"berth.dev": {PoolAnnotation}, "ipam.spidernet.io": {spiderIPv4, spiderIPv6}}
)

// has keys of the group of this one.
func (v vocabulary) has(key string) bool {
	group, _, _ := strings.Cut(key, "/")
	return v[group] != nil
}

// check refuses annotations with a typing error in their key. What is not near to any known one is of somebody else, or newer
// than this version.
func (v vocabulary) check(of string, annotations map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		group, _, _ := strings.Cut(key, "/")
		if slices.Contains(v[group], key) {
			continue
		}
		for _, k := range v[group] {
			if near(key, k) {
				return annotationError(of, key, annotations[key], fmt.Errorf("has no effect: there is no such annotation; correct it to %s, or remove it", k))
			}
		}
	}
	return nil
}

// near says whether two keys differ by one or two letters that are missing, wrong or too many (the Levenshtein distance), or in the case
// of letters.
func near(a, b string) bool {
	const most = 2
	a, b = strings.ToLower(a), strings.ToLower(b)
	if len(a)-len(b) > most || len(b)-len(a) > most {
		return false
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)] <= most
}
