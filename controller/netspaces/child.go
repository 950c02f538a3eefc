package netspaces

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// LabelShareOf of a child has its parent's name.
const LabelShareOf = "berth.dev/share-of"

// childName is the name of a share: the lock on the VLAN in the parent; of one without a VLAN of its own it has the netspace's name.
func childName(parent, netspace string, vlan *int32) string {
	name := parent + "-" + netspace
	if vlan != nil {
		name = fmt.Sprintf("%s-%d", parent, *vlan)
	}
	const most = 63 // it is the name of a network, too
	if len(name) > most {
		sum := sha256.Sum256([]byte(name))
		name = name[:most-9] + "-" + hex.EncodeToString(sum[:4])
	}
	return name
}

// shareLink is the host link on which VLAN links of the share are; of a share without a VLAN of its own the link itself. Empty: nobody said.
func shareLink(n *v1alpha1.Netspace, parent *v1alpha1.Subnet) string {
	switch share := n.Spec.Share; {
	case share.Parent != "":
		return share.Parent
	case share.VLANs == "":
		return parent.Spec.Parent
	case parent.Spec.VLAN != nil && strings.HasSuffix(parent.Spec.Parent, fmt.Sprintf(".%d", *parent.Spec.VLAN)):
		return base(parent.Spec.Parent)
	default:
		return parent.Spec.Parent
	}
}

// newChild of a parent, of which nothing can be carved until it is settled. vlan is nil for a share in the parent's VLAN.
func newChild(n *v1alpha1.Netspace, parent *v1alpha1.Subnet, vlan *int32) *v1alpha1.Subnet {
	c := &v1alpha1.Subnet{}
	c.Name = childName(parent.Name, n.Name, vlan)
	c.Labels = map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, LabelShareOf: parent.Name}
	c.OwnerReferences = []metav1.OwnerReference{reference(n)}
	c.Spec = v1alpha1.SubnetSpec{
		Network: c.Name, VLAN: parent.Spec.VLAN, Pairing: parent.Spec.Pairing, Netspace: n.Name,
		NodeAffinity: parent.Spec.NodeAffinity.DeepCopy(), Parent: shareLink(n, parent),
	}
	if vlan != nil {
		c.Spec.VLAN = vlan
		if c.Spec.Parent != "" {
			c.Spec.Parent = fmt.Sprintf("%s.%d", c.Spec.Parent, *vlan)
		}
	}
	for _, p := range parent.Spec.CIDRs {
		c.Spec.CIDRs = append(c.Spec.CIDRs, v1alpha1.SubnetCIDR{CIDR: p.CIDR, Reserved: []string{p.CIDR}})
	}
	return c
}

// reference to the netspace that owns what is made for it; one made anew under its name has another UID.
func reference(n *v1alpha1.Netspace) metav1.OwnerReference {
	ref := metav1.NewControllerRef(n, v1alpha1.GroupVersion.WithKind("Netspace"))
	ref.BlockOwnerDeletion = nil // it would need rights on the Netspace's finalizers
	return *ref
}

// pending says whether a child has its addresses not yet.
func pending(c *v1alpha1.Subnet) bool {
	return !slices.ContainsFunc(c.Spec.CIDRs, func(s v1alpha1.SubnetCIDR) bool { return !slices.Equal(s.Reserved, []string{s.CIDR}) })
}

// cidrs of a child with these prefixes of its parent.
//
//	the child is in            its CIDR      gateway                          routes
//	a VLAN of its own          the prefix    the first address, if the        of the parent's, those by the gateway
//	                                         parent has one
//	the VLAN of the parent     the parent's  the parent's                     the parent's
//	                           all else of it reserved
func cidrs(parent *v1alpha1.Subnet, prefixes []netip.Prefix, ownVLAN bool) ([]v1alpha1.SubnetCIDR, error) {
	var out []v1alpha1.SubnetCIDR
	for _, p := range prefixes {
		of, whole, err := containing(parent, p)
		if err != nil {
			return nil, err
		}
		c := v1alpha1.SubnetCIDR{CIDR: p.String()}
		switch {
		case !ownVLAN:
			c = v1alpha1.SubnetCIDR{CIDR: of.CIDR, Gateway: of.Gateway, Routes: slices.Clone(of.Routes)}
			for _, r := range (ipam.Ranges{ipam.RangeOf(whole)}).Subtract(ipam.Ranges{ipam.RangeOf(p)}) {
				c.Reserved = append(c.Reserved, r.String())
			}
		case of.Gateway != "":
			c.Gateway = p.Addr().Next().String()
			for _, r := range of.Routes {
				if r.GW == "" {
					c.Routes = append(c.Routes, r)
				}
			}
		}
		out = append(out, c)
	}
	return out, nil
}

func containing(parent *v1alpha1.Subnet, p netip.Prefix) (v1alpha1.SubnetCIDR, netip.Prefix, error) {
	for _, c := range parent.Spec.CIDRs {
		if whole, err := netip.ParsePrefix(c.CIDR); err == nil && whole.Contains(p.Addr()) {
			return c, whole, nil
		}
	}
	return v1alpha1.SubnetCIDR{}, netip.Prefix{}, fmt.Errorf("%s, which was cut off Subnet %q, is in none of its CIDRs any more", p, parent.Name)
}
