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
// +kubebuilder:validation:XValidation:rule=`self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')`,messageExpression=`'metadata.name "' + self.metadata.name + '" is not a DNS label (at most 63 characters of a-z, 0-9 and "-", no dot): its pools are named after it'`
type Netspace struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   NetspaceSpec   `json:"spec"`
	Status NetspaceStatus `json:"status,omitempty"`
}

// NetspaceSpec is what a person writes.
//
// +kubebuilder:validation:XValidation:rule=`!has(oldSelf.share) || has(self.share)`,message=`share cannot be taken away: pods have addresses of it; make another netspace`,fieldPath=".share"
// +kubebuilder:validation:XValidation:rule=`!has(self.share) || !has(self.subnets) || !(self.share.subnet in self.subnets)`,messageExpression=`'share.subnet "' + self.share.subnet + '" is in subnets too: it is the netspace\'s whole, or others have shares of it; name it once'`,fieldPath=".share.subnet"
type NetspaceSpec struct {
	// Namespaces of the tenant by name. A namespace is of one netspace: of two that name it, the older has it.
	//
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +kubebuilder:validation:items:XValidation:rule=`self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')`,messageExpression=`'namespace "' + self + '" is not the name of a namespace (at most 63 characters of a-z, 0-9 and "-"); select by labels in namespaceSelector'`
	// +listType=set
	Namespaces []string `json:"namespaces,omitempty"`
	// NamespaceSelector selects further ones by their labels.
	//
	// +kubebuilder:validation:XValidation:rule=`!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['In', 'NotIn'] ? has(e.values) && e.values.size() > 0 : e.operator in ['Exists', 'DoesNotExist'] && (!has(e.values) || e.values.size() == 0))`,message=`namespaceSelector: operators are In and NotIn with values, Exists and DoesNotExist without`
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
//
// +kubebuilder:validation:XValidation:rule=`has(self.vlans) == has(oldSelf.vlans)`,message=`share.vlans is said when the share is, or never: it is in a VLAN already; make another netspace`,fieldPath=".vlans"
type NetspaceShare struct {
	// Subnet that it is cut from.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'share.subnet cannot be changed (it is "' + oldSelf + '"): pods have addresses of it; make another netspace'`
	Subnet string `json:"subnet"`
	// Size is the number of addresses of each family, a power of two: the share is a CIDR of its own.
	//
	// +kubebuilder:validation:Minimum=4
	// +kubebuilder:validation:Maximum=65536
	// +kubebuilder:validation:XValidation:rule=`self in [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]`,message=`size is not a power of two, such as 64 or 256: the share is a CIDR`
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,message=`share.size cannot be changed: the share is a CIDR; make another netspace`
	Size int32 `json:"size"`
	// VLANs of which the share gets one of its own, "910-929" or "910" (IEEE 802.1Q); empty: it stays in the VLAN of the Subnet.
	//
	// +kubebuilder:validation:MaxLength=9
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[1-9][0-9]{0,3}(-[1-9][0-9]{0,3})?$') && int(self.split('-', 2)[0]) <= int(self.split('-', 2)[self.split('-', 2).size() - 1]) && int(self.split('-', 2)[self.split('-', 2).size() - 1]) <= 4094`,messageExpression=`'vlans "' + self + '" is not FIRST-LAST with numbers from 1 to 4094, the lesser first, such as 910-929'`
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'share.vlans cannot be changed (it is "' + oldSelf + '"): the share is in one of these; make another netspace'`
	VLANs string `json:"vlans,omitempty"`
	// Parent is the host link that VLAN links are made of: with "bond0", VLAN 910 is bond0.910. Empty: that of the Subnet's parent.
	//
	// +kubebuilder:validation:MaxLength=10
	// +kubebuilder:validation:XValidation:rule=`!self.contains('/') && !self.contains(' ')`,messageExpression=`'share.parent "' + self + '" is not the name of a link'`
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
