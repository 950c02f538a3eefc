package controller

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// Reasons of findings on identities.
const (
	ownerGone     = "OwnerGone"
	ownerReplaced = "OwnerReplaced"
	poolGone      = "PoolGone"
	poolDeleted   = "PoolDeleted"
	timeOver      = "TimeOver"
	noOwnerAPI    = "NoOwnerAPI"
	noOwnerAnswer = "NoOwnerAnswer"
	noOwnerKind   = "NoOwnerKind"
)

// conflictSilent is why a quarantine ends.
const conflictSilent = "ConflictSilent"

// owner is what is known of the object that an identity ends with.
type owner struct {
	uids  []types.UID // of the objects of its name, any of which keeps the identity; none: it is gone
	doubt string      // why nothing is known of them; "": uids says all
}

// judgeIdentity of a reserved lease by its pool (nil: there is none) and its owner. reserveFor bounds what ends after a time, where the
// pool says none.
//
//	identity         ends
//	none             never: an operator's
//	without ends     never: an operator's
//	any other        with the pool, and after its reservedFor
//	… WithOwner      once no object of kind and name is left; a StatefulSet of another UID is another
//	… AfterTime      after the pool's reservedFor, or else reserveFor
//
// Whether a pod of the identity lives does not matter: what it holds is bound.
func judgeIdentity(l *v1alpha1.IPLease, pool *v1alpha1.IPPool, o owner, reserveFor time.Duration, now time.Time) finding {
	i := l.Spec.Identity
	switch {
	case ofOperator(l):
		return finding{live, ""}
	case pool == nil && l.Spec.Pool != "":
		return finding{dead, poolGone}
	case pool != nil && pool.DeletionTimestamp != nil:
		return finding{over, poolDeleted}
	}
	bounded := i.Ends == v1alpha1.EndsAfterTime
	if pool != nil && pool.Spec.ReservedFor != nil {
		bounded, reserveFor = true, pool.Spec.ReservedFor.Duration
	}
	switch {
	case bounded && !now.Before(releasedAt(l).Add(reserveFor)):
		return finding{over, timeOver}
	case i.Ends != v1alpha1.EndsWithOwner:
		return finding{live, ""}
	case o.doubt != "":
		return finding{doubt, o.doubt}
	case len(o.uids) == 0:
		return finding{dead, ownerGone}
	case i.Kind == v1alpha1.IdentityStatefulSet && i.UID != "" && !slices.Contains(o.uids, i.UID):
		return finding{dead, ownerReplaced}
	}
	return finding{live, ""}
}

// ofOperator says whether a person has made the reservation, who alone ends it.
func ofOperator(l *v1alpha1.IPLease) bool {
	return l.Spec.Identity == nil || l.Spec.Identity.Ends == ""
}

// cooldown of the leases of a pool; one that is gone has the default.
func cooldown(pool *v1alpha1.IPPool) time.Duration {
	if pool == nil || pool.Spec.Cooldown == nil {
		return ipam.DefaultCooldown
	}
	return pool.Spec.Cooldown.Duration
}

func describeIdentity(i *v1alpha1.LeaseIdentity) string {
	s := fmt.Sprintf("%s %s/%s", i.Kind, i.Namespace, i.Name)
	if i.Pod != "" {
		s += ", pod " + i.Pod
	}
	return s
}
