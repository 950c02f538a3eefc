package ipam

import (
	"github.com/berthdev/berth/api/v1alpha1"
)

// Claimant is who an address is claimed for: an interface of a pod's sandbox, and what the pod is beyond its own life.
type Claimant struct {
	Holder v1alpha1.LeaseHolder
	// Identity that the leases it claims carry, and by which it finds them again; nil: none, they are free when the pod is gone.
	Identity *v1alpha1.LeaseIdentity
	// Names of the pod by kind, which an operator's reservation may use: its own ("Pod") and its controllers' ("Deployment").
	Names map[string]string
	// Migrates: the pod is the one to which its running virtual machine migrates; it shares the address with the one that it leaves.
	Migrates bool
}

// May says whether an address with that identity is kept for the claimant.
func (c Claimant) May(i *v1alpha1.LeaseIdentity) bool {
	switch {
	case i == nil, i.Namespace != c.Holder.Namespace, i.Interface != "" && i.Interface != c.Holder.Interface:
		return false
	case c.Is(i):
		return true
	}
	return i.UID == "" && c.Names[i.Kind] == i.Name && (i.Pod == "" || i.Pod == c.Holder.Pod)
}

// Is says whether that identity is the claimant's alone: whoever else holds an address by it is an earlier pod in the same part.
func (c Claimant) Is(i *v1alpha1.LeaseIdentity) bool {
	switch {
	case i == nil, i.Namespace != c.Holder.Namespace, i.Interface != "" && i.Interface != c.Holder.Interface:
		return false
	case i.Kind == v1alpha1.IdentityPod:
		return i.Name == c.Holder.Pod
	case i.Pod != "" && i.UID == "":
		return i.Pod == c.Holder.Pod && c.Names[i.Kind] == i.Name
	case i.Kind == v1alpha1.IdentityVM && i.UID == "":
		return c.Names[i.Kind] == i.Name
	}
	own := c.Identity
	return own != nil && i.Kind == own.Kind && i.Name == own.Name && i.Pod == own.Pod &&
		(i.UID == "" || i.UID == own.UID || i.Kind == v1alpha1.IdentityVM)
}

// Free says whether the claimant may have the lease: it is Released, or Reserved for it.
func (c Claimant) Free(l *v1alpha1.IPLease) bool {
	return l.Spec.Phase == v1alpha1.LeaseReleased || l.Spec.Phase == v1alpha1.LeaseReserved && c.May(l.Spec.Identity)
}

// Shares says whether the claimant may hold the lease beside its holder: its virtual machine migrates from there, which is another
// node. By whichever identity the machine has the address, this pod could not be if the machine did not run.
func (c Claimant) Shares(l *v1alpha1.IPLease) bool {
	i, h, next := l.Spec.Identity, l.Spec.Holder, l.Spec.Next
	switch {
	case !c.Migrates, l.Spec.Phase != v1alpha1.LeaseBound, h == nil, !c.Is(i):
		return false
	case i.Kind == v1alpha1.IdentityVM && i.UID != "" && i.UID != c.Identity.UID: // an earlier start of the machine
		return false
	}
	return h.UID != c.Holder.UID && h.Node != c.Holder.Node && (next == nil || next.UID == c.Holder.UID)
}
