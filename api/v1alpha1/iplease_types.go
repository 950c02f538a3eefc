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
//	Bound        a pod's interface uses it                      DEL or garbage collection → Released; → Reserved if an identity keeps it
//	Reserved     kept for an identity, or by an operator        claim by that identity only → Bound; end of the identity → Released
//	Released     free; remembers its last holder and the time   update = claim → Bound; forgotten after a while → (absent)
//	Quarantined  someone else answers for it on the wire        silence for a while → Released
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
// +kubebuilder:printcolumn:name="Identity",type=string,JSONPath=`.spec.identity.name`,priority=1
// +kubebuilder:printcolumn:name="Network",type=string,JSONPath=`.spec.network`,priority=1
// +kubebuilder:printcolumn:name="MAC",type=string,JSONPath=`.spec.holder.mac`,priority=1
// +kubebuilder:printcolumn:name="Parent",type=string,JSONPath=`.spec.holder.parent`,priority=1
// +kubebuilder:printcolumn:name="Container",type=string,JSONPath=`.spec.holder.containerID`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule=`oldSelf.hasValue() || self.metadata.name == self.spec.network + '.' + self.spec.address || !isIP(self.spec.address) || !self.spec.address.contains('.') && self.metadata.name + '-' == self.spec.network + '.' + [self.spec.address.replace('::', ':*:').split(':').filter(g, g != "")].map(gs, gs.map(g, g == '*' ? '0-0-0-0-0-0-0-0-'.substring(0, 2 * (9 - gs.size())) : g + '-').join(""))[0]`,optionalOldSelf=true,messageExpression=`'the name of the lease of ' + self.spec.address + ' in network "' + self.spec.network + '" is ' + (self.spec.network + '.' + [(self.spec.address.contains('.') ? [self.spec.address] : self.spec.address.replace('::', ':*:').split(':').filter(g, g != ""))].map(gs, gs.map(g, g == '*' ? '0-0-0-0-0-0-0-0-'.substring(0, 2 * (9 - gs.size())) : g + '-').join(""))[0] + '$').replace('-$', "")`
type IPLease struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +structType=atomic
	Spec IPLeaseSpec `json:"spec"`
}

// What a write of a lease costs the API server is most of what an ADD takes. So the spec is one managed field (it is written as a whole), and
// rules use few fields, and few the whole lease: for each use of a field the server copies the schema of the object that has it.

// IPLeaseSpec is the whole state of a lease. It has no status, so that each change of state is one write.
//
// +kubebuilder:validation:XValidation:rule=`self.phase == 'Bound' ? has(self.holder) : !has(self.next) && (has(self.conflict) || self.phase != 'Quarantined')`,messageExpression=`self.phase == 'Bound' ? 'a Bound lease needs a holder' : has(self.next) ? 'only a Bound lease has a next holder' : 'a Quarantined lease needs the conflict: who answers for the address; to keep it out of use, make it Reserved'`,fieldPath=".phase"
// +kubebuilder:validation:XValidation:rule=`oldSelf.phase != 'Bound' || self.phase != 'Reserved' || has(self.releasedAt)`,message=`a pod has the address, and a reservation for it lasts without being written again; make reservations with kubectl create, not apply`,fieldPath=".phase"
type IPLeaseSpec struct {
	// Network is the L2 domain in which the address is unique.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`oldSelf.hasValue() || self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')`,optionalOldSelf=true,messageExpression=`'network "' + self + '" is not a DNS label (at most 63 characters of a-z, 0-9 and "-", no dot)'`
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'network cannot be changed (it is "' + oldSelf + '")'`
	Network string `json:"network"`
	// Address, in the usual text form (RFC 5952 for IPv6).
	//
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule=`oldSelf.hasValue() || isIP(self) && ip.isCanonical(self)`,optionalOldSelf=true,messageExpression=`isIP(self) ? [string(ip(self))].map(s, 'address ' + self + ' is not in its usual form; write ' + s)[0] : 'address "' + self + '" is not an address'`
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'address cannot be changed (it is ' + oldSelf + ')'`
	Address string `json:"address"`
	// Pool that gave the address.
	//
	// +kubebuilder:validation:MaxLength=63
	Pool string `json:"pool,omitempty"`
	// Phase of the lease, see the table at IPLease.
	Phase LeasePhase `json:"phase"`
	// Holder uses the address (Bound), or was the last to use it (Reserved, Released).
	Holder *LeaseHolder `json:"holder,omitempty"`
	// Next is a second pod of the same virtual machine, to which the machine migrates. It uses the address too, and is the holder once
	// the present one is gone.
	Next *LeaseHolder `json:"next,omitempty"`
	// Identity that the address stays with when its holder goes. In a Reserved lease it says who may claim it; none: nobody.
	Identity *LeaseIdentity `json:"identity,omitempty"`
	// BoundAt is when the present or last holder got the address.
	BoundAt *metav1.Time `json:"boundAt,omitempty"`
	// ReleasedAt is when the last holder gave it back; in phase Released, and in phase Reserved if there was one.
	ReleasedAt *metav1.Time `json:"releasedAt,omitempty"`
	// Conflict is who else was seen to answer for the address; always there in phase Quarantined.
	Conflict *LeaseConflict `json:"conflict,omitempty"`
}

// LeaseIdentity is whose an address is beyond the life of one pod. Agents write it when they claim for a pod that has one; an operator
// writes it into a Reserved lease. Every field but kind, namespace and name narrows it further.
//
//	kind                    name                                 of which pods
//	StatefulSet             the StatefulSet's                    its pods; pod says which
//	VirtualMachineInstance  the machine's                        its virt-launcher pods (KubeVirt)
//	IPAMClaim               the claim's                          those whose networks annotation has it as ipam-claim-reference
//	Name                    any                                  those with the annotation berth.dev/identity
//	Pod                     the pod's                            that pod; only from an operator
//	Deployment, DaemonSet…  the name of the pods' controller     its pods; only from an operator
type LeaseIdentity struct {
	// Kind, see the table.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`self.matches('^[A-Z][A-Za-z0-9]*$')`,messageExpression=`'identity kind "' + self + '" is not a kind such as StatefulSet, VirtualMachineInstance, IPAMClaim, Name, Pod or Deployment'`
	Kind string `json:"kind"`
	// Namespace of the pods.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace"`
	// Name, see the table.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Pod is the name of the one pod of the StatefulSet.
	//
	// +kubebuilder:validation:MaxLength=253
	Pod string `json:"pod,omitempty"`
	// Interface in the pod.
	//
	// +kubebuilder:validation:MaxLength=15
	Interface string `json:"interface,omitempty"`
	// UID of the StatefulSet or VirtualMachineInstance. A StatefulSet made anew under its name is another
	// identity; a VirtualMachineInstance, made anew at each start of its machine, is the same.
	UID types.UID `json:"uid,omitempty"`
	// Ends says when a Reserved lease is given up for others.
	Ends IdentityEnd `json:"ends,omitempty"`
}

// IdentityEnd is when an identity gives up the address that it has Reserved.
//
// +kubebuilder:validation:Enum=WithOwner;AfterTime
type IdentityEnd string

// The ends of identities. Without one a person gives the lease up, who deletes it.
const (
	// EndsWithOwner: once the object of kind and name is gone, or before, after the pool's reservedFor.
	EndsWithOwner IdentityEnd = "WithOwner"
	// EndsAfterTime: after the pool's reservedFor, or the controller's default.
	EndsAfterTime IdentityEnd = "AfterTime"
)

// Kinds of identities that agents write.
const (
	IdentityStatefulSet = "StatefulSet"
	IdentityVM          = "VirtualMachineInstance"
	IdentityIPAMClaim   = "IPAMClaim"
	IdentityName        = "Name"
)

// IdentityPod is the kind of an operator's reservation for one pod, whatever its controller.
const IdentityPod = "Pod"

// LeaseConflict is a use of the address on the wire by somebody who does not hold it.
type LeaseConflict struct {
	// MAC address that answered.
	MAC string `json:"mac"`
	// SeenAt is when it was last seen, to a minute or so.
	SeenAt metav1.Time `json:"seenAt"`
	// Node that saw it, on the link Parent.
	Node   string `json:"node,omitempty"`
	Parent string `json:"parent,omitempty"`
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
	// GracePeriodSeconds is the pod's terminationGracePeriodSeconds: its containers may run on that long when its object is gone.
	GracePeriodSeconds int64 `json:"gracePeriodSeconds,omitempty"`
}

// IPLeaseList is a list of IPLeases.
//
// +kubebuilder:object:root=true
type IPLeaseList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPLease `json:"items"`
}
