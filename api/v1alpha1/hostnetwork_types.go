package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// HostNetwork has links made on nodes: a bond, VLAN links on it or on a link that is there, their MTU. Agents own what they made, marked
// by its alias, and nothing else.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=hnet
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.ready`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type HostNetwork struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   HostNetworkSpec   `json:"spec"`
	Status HostNetworkStatus `json:"status,omitempty"`
}

// HostNetworkSpec is what a person writes.
type HostNetworkSpec struct {
	// NodeSelector selects nodes by their labels. Empty: all.
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	// Bond to make; without one Parent must be there.
	Bond *Bond `json:"bond,omitempty"`
	// Parent is a link that is there already, for VLANs without a bond of ours.
	//
	// +kubebuilder:validation:MaxLength=15
	Parent string `json:"parent,omitempty"`
	// VLANs to make on the bond or the parent (IEEE 802.1Q): bond0 and 910 make bond0.910.
	//
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:Minimum=1
	// +kubebuilder:validation:items:Maximum=4094
	// +listType=set
	VLANs []int32 `json:"vlans,omitempty"`
	// MTU of what is made, in bytes; absent: that of the kernel.
	//
	// +kubebuilder:validation:Minimum=1280
	// +kubebuilder:validation:Maximum=65535
	MTU *int32 `json:"mtu,omitempty"`
	// MoveAddresses lets a member be a link that carries addresses of the node: they and their routes move to the bond.
	MoveAddresses bool `json:"moveAddresses,omitempty"`
}

// Bond of network interfaces (Linux Documentation/networking/bonding.rst).
type Bond struct {
	// Name of the link.
	//
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9][-a-zA-Z0-9_]*$`
	Name string `json:"name"`
	// Mode of the bond.
	//
	// +kubebuilder:default=active-backup
	Mode BondMode `json:"mode,omitempty"`
	// Members are at least two interfaces of the node.
	//
	// +kubebuilder:validation:MinItems=2
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=15
	// +listType=set
	Members []string `json:"members"`
	// Miimon is the time between looks at the members' links, in milliseconds.
	//
	// +kubebuilder:default=100
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=60000
	Miimon *int32 `json:"miimon,omitempty"`
	// Primary member in mode active-backup.
	//
	// +kubebuilder:validation:MaxLength=15
	Primary string `json:"primary,omitempty"`
}

// BondMode is a mode of a bond, as the kernel names it.
//
// +kubebuilder:validation:Enum=balance-rr;active-backup;balance-xor;broadcast;"802.3ad";balance-tlb;balance-alb
type BondMode string

// HostNetworkStatus is written by the agents, each for its node.
type HostNetworkStatus struct {
	// Ready is the number of nodes on which all is as it should be.
	Ready int64 `json:"ready,omitempty"`
	// Nodes that are selected.
	//
	// +listType=map
	// +listMapKey=node
	Nodes []HostNetworkNode `json:"nodes,omitempty"`
}

// HostNetworkNode is how a HostNetwork stands on a node.
type HostNetworkNode struct {
	Node string `json:"node"`
	// Ready: all links are as they should be.
	Ready bool `json:"ready"`
	// Message says why not, or what was undone.
	Message string `json:"message,omitempty"`
	// ObservedGeneration that this speaks of.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Links that were made or are used.
	//
	// +listType=atomic
	Links []string `json:"links,omitempty"`
}

// HostNetworkList is a list of HostNetworks.
//
// +kubebuilder:object:root=true
type HostNetworkList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []HostNetwork `json:"items"`
}
