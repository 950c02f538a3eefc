package netspaces

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/berthdev/berth/api/v1alpha1"
)

// vlanRange of IEEE 802.1Q, both ends in it.
type vlanRange struct{ first, last int32 }

// parseVLANs reads "910-929", or one, "910".
func parseVLANs(s string) (vlanRange, error) {
	a, b, ok := strings.Cut(s, "-")
	if !ok {
		b = a
	}
	first, err1 := strconv.ParseInt(a, 10, 32)
	last, err2 := strconv.ParseInt(b, 10, 32)
	if err1 != nil || err2 != nil || first < 1 || last > 4094 || first > last {
		return vlanRange{}, fmt.Errorf("vlans %q is not FIRST-LAST with numbers from 1 to 4094, the lesser first, such as 910-929", s)
	}
	return vlanRange{int32(first), int32(last)}, nil
}

// base of a link: bond0 of bond0.910.
func base(link string) string {
	if i := strings.LastIndexByte(link, '.'); i > 0 {
		return link[:i]
	}
	return link
}

// onLink says whether a Subnet may be on that link, so that its VLAN is none for another there. Of one without parent nobody knows.
func onLink(s *v1alpha1.Subnet, link string) bool {
	return link == "" || s.Spec.Parent == "" || base(s.Spec.Parent) == link
}

// pick the lowest VLAN that no Subnet on the link has.
func (v vlanRange) pick(link string, subnets []v1alpha1.Subnet) (int32, bool) {
	used := map[int32]bool{}
	for i := range subnets {
		if s := &subnets[i]; s.Spec.VLAN != nil && onLink(s, link) {
			used[*s.Spec.VLAN] = true
		}
	}
	for n := v.first; n <= v.last; n++ {
		if !used[n] {
			return n, true
		}
	}
	return 0, false
}

// rival is another Subnet with the VLAN of the child on its link: made at the same time from another parent, or by a person. wins says that the
// VLAN is its own: it has addresses already, or it is older; of the same second, the first by name. A younger one that has none yet
// may have been made first all the same, and not have seen the child: until it has addresses, or yields, nobody knows.
//
// Of two that make their children at once the one made last sees the other, whatever the clocks say. So none takes addresses while it
// sees another.
func rival(child *v1alpha1.Subnet, link string, subnets []v1alpha1.Subnet) (other *v1alpha1.Subnet, wins bool) {
	for i := range subnets {
		s := &subnets[i]
		if s.Name == child.Name || s.Spec.VLAN == nil || child.Spec.VLAN == nil || *s.Spec.VLAN != *child.Spec.VLAN || !onLink(s, link) {
			continue
		}
		t := s.CreationTimestamp.Compare(child.CreationTimestamp.Time)
		if other, wins = s, !pending(s) || t < 0 || t == 0 && s.Name < child.Name; wins {
			return other, true
		}
	}
	return other, false
}
