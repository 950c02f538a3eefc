package store

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

func holder(node, pod, sandbox string) v1alpha1.LeaseHolder {
	return v1alpha1.LeaseHolder{Namespace: "ns", Pod: pod, UID: types.UID("uid-" + pod), Node: node, ContainerID: sandbox, Interface: "net1"}
}

func claimant(node, pod, sandbox string) ipam.Claimant {
	return ipam.Claimant{Holder: holder(node, pod, sandbox)}
}

var anyIPv4 = ipam.Pick{Family: ipam.IPv4}

// noHooks are those of a test that is about something else; no holder is ever proven gone.
var noHooks = Hooks{
	Collision: func() {},
	Lost:      func(*v1alpha1.IPLease) {},
	Early:     func(*v1alpha1.IPLease, time.Duration) {},
	Gone:      func(context.Context, *v1alpha1.LeaseHolder) (bool, error) { return false, nil },
}

// member is the claimant of a StatefulSet's pod, whose UID is as new as its sandbox.
func member(node, pod, sandbox string) ipam.Claimant {
	h := holder(node, pod, sandbox)
	h.UID = types.UID("uid-" + sandbox)
	return ipam.Claimant{Holder: h, Names: map[string]string{"Pod": pod, "StatefulSet": "db"}, Identity: &v1alpha1.LeaseIdentity{
		Kind: v1alpha1.IdentityStatefulSet, Namespace: "ns", Name: "db", Pod: pod, Interface: "net1", UID: "s1", Ends: v1alpha1.EndsWithOwner}}
}
