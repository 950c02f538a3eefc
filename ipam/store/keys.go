package store

import (
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// The keys by which the index finds leases: interfaces of pods and of sandboxes of this node that hold one, interfaces of pods of this
// node that held one last, and identities, of any node, that keep one.
func podKey(uid types.UID, ifName string) string   { return "pod/" + string(uid) + "/" + ifName }
func sandboxKey(containerID, ifName string) string { return "sandbox/" + containerID + "/" + ifName }
func lastKey(uid types.UID, ifName string) string  { return "last/" + string(uid) + "/" + ifName }
func identityKey(kind, namespace, name string) string {
	return "identity/" + kind + "/" + namespace + "/" + name
}

func (x *index) keys(l *v1alpha1.IPLease) (out []string) {
	for _, h := range ipam.Holders(l) {
		if h.Node == x.node {
			out = append(out, podKey(h.UID, h.Interface), sandboxKey(h.ContainerID, h.Interface))
		}
	}
	if h := l.Spec.Holder; l.Spec.Phase == v1alpha1.LeaseReleased && h != nil && h.Node == x.node {
		out = append(out, lastKey(h.UID, h.Interface))
	}
	if i := l.Spec.Identity; i != nil {
		out = append(out, identityKey(i.Kind, i.Namespace, i.Name))
	}
	return out
}

// claimantKeys are the identities by which the claimant may be known.
func claimantKeys(c ipam.Claimant) (out []string) {
	if i := c.Identity; i != nil {
		out = append(out, identityKey(i.Kind, i.Namespace, i.Name))
	}
	for kind, name := range c.Names {
		out = append(out, identityKey(kind, c.Holder.Namespace, name))
	}
	return out
}
