//go:build linux

package path

import "slices"

// difference says what to set and what to remove so that actual becomes desired. Both are in the order of compare, so
// that the same difference is always acted on, and logged, in the same order.
func difference[K, V comparable](desired, actual map[K]V, compare func(a, b K) int) (set, remove []K) {
	for k, v := range desired {
		if have, ok := actual[k]; !ok || have != v {
			set = append(set, k)
		}
	}
	for k := range actual {
		if _, ok := desired[k]; !ok {
			remove = append(remove, k)
		}
	}
	slices.SortFunc(set, compare)
	slices.SortFunc(remove, compare)
	return set, remove
}
