package attachments

import (
	"encoding/json"
	"slices"
	"strings"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/nad"
)

// network that is wanted, the same in each namespace.
type network struct {
	name       string
	namespaces []string
	config     string
}

// netconf is the configuration of a network that is made: macvlan in bridge mode, which has the service path.
type netconf struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	Type       string `json:"type"`
	Master     string `json:"master"`
	Mode       string `json:"mode"`
	MTU        int    `json:"mtu,omitempty"`
	IPAM       struct {
		Type  string   `json:"type"`
		Pools []string `json:"ippools"`
	} `json:"ipam"`
}

// config of a network on parent. Its name is that of the subnet: one network of several namespaces is one to the runtime.
func config(subnet, parent string, pools []string, parents map[string]nad.Parent) string {
	c := netconf{CNIVersion: "1.0.0", Name: subnet, Type: "macvlan", Master: parent, Mode: "bridge", MTU: parents[parent].MTU}
	c.IPAM.Type, c.IPAM.Pools = delegate.PluginType, pools
	out, err := json.Marshal(c)
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(out)
}

// ofSubnet are the networks that a Subnet wants by its attachments.
func ofSubnet(sub *v1alpha1.Subnet, s snapshot) []network {
	a := sub.Spec.Attachments
	if a == nil || sub.Spec.Parent == "" || sub.Spec.Netspace != "" {
		return nil
	}
	selector := labels.Nothing()
	if a.NamespaceSelector != nil {
		if sel, err := metav1.LabelSelectorAsSelector(a.NamespaceSelector); err == nil {
			selector = sel
		}
	}
	in := s.living(func(ns *corev1.Namespace) bool {
		return slices.Contains(a.Namespaces, ns.Name) || selector.Matches(labels.Set(ns.Labels))
	})
	if len(in) == 0 {
		return nil
	}
	pools := s.poolsOf(sub.Name, "")
	if len(pools) == 0 {
		// The one that is to come: a pod that asks for nothing else must get an error, and no address of a default pool, which is of another
		// network.
		pools = []string{sub.Name}
	}
	return []network{{sub.Name, in, config(sub.Name, sub.Spec.Parent, pools, nad.ParentsOf(s.networks, nil))}}
}

// ofNetspace are the networks of a Netspace, in each namespace of it: one of its share, named as the netspace is, and one of each subnet
// that is its whole, named as the subnet is. Subnets without parent have none, nor those without a pool yet.
func ofNetspace(n *v1alpha1.Netspace, subnets []v1alpha1.Subnet, s snapshot) (out []network) {
	in := s.living(func(ns *corev1.Namespace) bool {
		of := s.netspaces.Of(ns.Name, ns.Labels)
		return of != nil && of.Name == n.Name
	})
	if len(in) == 0 {
		return nil
	}
	parents := nad.ParentsOf(s.networks, nil)
	for i := range subnets {
		sub := &subnets[i]
		share := sub.Name == n.Status.Subnet
		if sub.Spec.Netspace != n.Name || sub.Spec.Parent == "" || !share && !slices.Contains(n.Spec.Subnets, sub.Name) {
			continue
		}
		name := sub.Name
		if share {
			name = n.Name
		}
		if pools := s.poolsOf(sub.Name, n.Name); len(pools) > 0 {
			out = append(out, network{name, in, config(sub.Name, sub.Spec.Parent, pools, parents)})
		}
	}
	return out
}

// living namespaces, by name, that f picks.
func (s snapshot) living(f func(*corev1.Namespace) bool) (out []string) {
	for i := range s.namespaces {
		if ns := &s.namespaces[i]; ns.DeletionTimestamp == nil && f(ns) {
			out = append(out, ns.Name)
		}
	}
	slices.Sort(out)
	return out
}

// poolsOf a subnet that are no workload's, by name. One that is being deleted still has pods, whose sandboxes may be made anew.
func (s snapshot) poolsOf(subnet, netspace string) (out []string) {
	for i := range s.pools {
		if p := &s.pools[i]; p.Spec.Subnet == subnet && p.Spec.Owner == nil && p.Spec.Netspace == netspace {
			out = append(out, p.Name)
		}
	}
	slices.Sort(out)
	return out
}

// owner of a network that was made: the Subnet or the Netspace that wants it.
type owner struct{ kind, name string }

// Kinds of owners.
const (
	kindSubnet   = "Subnet"
	kindNetspace = "Netspace"
)

// ownerOf a network; false if it is not one that was made here, whose it may be said to be: label and owner both.
func ownerOf(n *nadv1.NetworkAttachmentDefinition) (owner, bool) {
	if n.Labels[v1alpha1.LabelManagedBy] != v1alpha1.ManagedBy {
		return owner{}, false
	}
	ref := metav1.GetControllerOf(n)
	if ref == nil || !strings.HasPrefix(ref.APIVersion, v1alpha1.GroupVersion.Group+"/") || ref.Kind != kindSubnet && ref.Kind != kindNetspace {
		return owner{}, false
	}
	return owner{ref.Kind, ref.Name}, true
}
