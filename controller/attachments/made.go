package attachments

import (
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/nad"
)

// First is the network that a Subnet just made wants in a namespace, while no pool is carved from it. Who makes a Subnet and does not want to
// wait for the controller makes it like this; the controller then finds its own, and keeps it.
func First(sub *v1alpha1.Subnet, namespace string, networks []v1alpha1.HostNetwork) *nadv1.NetworkAttachmentDefinition {
	parents := nad.ParentsOf(networks, nil)
	return made(client.ObjectKey{Namespace: namespace, Name: sub.Name}, config(sub.Name, sub.Spec.Parent, []string{sub.Name}, parents), sub)
}

// made is a network as it is made: label and controlling owner say whose it is.
func made(key client.ObjectKey, config string, of client.Object) *nadv1.NetworkAttachmentDefinition {
	n := &nadv1.NetworkAttachmentDefinition{}
	n.Namespace, n.Name = key.Namespace, key.Name
	n.Labels = map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}
	n.OwnerReferences = []metav1.OwnerReference{reference(of)}
	n.Spec.Config = config
	return n
}
