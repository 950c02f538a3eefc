package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

func subnetsCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "subnets [NAME...]",
		Short: "Free, carved and returning addresses of each Subnet and family",
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			all, err := c.subnets(cmd.Context())
			if err != nil {
				return err
			}
			if all, err = pick(all, "Subnet", (*v1alpha1.Subnet).GetName, names); err != nil {
				return err
			}
			if len(all) == 0 {
				fmt.Fprintln(e.out, "There are no Subnets.")
				return nil
			}
			return writeSubnets(e, all)
		},
	}
}

func writeSubnets(e *env, subnets []v1alpha1.Subnet) error {
	slices.SortStableFunc(subnets, func(a, b v1alpha1.Subnet) int {
		return cmp.Or(strings.Compare(a.Spec.Network, b.Spec.Network), strings.Compare(a.Name, b.Name))
	})
	t := newTable(e.out, "NETWORK", "SUBNET", "VLAN", "FAMILY", "FREE", "TOTAL", "CARVED", "RETURNING", "POOLS", "STATE")
	for i := range subnets {
		s := &subnets[i]
		vlan := ""
		if s.Spec.VLAN != nil {
			vlan = fmt.Sprint(*s.Spec.VLAN)
		}
		if s.Status.IPv4 == nil && s.Status.IPv6 == nil {
			t.row(s.Spec.Network, s.Name, vlan, "", "", "", "", "", "", stateOfSubnet(s))
		}
		for _, f := range []struct {
			name string
			c    *v1alpha1.SubnetCount
		}{{"IPv4", s.Status.IPv4}, {"IPv6", s.Status.IPv6}} {
			if f.c != nil {
				t.row(s.Spec.Network, s.Name, vlan, f.name, f.c.Free, f.c.Total, f.c.Carved, cmp.Or(f.c.Returning, "0"), fmt.Sprint(s.Status.Pools), stateOfSubnet(s))
			}
		}
	}
	return t.flush()
}

// stateOfSubnet is what is wrong in a word, or Ready, and whose it is.
func stateOfSubnet(s *v1alpha1.Subnet) string {
	words := []string{"Ready"}
	switch c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.SubnetReady); {
	case c == nil:
		words[0] = "Unknown (no berth-controller has seen it)"
	case c.Status != metav1.ConditionTrue:
		words[0] = c.Reason
	}
	if s.Spec.Netspace != "" {
		words = append(words, "netspace:"+s.Spec.Netspace)
	}
	return strings.Join(words, ",")
}
