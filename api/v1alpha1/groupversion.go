// Package v1alpha1 holds the API of Berth, group berth.dev: IPPool and IPLease, Subnet and IPBlock, Netspace, HostNetwork and HubMember, all
// cluster-scoped.
//
// +kubebuilder:object:generate=true
// +groupName=berth.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of everything in this package.
var GroupVersion = schema.GroupVersion{Group: "berth.dev", Version: "v1alpha1"}

// Labels of an IPLease. They repeat what its spec says, so that the server can narrow lists and watches.
const (
	LabelPool      = "berth.dev/pool"
	LabelNode      = "berth.dev/node"
	LabelNextNode  = "berth.dev/next-node"
	LabelNamespace = "berth.dev/pod-namespace"
	LabelFamily    = "berth.dev/family"
	LabelIdentity  = "berth.dev/identity-hash"
)

// LabelManagedBy of an object that the controller made, and so may change and delete, has the value ManagedBy.
const (
	LabelManagedBy = "berth.dev/managed-by"
	ManagedBy      = "berth-controller"
)

// AddToScheme registers the kinds of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &IPPool{}, &IPPoolList{}, &IPLease{}, &IPLeaseList{}, &Subnet{}, &SubnetList{}, &IPBlock{}, &IPBlockList{},
		&Netspace{}, &NetspaceList{}, &HostNetwork{}, &HostNetworkList{}, &HubMember{}, &HubMemberList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
