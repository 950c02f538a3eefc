package nad

import "path"

// Match says whether the pool named name is meant by pattern, a name or a path.Match pattern such as "zone-*". Patterns
// were checked when they were parsed; a malformed one matches nothing.
func Match(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// Expand gives the pools of names that the patterns mean: in the order of the patterns, those of one pattern in the order of
// names, each pool once. Missing are the patterns that mean none.
func Expand(patterns, names []string) (pools, missing []string) {
	seen := make(map[string]bool)
	for _, p := range patterns {
		found := false
		for _, n := range names {
			if !Match(p, n) {
				continue
			}
			found = true
			if !seen[n] {
				seen[n] = true
				pools = append(pools, n)
			}
		}
		if !found {
			missing = append(missing, p)
		}
	}
	return pools, missing
}
