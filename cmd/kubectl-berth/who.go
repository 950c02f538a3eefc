package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
)

func whoCommand(e *env) *cobra.Command {
	var network string
	cmd := &cobra.Command{
		Use:   "who ADDRESS",
		Short: "Who holds an address, or last held it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := netip.ParseAddr(args[0])
			if err != nil || a.Zone() != "" {
				return fmt.Errorf("%q is not an address", args[0])
			}
			a = a.Unmap()
			c, err := e.connect()
			if err != nil {
				return err
			}
			// An address may exist in several networks; the server selects by spec.address, not by a name that has the network in it.
			leases, err := c.leases(cmd.Context(), metav1.ListOptions{FieldSelector: "spec.address=" + a.String()})
			if err != nil {
				return err
			}
			leases = slices.DeleteFunc(leases, func(l v1alpha1.IPLease) bool {
				return l.Spec.Address != a.String() || network != "" && l.Spec.Network != network
			})
			for i := range leases {
				writeHolder(e, &leases[i])
			}
			if len(leases) > 0 {
				return nil
			}
			pools, err := c.pools(cmd.Context())
			if err != nil {
				return err
			}
			if writeNobody(e, a, network, pools) {
				return nil
			}
			return writePart(cmd.Context(), e, c, a, network)
		},
	}
	cmd.Flags().StringVar(&network, "network", "", "only in this network")
	return cmd
}

func writeHolder(e *env, l *v1alpha1.IPLease) {
	s, h := &l.Spec, l.Spec.Holder
	fmt.Fprintf(e.out, "%s in network %s: %s", s.Address, s.Network, s.Phase)
	if age := since(l, e.now()); age != "" {
		fmt.Fprintf(e.out, " for %s", age)
	}
	fmt.Fprintln(e.out)
	line := func(what, value string) {
		if value != "" {
			fmt.Fprintf(e.out, "  %-12s %s\n", what, value)
		}
	}
	line("pool", s.Pool)
	if h != nil {
		who := "pod"
		if s.Phase != v1alpha1.LeaseBound {
			who = "last pod"
		}
		line(who, pod(h))
		line("pod UID", string(h.UID))
		line("interface", h.Interface)
		line("MAC", h.MAC)
		line("node", h.Node)
		line("container", h.ContainerID)
	}
	if n := s.Next; n != nil {
		line("next pod", pod(n)+" on node "+n.Node)
	}
	line("identity", identity(s.Identity))
	if c := s.Conflict; c != nil {
		line("conflict", c.MAC+" answered, last seen at "+c.SeenAt.UTC().Format(time.RFC3339))
	}
	if s.BoundAt != nil {
		line("bound at", s.BoundAt.UTC().Format(time.RFC3339))
	}
	if s.ReleasedAt != nil {
		line("released at", s.ReleasedAt.UTC().Format(time.RFC3339))
	}
}

// writeNobody says which pools could give an address that has no lease; false if none.
func writeNobody(e *env, a netip.Addr, network string, pools []v1alpha1.IPPool) bool {
	found := false
	for i := range pools {
		p, err := ipam.Compile(&pools[i])
		if err != nil || network != "" && p.Network != network || !p.Contains(a) {
			continue
		}
		found = true
		fmt.Fprintf(e.out, "%s in network %s: free, in pool %s; nobody is known to have held it\n", a, p.Network, p.Name)
	}
	return found
}

// writePart says which Subnets have an address that no pool gives out, and who has, or gave up, the part of it.
func writePart(ctx context.Context, e *env, c reader, a netip.Addr, network string) error {
	subnets, err := c.subnets(ctx)
	if err != nil {
		return err
	}
	found := false
	for i := range subnets {
		s, err := carve.Compile(&subnets[i])
		if err != nil || network != "" && s.Network != network || !s.Whole(ipam.FamilyOf(a)).Contains(a) {
			continue
		}
		found = true
		what := "free, in Subnet " + s.Name + "; no pool has it"
		if !s.Usable(ipam.FamilyOf(a)).Contains(a) {
			what = "never carved from Subnet " + s.Name + ": it is reserved, or a router's, or none of a host"
		}
		object, err := c.block(ctx, carve.Name(s.Network, carve.FirstOf(a)))
		if err != nil {
			return err
		}
		if object != nil {
			block, err := carve.Read(object)
			if err != nil {
				return err
			}
			for _, p := range block.Parts {
				switch in := (ipam.Ranges{p.Range}).Contains(a); {
				case !in || p.Subnet != s.Name:
				case p.Had():
					what = fmt.Sprintf("carved from Subnet %s for %s", s.Name, p.Owner)
				default:
					what = fmt.Sprintf("returning to Subnet %s; %s gave it up at %s", s.Name, p.Owner, p.Returned.UTC().Format(time.RFC3339))
				}
			}
		}
		fmt.Fprintf(e.out, "%s in network %s: %s\n", a, s.Network, what)
	}
	if !found {
		fmt.Fprintf(e.out, "%s: no lease, and no pool has it\n", a)
	}
	return nil
}
