package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// HostNetwork has links made on nodes: a bond, VLAN links on it or on a link that is there, their MTU. Agents own what they made, marked
// by its alias, and nothing else.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=hnet
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Bond",type=string,JSONPath=`.spec.bond.name`
// +kubebuilder:printcolumn:name="Parent",type=string,JSONPath=`.spec.parent`
// +kubebuilder:printcolumn:name="VLANs",type=string,JSONPath=`.spec.vlans`
// +kubebuilder:printcolumn:name="Ready",type=integer,JSONPath=`.status.ready`
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.selected`
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.bond.mode`,priority=1
// +kubebuilder:printcolumn:name="MTU",type=integer,JSONPath=`.spec.mtu`,priority=1
// +kubebuilder:printcolumn:name="Rollout",type=string,JSONPath=`.status.rollout.message`,priority=1
// +kubebuilder:printcolumn:name="Messages",type=string,JSONPath=`.status.nodes[*].message`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule=`self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')`,messageExpression=`'metadata.name "' + self.metadata.name + '" is not a DNS label (at most 63 characters of a-z, 0-9 and "-", no dot): links carry it in their alias'`
type HostNetwork struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   HostNetworkSpec   `json:"spec"`
	Status HostNetworkStatus `json:"status,omitempty"`
}

// HostNetworkSpec is what a person writes.
//
// +kubebuilder:validation:XValidation:rule=`has(self.bond) != has(self.parent)`,messageExpression=`has(self.bond) ? 'bond and parent exclude each other: VLANs are made on the bond, or on the parent; take parent ' + self.parent + ' out' : 'neither bond nor parent; say which bond to make, or on which link of the nodes to make VLANs'`,fieldPath=".bond"
// +kubebuilder:validation:XValidation:rule=`!has(self.parent) || has(self.vlans) && self.vlans.size() > 0`,messageExpression=`'nothing is made on parent ' + self.parent + '; name VLANs in vlans'`,fieldPath=".vlans"
// +kubebuilder:validation:XValidation:rule=`!has(self.vlans) || !has(self.bond) && !has(self.parent) || self.vlans.all(v, (has(self.bond) ? self.bond.name : self.parent).size() + 1 + string(v).size() <= 15)`,messageExpression=`'a link name has at most 15 characters, and a VLAN on ' + (has(self.bond) ? self.bond.name : self.parent) + ' would have more, as ' + (has(self.bond) ? self.bond.name : self.parent) + '.ID; use a shorter name'`,fieldPath=".vlans"
// +kubebuilder:validation:XValidation:rule=`!has(self.moveAddresses) || !self.moveAddresses || has(self.bond)`,message=`moveAddresses is for members of a bond; a parent keeps its addresses`,fieldPath=".moveAddresses"
type HostNetworkSpec struct {
	// NodeSelector selects nodes by their labels. Empty: all.
	//
	// +kubebuilder:validation:XValidation:rule=`!has(self.matchExpressions) || self.matchExpressions.all(e, e.operator in ['In', 'NotIn'] ? has(e.values) && e.values.size() > 0 : e.operator in ['Exists', 'DoesNotExist'] && (!has(e.values) || e.values.size() == 0))`,message=`nodeSelector: operators are In and NotIn (with values), Exists and DoesNotExist (without values)`
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	// Bond to make; without one Parent must be there.
	Bond *Bond `json:"bond,omitempty"`
	// Parent is a link that is there already, for VLANs without a bond of ours. It may be the bond of another HostNetwork.
	//
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[^\\s/:%]+$') && !(self in ['.', '..', 'lo'])`,messageExpression=`'parent "' + self + '" is not the name of a link that can carry VLANs'`
	Parent string `json:"parent,omitempty"`
	// VLANs to make on the bond or the parent, by their IDs (IEEE 802.1Q): bond0 and 910 make bond0.910.
	//
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:Minimum=1
	// +kubebuilder:validation:items:Maximum=4094
	// +listType=set
	VLANs []int32 `json:"vlans,omitempty"`
	// MTU of what is made, in bytes; absent: for a bond that of its members, the least; for a VLAN that of the link below.
	//
	// +kubebuilder:validation:Minimum=1280
	// +kubebuilder:validation:Maximum=65535
	MTU *int32 `json:"mtu,omitempty"`
	// MoveAddresses lets a member be a link that carries addresses of the node: they and their routes move to the bond.
	MoveAddresses bool `json:"moveAddresses,omitempty"`
	// MaxUnavailable is how many of the selected nodes may be changing at a time, as a number or as a percentage of them, rounded down and
	// at least one. A change that a node had to undo stops the rest.
	//
	// +kubebuilder:default=1
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:XValidation:rule=`type(self) == int ? self >= 1 : self.matches('^([1-9][0-9]?|100)%$')`,messageExpression=`'maxUnavailable ' + string(self) + ' is neither a number of nodes from 1 on nor a percentage from 1% to 100%'`
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`
}

// Bond of network interfaces (Linux Documentation/networking/bonding.rst).
//
// +kubebuilder:validation:XValidation:rule=`!has(self.primary) || self.primary in self.members`,messageExpression=`'primary ' + self.primary + ' is not among the members ' + self.members.join(', ')`,fieldPath=".primary"
// +kubebuilder:validation:XValidation:rule=`!has(self.primary) || !has(self.mode) || self.mode == 'active-backup'`,messageExpression=`'primary has no meaning in mode ' + self.mode + '; take it out, or set mode: active-backup'`,fieldPath=".primary"
// +kubebuilder:validation:XValidation:rule=`!(self.name in self.members)`,messageExpression=`'bond ' + self.name + ' is its own member; give the bond another name'`,fieldPath=".name"
type Bond struct {
	// Name of the link.
	//
	// +kubebuilder:validation:MaxLength=15
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[a-zA-Z0-9][-a-zA-Z0-9_]*$') && self != 'lo' && !self.startsWith('vmac')`,messageExpression=`'bond name "' + self + '" is not letters, digits, "-" and "_" as in bond0, or taken: lo is the loopback, and vmac... are the service path'`
	Name string `json:"name"`
	// Mode of the bond.
	//
	// +kubebuilder:default=active-backup
	Mode BondMode `json:"mode,omitempty"`
	// Members are at least two interfaces of the node.
	//
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule=`self.size() >= 2`,messageExpression=`'a bond has at least two members, and ' + (self.size() == 0 ? 'none is named' : self[0] + ' is alone') + '; name another card, or make VLANs on the card itself with parent'`
	// +kubebuilder:validation:items:MaxLength=15
	// +kubebuilder:validation:items:XValidation:rule=`self.matches('^[^\\s/:%]+$') && !(self in ['.', '..', 'lo'])`,messageExpression=`'member "' + self + '" is not the name of a network card'`
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

// HostNetworkStatus is written by the agents, each for its node; the controller counts.
type HostNetworkStatus struct {
	// Ready is the number of nodes on which all is as it should be, of those that are selected.
	//
	// +optional
	Ready int64 `json:"ready"`
	// Selected is the number of nodes that nodeSelector selects.
	//
	// +optional
	Selected int64 `json:"selected"`
	// Rollout of the spec, node by node.
	Rollout *HostNetworkRollout `json:"rollout,omitempty"`
	// Nodes that are selected, or were, and still have links of it.
	//
	// +listType=map
	// +listMapKey=node
	Nodes []HostNetworkNode `json:"nodes,omitempty"`
}

// HostNetworkRollout says whose turn it is. The controller writes it, by comparison with what it has read.
//
//	a selected node           takes a turn    next
//	reports the generation    no              unless it has undone the change: then nobody else gets a turn
//	in Nodes, not reported    yes             it may change now, and reports
//	else                      no              waits, and keeps what it has, until it is in Nodes
type HostNetworkRollout struct {
	// Generation of the spec that this speaks of.
	Generation int64 `json:"generation"`
	// Nodes that may become as this generation is.
	//
	// +listType=set
	Nodes []string `json:"nodes,omitempty"`
	// Message says how far it is, or what stopped it.
	Message string `json:"message,omitempty"`
}

// Reasons of a HostNetworkNode.
const (
	LinksReady      = "LinksReady"
	LinksRefused    = "LinksRefused"
	LinksIncomplete = "LinksIncomplete"
	LinksWaiting    = "LinksWaiting"
	LinksFailed     = "LinksFailed"
	LinksUndone     = "LinksUndone"
	LinksQueued     = "LinksQueued"
)

// HostNetworkNode is how a HostNetwork stands on a node.
type HostNetworkNode struct {
	Node string `json:"node"`
	// Ready: all links are as they should be.
	Ready bool `json:"ready"`
	// Reason says the same in a word, as events do; LinksQueued: it is not the node's turn yet.
	Reason string `json:"reason,omitempty"`
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
