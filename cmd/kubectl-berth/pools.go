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

func poolsCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "pools [NAME...]",
		Short: "Free, total and bound addresses of each pool and family",
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := e.connect()
			if err != nil {
				return err
			}
			pools, err := c.pools(cmd.Context())
			if err != nil {
				return err
			}
			if pools, err = pick(pools, "pool", (*v1alpha1.IPPool).GetName, names); err != nil {
				return err
			}
			if len(pools) == 0 {
				fmt.Fprintln(e.out, "There are no pools. Make one: https://github.com/berthdev/berth, docs.")
				return nil
			}
			return writePools(e, pools)
		},
	}
}

// pick those of all that are named, in that order; without names all.
func pick[T any](all []T, kind string, name func(*T) string, names []string) ([]T, error) {
	if len(names) == 0 {
		return all, nil
	}
	var out []T
	for _, n := range names {
		i := slices.IndexFunc(all, func(o T) bool { return name(&o) == n })
		if i < 0 {
			return nil, fmt.Errorf("there is no %s %q", kind, n)
		}
		out = append(out, all[i])
	}
	return out, nil
}

func writePools(e *env, pools []v1alpha1.IPPool) error {
	slices.SortStableFunc(pools, func(a, b v1alpha1.IPPool) int {
		return cmp.Or(strings.Compare(a.Spec.Network, b.Spec.Network), strings.Compare(a.Name, b.Name))
	})
	t := newTable(e.out, "NETWORK", "POOL", "FAMILY", "FREE", "TOTAL", "BOUND", "RESERVED", "QUARANTINED", "STATE")
	for i := range pools {
		p := &pools[i]
		s := &p.Status
		if s.IPv4 == nil && s.IPv6 == nil {
			t.row(p.Spec.Network, p.Name, "", "", "", "", "", "", state(p))
		}
		for _, f := range []struct {
			name string
			c    *v1alpha1.AddressCount
		}{{"IPv4", s.IPv4}, {"IPv6", s.IPv6}} {
			if f.c != nil {
				t.row(p.Spec.Network, p.Name, f.name, f.c.Free, f.c.Total, fmt.Sprint(f.c.Bound), fmt.Sprint(f.c.Reserved), fmt.Sprint(f.c.Quarantined), state(p))
			}
		}
	}
	return t.flush()
}

// state of a pool in a few words: what is wrong, or Ready.
func state(p *v1alpha1.IPPool) string {
	var words []string
	switch c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.PoolReady); {
	case c == nil:
		words = append(words, "Unknown (no berth-controller has seen it)")
	case c.Status == metav1.ConditionTrue:
		words = append(words, "Ready")
	default:
		words = append(words, c.Reason)
	}
	if meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.PoolOverlapping) {
		words = append(words, "Overlapping")
	}
	if p.Spec.Default {
		words = append(words, "default")
	}
	if o := p.Spec.Owner; o != nil {
		words = append(words, fmt.Sprintf("%s:%s/%s", o.Kind, o.Namespace, o.Name))
	}
	if p.Spec.Netspace != "" {
		words = append(words, "netspace:"+p.Spec.Netspace)
	}
	if p.Spec.VLAN != nil {
		words = append(words, fmt.Sprintf("vlan:%d", *p.Spec.VLAN))
	}
	return strings.Join(words, ",")
}
