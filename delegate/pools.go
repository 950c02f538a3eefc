package delegate

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// ParsePools reads a list of pools as people write it, "zone-a, zone-b": names or path.Match patterns ("zone-*"), separated
// by commas. Its order is the order in which the pools are tried.
func ParsePools(s string) ([]string, error) {
	if strings.TrimSpace(s) == "" {
		return nil, errNoPool
	}
	return CleanPools(strings.Split(s, ","))
}

// CleanPools trims the names in a list of pools and drops those that came before. It refuses an empty list, an empty or
// impossible name, and a malformed pattern.
func CleanPools(list []string) ([]string, error) {
	if len(list) == 0 {
		return nil, errNoPool
	}
	pools := make([]string, 0, len(list))
	for _, p := range list {
		p = strings.TrimSpace(p)
		if p == "" {
			return nil, errors.New("has an empty pool name")
		}
		if strings.ContainsFunc(p, notInPool) {
			return nil, fmt.Errorf("has %q, which is no pool name: it takes lower-case letters, digits, - and . "+
				"(and the wildcards *, ? and [a-z]), and a comma between pools", p)
		}
		if _, err := path.Match(p, ""); err != nil {
			return nil, fmt.Errorf("has the malformed pattern %q", p)
		}
		if !slices.Contains(pools, p) {
			pools = append(pools, p)
		}
	}
	return pools, nil
}

var errNoPool = errors.New("names no pool")

// notInPool refuses what neither the name of a Kubernetes object (RFC 1123 subdomain) nor a pattern for it has. No
// backslash, since no name has a character that needs it.
func notInPool(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("-.*?[]^", r)
}

// poolList is a list of pools in JSON: ["a","b"] or "a,b".
type poolList []string

func (l *poolList) UnmarshalJSON(data []byte) error {
	var s string
	if json.Unmarshal(data, &s) == nil && string(data) != "null" {
		pools, err := ParsePools(s)
		*l = pools
		return err
	}
	var pools []string
	if err := json.Unmarshal(data, &pools); err != nil {
		return errors.New(`is neither a list of pools nor a string "a,b"`)
	}
	pools, err := CleanPools(pools)
	*l = pools
	return err
}
