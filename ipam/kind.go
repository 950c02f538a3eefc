package ipam

import (
	"fmt"
	"slices"
	"strings"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Kind is whom a pool serves.
//
//	kind        | the pool has      | serves
//	Application | owner             | the pods of that workload; with netspace only while they are of that
//	Netspace    | netspace alone    | the pods of that netspace; without being named, too
//	Shared      | neither           | the pods of no netspace; without being named, if it is a default pool
type Kind string

// The kinds.
const (
	Application Kind = "Application"
	OfNetspace  Kind = "Netspace"
	Shared      Kind = "Shared"
)

// KindOf an IPPool.
func KindOf(p *v1alpha1.IPPool) Kind {
	switch {
	case p.Spec.Owner != nil:
		return Application
	case p.Spec.Netspace != "":
		return OfNetspace
	}
	return Shared
}

// Parent is what is known of the host link under an interface.
type Parent struct {
	// Name of the link; "": there is none.
	Name string
	// VLAN that it is on (IEEE 802.1Q); 0: none that is known.
	VLAN int32
	// Why there is no VLAN, as the end of a sentence with its remedy.
	Why string
}

// notFor says why the pool is not for the target by its kind or VLAN; "" if it is.
func (p *Pool) notFor(t Target) string {
	pod := fmt.Sprintf("pod %q", t.Namespace+"/"+t.Pod)
	switch {
	case p.Owner != nil && !p.OfWorkload(t.Owners):
		return fmt.Sprintf("is of %s alone, and %s is not of it; name another pool", workload(*p.Owner), pod)
	case p.Netspace == t.Netspace:
	case t.Netspace == "":
		return fmt.Sprintf("is of netspace %q, and %s is of none; add namespace %q to the netspace, or name the netspace in the pod annotation berth.dev/netspace",
			p.Netspace, pod, t.Namespace)
	case p.Netspace == "":
		return fmt.Sprintf("is of no netspace, and %s is of netspace %q, which is served by its own pools alone; name one of those, or none", pod, t.Netspace)
	default:
		return fmt.Sprintf("is of netspace %q, and %s is of netspace %q, which is served by its own pools alone; name one of those, or none",
			p.Netspace, pod, t.Netspace)
	}
	switch {
	case t.NetspaceDeleting && p.Netspace != "":
		return fmt.Sprintf("is of netspace %q, which is being deleted and gives nothing new; move the pod to another namespace", p.Netspace)
	case p.VLAN == 0 || p.VLAN == t.Parent.VLAN:
		return ""
	case t.Parent.VLAN != 0:
		return fmt.Sprintf("is of VLAN %d, and the interface's parent %s is on VLAN %d; name a pool of VLAN %d, or a network whose master is on VLAN %d",
			p.VLAN, t.Parent.Name, t.Parent.VLAN, t.Parent.VLAN, p.VLAN)
	}
	return fmt.Sprintf("is of VLAN %d, and %s", p.VLAN, t.Parent.Why)
}

// unnamed says whether the target may have an address of the pool without naming it.
func (p *Pool) unnamed(t Target) bool {
	if t.Netspace != "" {
		return p.Owner == nil && p.Netspace == t.Netspace
	}
	return p.Default && p.Owner == nil && p.Netspace == ""
}

// OfWorkload says whether the pool's owner is among these workloads. Versions of an API are the same kind.
func (p *Pool) OfWorkload(owners []v1alpha1.PoolOwner) bool {
	return p.Owner != nil && slices.ContainsFunc(owners, func(o v1alpha1.PoolOwner) bool {
		return o.Kind == p.Owner.Kind && o.Namespace == p.Owner.Namespace && o.Name == p.Owner.Name && group(o.APIVersion) == group(p.Owner.APIVersion)
	})
}

func group(apiVersion string) string {
	g, _, ok := strings.Cut(apiVersion, "/")
	if !ok {
		return "" // the core group's is a version alone
	}
	return g
}

func workload(o v1alpha1.PoolOwner) string {
	return fmt.Sprintf("%s %q", o.Kind, o.Namespace+"/"+o.Name)
}
