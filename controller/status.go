package controller

import (
	"fmt"
	"math/big"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// Reasons of the conditions.
const (
	reasonServing   = "Serving"
	reasonDisabled  = "Disabled"
	reasonDeleting  = "WaitsForLeases"
	reasonMalformed = "Malformed"
	reasonEmpty     = "NoAddresses"
	reasonExhausted = "NoFreeAddress"
	reasonFree      = "FreeAddresses"
	reasonOverlap   = "SharesAddresses"
	reasonAlone     = "NoOtherPool"
	reasonDelegated = "Delegated"
	reasonUnknown   = "Unknown"
)

// poolStatus computes the status of pool from a snapshot: the other pools, and the leases of its network.
func poolStatus(pool *v1alpha1.IPPool, others []v1alpha1.IPPool, leases []v1alpha1.IPLease, now time.Time) v1alpha1.IPPoolStatus {
	out := v1alpha1.IPPoolStatus{
		ObservedGeneration: pool.Generation,
		Subnets:            cidrsOf(pool),
		Conditions:         append([]metav1.Condition(nil), pool.Status.Conditions...),
	}
	set := func(kind string, status metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&out.Conditions, metav1.Condition{
			Type: kind, Status: status, Reason: reason, Message: message,
			ObservedGeneration: pool.Generation, LastTransitionTime: metav1.NewTime(now),
		})
	}

	p, err := ipam.Compile(pool)
	if err != nil {
		set(v1alpha1.PoolReady, metav1.ConditionFalse, reasonMalformed, err.Error())
		set(v1alpha1.PoolOverlapping, metav1.ConditionUnknown, reasonUnknown, "the pool is malformed")
		set(v1alpha1.PoolExhausted, metav1.ConditionUnknown, reasonUnknown, "the pool is malformed")
		return out
	}

	var totals, frees []*big.Int
	var exhausted []string
	tallies := count(p, leases)
	own := int64(0)
	for _, t := range tallies {
		own += t.bound + t.reserved
	}
	if p.Delegate != nil {
		// Only the other plugin knows how many addresses it has. It says that none is free by failing.
		out.Total, out.Free = notCounted, notCounted
		out.IPv4, out.IPv6 = leasesOnly(tallies, ipam.IPv4), leasesOnly(tallies, ipam.IPv6)
		set(v1alpha1.PoolExhausted, metav1.ConditionFalse, reasonDelegated, fmt.Sprintf("the plugin %q knows what is free", p.Delegate.Type))
		set(v1alpha1.PoolOverlapping, metav1.ConditionFalse, reasonDelegated, fmt.Sprintf("the plugin %q chooses the addresses", p.Delegate.Type))
		ready, reason, message := readiness(pool, own, false, nil)
		set(v1alpha1.PoolReady, ready, reason, message)
		return out
	}
	for _, f := range familiesOf(p) {
		total, t := p.Ranges(f).Count(), tallies[f]
		c := addressCount(total, t)
		if f == ipam.IPv4 {
			out.IPv4 = c
		} else {
			out.IPv6 = c
		}
		totals, frees = append(totals, total), append(frees, free(total, t))
		if c.Free == "0" {
			exhausted = append(exhausted, fmt.Sprintf("no free %s address (%d of %s taken)", f, t.taken, total))
		}
	}
	out.Total, out.Free = ipam.Readable(totals), ipam.Readable(frees)

	if len(exhausted) > 0 {
		set(v1alpha1.PoolExhausted, metav1.ConditionTrue, reasonExhausted,
			fmt.Sprintf("pool %q has %s; add a range or a pool", pool.Name, strings.Join(exhausted, " and ")))
	} else {
		set(v1alpha1.PoolExhausted, metav1.ConditionFalse, reasonFree, "each family has free addresses")
	}
	if shared := overlaps(p, pool.Spec.Subnet != "", others); len(shared) > 0 {
		set(v1alpha1.PoolOverlapping, metav1.ConditionTrue, reasonOverlap, strings.Join(shared, "; "))
	} else {
		set(v1alpha1.PoolOverlapping, metav1.ConditionFalse, reasonAlone, fmt.Sprintf("no other pool of network %q has these addresses", p.Network))
	}
	ready, reason, message := readiness(pool, own, len(totals) == 0 || zero(totals), exhausted)
	set(v1alpha1.PoolReady, ready, reason, message)
	return out
}

// notCounted stands for the numbers of addresses that only another plugin knows.
const notCounted = "-"

// readiness says whether the pool can give an address of each of its families.
func readiness(pool *v1alpha1.IPPool, own int64, empty bool, exhausted []string) (metav1.ConditionStatus, string, string) {
	switch {
	case pool.DeletionTimestamp != nil:
		return metav1.ConditionFalse, reasonDeleting, fmt.Sprintf("the pool is being deleted and waits for %d leases, bound or reserved", own)
	case pool.Spec.Disabled:
		return metav1.ConditionFalse, reasonDisabled, "spec.disabled is true; what the pool has given stays bound"
	case empty:
		return metav1.ConditionFalse, reasonEmpty, "a family has no address to give out: ips less excludeIPs and gateway leaves none"
	case len(exhausted) > 0:
		return metav1.ConditionFalse, reasonExhausted, strings.Join(exhausted, "; ")
	}
	return metav1.ConditionTrue, reasonServing, "the pool gives out addresses"
}

// leasesOnly counts a family of a pool whose addresses another plugin chooses; nil if it has no lease.
func leasesOnly(tallies map[ipam.Family]tally, f ipam.Family) *v1alpha1.AddressCount {
	t, ok := tallies[f]
	if !ok {
		return nil
	}
	return &v1alpha1.AddressCount{Total: notCounted, Free: notCounted, Bound: t.bound, Reserved: t.reserved, Quarantined: t.quarantined}
}

// familiesOf the pool's subnets, a family without any address to give included, unlike Pool.Families.
func familiesOf(p *ipam.Pool) []ipam.Family {
	var out []ipam.Family
	for _, f := range ipam.Families {
		for _, s := range p.Subnets() {
			if ipam.FamilyOf(s.Prefix.Addr()) == f {
				out = append(out, f)
				break
			}
		}
	}
	return out
}

func zero(totals []*big.Int) bool {
	for _, n := range totals {
		if n.Sign() == 0 {
			return true
		}
	}
	return false
}

func cidrsOf(pool *v1alpha1.IPPool) string {
	s := make([]string, len(pool.Spec.Subnets))
	for i := range s {
		s[i] = pool.Spec.Subnets[i].CIDR
	}
	return strings.Join(s, ",")
}

// overlaps names the pools of the same network that have addresses of p, and which. Such pools are safe, since the name of the
// lease is the lock, but their counts of free addresses are not independent.
//
// Of two pools that are carved the blocks say who has what, so they are not looked at: there may be thousands.
func overlaps(p *ipam.Pool, carved bool, others []v1alpha1.IPPool) []string {
	const most = 5 // pools that are named
	var out []string
	for i := range others {
		o := &others[i]
		if o.Name == p.Name || o.Spec.Network != p.Network || carved && o.Spec.Subnet != "" {
			continue
		}
		q, err := ipam.Compile(o)
		if err != nil {
			continue // that pool's own status says so, and it gives out nothing
		}
		for _, f := range ipam.Families {
			shared := p.Ranges(f).Overlap(q.Ranges(f))
			if len(shared) == 0 {
				continue
			}
			if len(out) == most {
				return append(out, "and others")
			}
			out = append(out, fmt.Sprintf("pool %q has %s too", o.Name, clip(shared)))
		}
	}
	return out
}

// clip writes the first few ranges.
func clip(rs ipam.Ranges) string {
	const most = 3
	if len(rs) <= most {
		return rs.String()
	}
	return fmt.Sprintf("%s and %d more ranges", rs[:most], len(rs)-most)
}
