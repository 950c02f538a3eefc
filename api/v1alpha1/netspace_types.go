package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Netspace is a tenant: namespaces, the addresses that are theirs alone, and the VLAN that keeps them apart on the wire.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Subnet",type=string,JSONPath=`.status.subnet`
// +kubebuilder:printcolumn:name="VLAN",type=integer,JSONPath=`.status.vlan`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Netspace struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   NetspaceSpec   `json:"spec"`
	Status NetspaceStatus `json:"status,omitempty"`
}

// NetspaceSpec is what a person writes.
type NetspaceSpec struct {
	// Namespaces of the tenant by name. A namespace is of one netspace: of two that name it, the older has it.
	//
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=set
	Namespaces []string `json:"namespaces,omitempty"`
	// NamespaceSelector selects further ones by their labels.
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
	// Guests says whether pods of namespaces that are of no netspace are served if they name this one (berth.dev/netspace).
	//
	// +kubebuilder:default=Allow
	Guests Guests `json:"guests,omitempty"`
	// Subnets that are the tenant's whole: Subnets that say the same in their field netspace.
	//
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=set
	Subnets []string `json:"subnets,omitempty"`
	// Share of a Subnet that is cut off for the tenant when the first namespace is there.
	Share *NetspaceShare `json:"share,omitempty"`
}

// NetspaceShare is a part of a Subnet for one tenant.
type NetspaceShare struct {
	// Subnet that it is cut from.
	//
	// +kubebuilder:validation:MaxLength=63
	Subnet string `json:"subnet"`
	// Size is the number of addresses of each family, a power of two: the share is a CIDR of its own.
	//
	// +kubebuilder:validation:Minimum=4
	// +kubebuilder:validation:Maximum=65536
	Size int32 `json:"size"`
	// VLANs of which the share gets one of its own, "910-929"; empty: it stays in the VLAN of the Subnet.
	//
	// +kubebuilder:validation:MaxLength=9
	VLANs string `json:"vlans,omitempty"`
	// Parent is the host link that VLAN links are made of: with "bond0", VLAN 910 is bond0.910.
	//
	// +kubebuilder:validation:MaxLength=10
	Parent string `json:"parent,omitempty"`
}

// Guests is whether a netspace serves pods that name it from outside.
//
// +kubebuilder:validation:Enum=Allow;Refuse
type Guests string

// The values of Guests.
const (
	GuestsAllow  Guests = "Allow"
	GuestsRefuse Guests = "Refuse"
)

// NetspaceStatus is written by the controller.
type NetspaceStatus struct {
	// ObservedGeneration is the generation that the rest of the status speaks of.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Namespaces that are of the netspace.
	//
	// +listType=set
	Namespaces []string `json:"namespaces,omitempty"`
	// Subnet made for the share.
	Subnet string `json:"subnet,omitempty"`
	// VLAN of the share.
	VLAN *int32 `json:"vlan,omitempty"`
	// Conditions: Ready, Attached (the NetworkAttachmentDefinitions in its namespaces are there).
	//
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// NetspaceReady is the condition type of a Netspace.
const NetspaceReady = "Ready"

// NetspacePool is the name of the pool that serves a netspace with addresses of a subnet that is its whole; that of its share is named as
// the netspace is.
func NetspacePool(netspace, subnet string) string { return netspace + "-" + subnet }

// NetspaceList is a list of Netspaces.
//
// +kubebuilder:object:root=true
type NetspaceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Netspace `json:"items"`
}
