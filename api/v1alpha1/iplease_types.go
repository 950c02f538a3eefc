package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// IPLease is the claim on one address of one network. Its name, "<network>.<address>", is the lock: whoever creates the
// object, or wins the update of a free one, holds the address. IPv6 addresses have all eight groups, and "-" for ":".
//
//	state        meaning                                        leaves by
//	(absent)     never used, or forgotten                       create = claim → Bound
//	Bound        a pod's interface uses it                      DEL or garbage collection → Released
//	Reserved     kept by an operator, who made it with kubectl  deletion → (absent)
//	Released     free; remembers its last holder and the time   update = claim → Bound; forgotten after a while → (absent)
//	Quarantined  someone else answers for it on the wire        deletion → (absent)
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=ipl
// +kubebuilder:selectablefield:JSONPath=`.spec.network`
// +kubebuilder:selectablefield:JSONPath=`.spec.address`
// +kubebuilder:selectablefield:JSONPath=`.spec.pool`
// +kubebuilder:selectablefield:JSONPath=`.spec.phase`
// +kubebuilder:printcolumn:name="Address",type=string,JSONPath=`.spec.address`
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.spec.phase`
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.spec.holder.namespace`
// +kubebuilder:printcolumn:name="Pod",type=string,JSONPath=`.spec.holder.pod`
// +kubebuilder:printcolumn:name="Interface",type=string,JSONPath=`.spec.holder.interface`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.holder.node`
// +kubebuilder:printcolumn:name="Network",type=string,JSONPath=`.spec.network`,priority=1
// +kubebuilder:printcolumn:name="MAC",type=string,JSONPath=`.spec.holder.mac`,priority=1
// +kubebuilder:printcolumn:name="Parent",type=string,JSONPath=`.spec.holder.parent`,priority=1
// +kubebuilder:printcolumn:name="Container",type=string,JSONPath=`.spec.holder.containerID`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule=`!isIP(self.spec.address) || self.metadata.name + '-' == self.spec.network + '.' + [(self.spec.address.contains('.') ? [self.spec.address] : self.spec.address.replace('::', ':*:').split(':').filter(g, g != ""))].map(gs, gs.map(g, g == '*' ? '0-0-0-0-0-0-0-0-'.substring(0, 2 * (9 - gs.size())) : g + '-').join(""))[0]`,messageExpression=`'the name of the lease of ' + self.spec.address + ' in network "' + self.spec.network + '" is ' + (self.spec.network + '.' + [(self.spec.address.contains('.') ? [self.spec.address] : self.spec.address.replace('::', ':*:').split(':').filter(g, g != ""))].map(gs, gs.map(g, g == '*' ? '0-0-0-0-0-0-0-0-'.substring(0, 2 * (9 - gs.size())) : g + '-').join(""))[0] + '$').replace('-$', "")`
// +kubebuilder:validation:XValidation:rule=`self.spec.phase != 'Bound' || has(self.spec.holder)`,message=`a Bound lease needs a holder`,fieldPath=".spec.phase"
type IPLease struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPLeaseSpec `json:"spec"`
}

// IPLeaseSpec is the whole state of a lease. It has no status, so that each change of state is one write.
type IPLeaseSpec struct {
	// Network is the L2 domain in which the address is unique.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')`,messageExpression=`'network "' + self + '" is not a DNS label (at most 63 characters of a-z, 0-9 and "-", no dot)'`
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'network cannot be changed (it is "' + oldSelf + '")'`
	Network string `json:"network"`
	// Address, in the usual text form (RFC 5952 for IPv6).
	//
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule=`isIP(self)`,messageExpression=`'address "' + self + '" is not an address'`
	// +kubebuilder:validation:XValidation:rule=`!isIP(self) || ip.isCanonical(self)`,messageExpression=`[string(ip(self))].map(s, 'address ' + self + ' is not in its usual form; write ' + s)[0]`
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'address cannot be changed (it is ' + oldSelf + ')'`
	Address string `json:"address"`
	// Pool that gave the address.
	//
	// +kubebuilder:validation:MaxLength=63
	Pool string `json:"pool,omitempty"`
	// Phase of the lease, see the table at IPLease.
	Phase LeasePhase `json:"phase"`
	// Holder uses the address (Bound), may claim it (Reserved), or was the last to use it (Released).
	Holder *LeaseHolder `json:"holder,omitempty"`
	// BoundAt is when the present or last holder got the address.
	BoundAt *metav1.Time `json:"boundAt,omitempty"`
	// ReleasedAt is when the last holder gave it back; only in phase Released.
	ReleasedAt *metav1.Time `json:"releasedAt,omitempty"`
}

// LeasePhase is the state of a lease.
//
// +kubebuilder:validation:Enum=Bound;Reserved;Released;Quarantined
type LeasePhase string

// The phases of a lease.
const (
	LeaseBound       LeasePhase = "Bound"
	LeaseReserved    LeasePhase = "Reserved"
	LeaseReleased    LeasePhase = "Released"
	LeaseQuarantined LeasePhase = "Quarantined"
)

// LeaseHolder is one interface of one pod sandbox.
type LeaseHolder struct {
	// Namespace and Pod name the pod; UID is its identity.
	Namespace string    `json:"namespace,omitempty"`
	Pod       string    `json:"pod,omitempty"`
	UID       types.UID `json:"uid,omitempty"`
	// Node that the pod runs on.
	Node string `json:"node,omitempty"`
	// ContainerID of the sandbox, CNI_CONTAINERID.
	ContainerID string `json:"containerID,omitempty"`
	// Interface in the pod, CNI_IFNAME.
	Interface string `json:"interface,omitempty"`
	// Attachment is the name of the CNI network configuration, the scope of CNI GC.
	Attachment string `json:"attachment,omitempty"`
	// Parent is the host link that the interface is a macvlan child of, in bridge mode; empty for other interfaces.
	Parent string `json:"parent,omitempty"`
	// MAC address of the interface.
	MAC string `json:"mac,omitempty"`
}

// IPLeaseList is a list of IPLeases.
//
// +kubebuilder:object:root=true
type IPLeaseList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPLease `json:"items"`
}
