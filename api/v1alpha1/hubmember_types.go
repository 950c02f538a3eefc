package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// HubMember says, in a hub, which cluster a name is. Its own name is the lock: a member's controller makes it before its first claim, and
// another cluster of that name is refused as long as it is there. Who deletes it gives the name away.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:printcolumn:name="UID",type=string,JSONPath=`.spec.uid`
// +kubebuilder:printcolumn:name="Seen",type=date,JSONPath=`.spec.seen`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type HubMember struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec HubMemberSpec `json:"spec"`
}

// HubMemberSpec is written by the member's controller.
type HubMemberSpec struct {
	// UID of the cluster: that of its namespace kube-system.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule=`self == oldSelf`,messageExpression=`'uid cannot be changed (it is "' + oldSelf + '"); delete the HubMember to have another cluster take its name'`
	UID string `json:"uid"`
	// Seen is when the member last wrote this. If it reads anything but what it wrote, the hub was restored from a backup.
	Seen metav1.Time `json:"seen,omitempty"`
}

// HubMemberList is a list of HubMembers.
//
// +kubebuilder:object:root=true
type HubMemberList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []HubMember `json:"items"`
}
