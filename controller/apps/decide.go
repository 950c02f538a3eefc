package apps

import (
	"maps"
	"slices"
	"time"

	"github.com/berthdev/berth/api/v1alpha1"
)

// wanted pool of a workload.
type wanted struct {
	name, ifName, subnet, netspace string
	size                           int32
	keep                           bool
}

// change of a pool that is there.
type change struct {
	pool   *v1alpha1.IPPool
	size   int32
	keep   bool
	delete bool
}

// decision about the pools of one workload.
type decision struct {
	create  []wanted
	changes []change
	again   time.Duration // until the next look; 0: when something changes
}

// waiting is what a pool that may become smaller, or go, has needed since then: it becomes no smaller than the most of that time.
type waiting struct {
	since time.Time
	most  int32
}

// patience of each pool by name, kept from one look to the next.
type patience map[string]waiting

// decide what becomes of the pools of a workload:
//
//	pool           workload                        becomes
//	absent         wants it                        made, in the size that is needed
//	there          needs more                      larger, at once
//	there          has needed less for some time   smaller, but as large as the most of that time, and as what is in use
//	there          wants it no more, for some      deleted once nothing of it has been in use for that time
//	               time (other Subnet or interface)
//	there          gone for some time              deleted, and waits there for its leases; left as it is with keep
//	being deleted  any                             made anew once it is gone
//
// gone says that the workload is no more; then it wants nothing.
func decide(want []wanted, have []*v1alpha1.IPPool, gone bool, p patience, after time.Duration, now time.Time) decision {
	var d decision
	maps.DeleteFunc(p, func(name string, _ waiting) bool {
		return !slices.ContainsFunc(have, func(h *v1alpha1.IPPool) bool { return h.Name == name })
	})
	for _, w := range want {
		if !slices.ContainsFunc(have, func(h *v1alpha1.IPPool) bool { return h.Name == w.name }) {
			d.create = append(d.create, w)
		}
	}
	for _, h := range have {
		size, used := value(h.Spec.Size, 0), inUse(h)
		w := wanted{keep: h.Spec.Keep} // nothing
		i := slices.IndexFunc(want, func(w wanted) bool { return w.name == h.Name })
		if i >= 0 {
			w = want[i]
		}
		c := change{pool: h, size: size, keep: w.keep}
		switch target := max(w.size, used); {
		case h.DeletionTimestamp != nil:
			delete(p, h.Name)
			continue
		case i < 0 && gone && h.Spec.Keep, i < 0 && !gone && used > 0, i >= 0 && target >= size:
			delete(p, h.Name)
			c.size = max(w.size, size)
		default:
			wait, ok := p[h.Name]
			if !ok {
				wait.since = now
			}
			wait.most = max(wait.most, target)
			p[h.Name] = wait
			if left := after - now.Sub(wait.since); left > 0 {
				d.look(left)
				break
			}
			delete(p, h.Name)
			c.delete = i < 0
			c.size = min(wait.most, size)
			if target < c.size {
				d.look(after)
			}
		}
		if c.delete || c.size != size || c.keep != h.Spec.Keep {
			d.changes = append(d.changes, c)
		}
	}
	return d
}

// look again after that time at the latest.
func (d *decision) look(after time.Duration) {
	if d.again == 0 || after < d.again {
		d.again = after
	}
}

// inUse is how many addresses of the family that has more are somebody's, or nobody's for a reason. The status may be behind; who carves
// takes away free addresses only.
func inUse(p *v1alpha1.IPPool) int32 {
	var most int64
	for _, c := range []*v1alpha1.AddressCount{p.Status.IPv4, p.Status.IPv6} {
		if c != nil {
			most = max(most, c.Bound+c.Reserved+c.Quarantined)
		}
	}
	return int32(min(most, 65536))
}
