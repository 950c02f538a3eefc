package carve

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

// OneVLAN says whether two Subnets of different networks are on one VLAN of one link of some node (IEEE 802.1Q), so that one address could be
// given twice on one wire. Where that is not certain they are not: without parent nobody knows the link, and nodes or clusters that are
// selected apart may be on wires apart.
func OneVLAN(a, b *v1alpha1.SubnetSpec) bool {
	return cmp.Or(a.Network, "default") != cmp.Or(b.Network, "default") && a.Parent != "" && a.Parent == b.Parent && SameVLAN(a, b) &&
		(everywhere(a.NodeAffinity) || everywhere(b.NodeAffinity) || equality.Semantic.DeepEqual(a.NodeAffinity, b.NodeAffinity)) &&
		(len(a.Clusters) == 0 || len(b.Clusters) == 0 || slices.ContainsFunc(a.Clusters, func(c string) bool { return slices.Contains(b.Clusters, c) }))
}

// SameVLAN says whether both have one VLAN, be it on whatever link.
func SameVLAN(a, b *v1alpha1.SubnetSpec) bool {
	return a.VLAN != nil && b.VLAN != nil && *a.VLAN == *b.VLAN
}

func everywhere(s *metav1.LabelSelector) bool {
	return s == nil || len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0
}
