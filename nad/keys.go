package nad

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// known annotations of pods, by group. An annotation that is nearly one of them is a typing error, and would leave a pod with another
// address than the person meant.
var known = map[string][]string{
	"berth.dev": {PoolAnnotation, PoolsAnnotation, IPsAnnotation, IdentityAnnotation, RoutesAnnotation, SteeringAnnotation, GuardAnnotation,
		AllowedAnnotation, FastModeAnnotation, SubnetAnnotation, SizeAnnotation, ReclaimAnnotation, NetspaceAnnotation},
	"ipam.spidernet.io": {spiderPool, spiderPools, spiderRoutes, spiderSubnet, spiderSubnets, spiderSize, spiderReclaim},
}

// vocabulary that a key belongs to, by its group.
func vocabulary(key string) ([]string, bool) {
	group, _, _ := strings.Cut(key, "/")
	keys, ok := known[group]
	return keys, ok
}

// checkKeys refuses annotations with a typing error in their key. What is not near to any known one is of somebody else, or newer
// than this version.
func checkKeys(pod map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(pod)) {
		keys, _ := vocabulary(key)
		if slices.Contains(keys, key) {
			continue
		}
		for _, k := range keys {
			if near(key, k) {
				return annotationError("pod", key, pod[key], fmt.Errorf("has no effect: there is no such annotation; correct it to %s, or remove it", k))
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
