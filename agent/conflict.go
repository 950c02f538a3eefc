package agent

import (
	"strings"
	"time"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// verdict on an address that somebody uses on the wire.
type verdict int

const (
	noConflict verdict = iota
	quarantine         // the address is free: give it to nobody
	tell               // the address is somebody's: say so
)

// linger is how long a pod may be heard after its address was freed: macvlan frees it before it removes the link.
const linger = time.Minute

// conflictOf says what it means that mac uses an address that a pool gives out, and whose lease is l; nil: it has none.
//
//	lease                           MAC                               verdict
//	none                            any                               quarantine
//	Released                        the last holder's, for a minute   none: a pod that goes
//	Released                        another, or later                 quarantine
//	Bound                           a holder's                        none
//	Bound, a holder without MAC     any                               none: it may be the holder's
//	Bound                           another                           tell
//	Reserved for nobody             any                               none: a person keeps it, maybe for that very host
//	Reserved for an identity        the last holder's, for a minute   none: a pod that goes
//	Reserved for an identity        another, or later                 tell
//	Quarantined                     any                               tell
func conflictOf(l *v1alpha1.IPLease, mac string, now time.Time) verdict {
	if l == nil {
		return quarantine
	}
	h := l.Spec.Holder
	going := h != nil && strings.EqualFold(h.MAC, mac) && l.Spec.ReleasedAt != nil && now.Sub(l.Spec.ReleasedAt.Time) < linger
	switch l.Spec.Phase {
	case v1alpha1.LeaseReleased:
		if going {
			return noConflict
		}
		return quarantine
	case v1alpha1.LeaseBound:
		for _, h := range ipam.Holders(l) {
			if h.MAC == "" || strings.EqualFold(h.MAC, mac) {
				return noConflict
			}
		}
	case v1alpha1.LeaseReserved:
		if going || l.Spec.Identity == nil {
			return noConflict
		}
	}
	return tell
}

// toldAgain is the least time between two notes of a conflict in its lease.
const toldAgain = time.Minute

// told says whether the lease has the conflict already, as of a moment ago.
func told(l *v1alpha1.IPLease, now time.Time) bool {
	return l != nil && l.Spec.Conflict != nil && now.Sub(l.Spec.Conflict.SeenAt.Time) < toldAgain
}
