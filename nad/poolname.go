package nad

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/berthdev/berth/api/v1alpha1"
)

// PoolName of the application pool of a workload in a netspace ("": none), for one interface of its pods, carved from one Subnet. It is
// the lock: whoever makes the pool for the same workload makes the same object, and a workload that comes again finds its pool. The
// version of the workload's API is no part of it.
func PoolName(owner v1alpha1.PoolOwner, netspace, ifName, subnet string) string {
	const label, sum = 63, 5 // characters of a DNS label, bytes of the hash
	group, _, versioned := strings.Cut(owner.APIVersion, "/")
	if !versioned {
		group = ""
	}
	hash := sha256.Sum256([]byte(strings.Join([]string{group, owner.Kind, owner.Namespace, owner.Name, netspace, ifName, subnet}, "\x00")))
	tail := hex.EncodeToString(hash[:sum])
	head := func(s string, most int) string { // as far as a label may have it, for people
		s = strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
				return r
			}
			return '-'
		}, strings.ToLower(s))
		return strings.Trim(s[:min(len(s), most)], "-") // all of it is ASCII by now
	}
	ifPart := head(ifName, ifNameLen)
	parts := []string{head(owner.Name, label-len(tail)-len(ifPart)-len("app---")), ifPart, tail}
	return strings.ReplaceAll("app-"+strings.Join(parts, "-"), "--", "-")
}
