package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BlockSize is how many addresses a block has: those that share all but the last 8 bits, 10.6.1.0/24 or fd00:6::100/120. All blocks are of
// one size and aligned, so two either are the same or share no address, whatever subnets they serve.
const BlockSize = 256

// IPBlock says who has which addresses of one block of a network. Its name, "<network>.<first address>" (as of an IPLease), is the lock:
// whoever creates it, or wins its update, decides over the block. Pools are carved from Subnets part by part; parts never overlap, and
// a pool's ips are its parts.
//
//	part       meaning                                                      leaves by
//	(absent)   nobody's                                                     update = carve → had
//	had        of a pool, or of a subnet made from this one                 given up by its owner → returning; owner gone → returning
//	returning  given up, kept from others, since someone may have          owner wants it back, or a lease is found in it → had;
//	           claimed an address of it without knowing                     some time without a lease in use → (absent)
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=ipb
// +kubebuilder:selectablefield:JSONPath=`.spec.network`
// +kubebuilder:selectablefield:JSONPath=`.spec.cluster`
// +kubebuilder:printcolumn:name="Network",type=string,JSONPath=`.spec.network`
// +kubebuilder:printcolumn:name="First",type=string,JSONPath=`.spec.first`
// +kubebuilder:printcolumn:name="Cluster",type=string,JSONPath=`.spec.cluster`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type IPBlock struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec IPBlockSpec `json:"spec"`
}

// IPBlockSpec is the whole state of a block. It has no status, so that each change of hands is one write.
type IPBlockSpec struct {
	// Network of the block.
	//
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'network cannot be changed (it is "' + oldSelf + '")'`
	Network string `json:"network"`
	// First address of the block, in the usual text form.
	//
	// +kubebuilder:validation:MaxLength=39
	// +kubebuilder:validation:XValidation:rule=`isIP(self) && ip.isCanonical(self)`,messageExpression=`'first "' + self + '" is not an address in its usual form'`
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'first cannot be changed (it is ' + oldSelf + ')'`
	First string `json:"first"`
	// Cluster that has the block, in a hub; there its parts are not known.
	//
	// +kubebuilder:validation:MaxLength=63
	Cluster string `json:"cluster,omitempty"`
	// Parts that somebody has, in the order of their addresses. Those of a subnet that is made from another one of the same network lie in
	// the other one's part for it.
	//
	// +kubebuilder:validation:MaxItems=1024
	// +listType=atomic
	Parts []IPBlockPart `json:"parts,omitempty"`
}

// IPBlockPart is a range of addresses of a block, carved from a Subnet. Exactly one of Pool and To has it.
type IPBlockPart struct {
	// IPs is an address, or FIRST-LAST.
	//
	// +kubebuilder:validation:MaxLength=79
	IPs string `json:"ips"`
	// Subnet that it was carved from.
	//
	// +kubebuilder:validation:MaxLength=63
	Subnet string `json:"subnet"`
	// Pool that has it.
	//
	// +kubebuilder:validation:MaxLength=63
	Pool string `json:"pool,omitempty"`
	// To is the subnet, made from this one, that has it.
	//
	// +kubebuilder:validation:MaxLength=63
	To string `json:"to,omitempty"`
	// ReturnedAt is when its owner gave it up.
	ReturnedAt *metav1.Time `json:"returnedAt,omitempty"`
}

// Marks of blocks and Subnets of several clusters under one plan.
const (
	// LabelCluster, of a block in the hub, repeats spec.cluster.
	LabelCluster = "berth.dev/cluster"
	// AnnotationClusterUID, of a block in the hub, is the UID of the cluster that has it: that of its namespace kube-system.
	AnnotationClusterUID = "berth.dev/cluster-uid"
	// AnnotationHubBlock, of a block in a member, is the UID of the hub's block of the same name, by which it is the member's; "lost" where
	// that is another cluster's.
	AnnotationHubBlock = "berth.dev/hub-block"
	// AnnotationDisputed, of a block, names the clusters that hold it besides the one that has it, after a hub was restored from a backup
	// or somebody deleted a living member's block there. Nobody takes an address of it then.
	AnnotationDisputed = "berth.dev/disputed"
	// AnnotationHubSubnet, of a copy of a hub's Subnet, is the UID of the hub's.
	AnnotationHubSubnet = "berth.dev/hub-subnet"
)

// IPBlockList is a list of IPBlocks.
//
// +kubebuilder:object:root=true
type IPBlockList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []IPBlock `json:"items"`
}
