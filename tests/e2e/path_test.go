package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/berthdev/berth/api/v1alpha1"
)

// samePath waits until each node has a route and a neighbour for exactly the addresses that are leased to macvlan interfaces of
// its pods. of narrows the addresses, where other tests run beside.
func samePath(t testing.TB, of func(netip.Addr) bool) {
	t.Helper()
	eventually(t, patience, "routes and neighbours are those of the leases", func(ctx context.Context) error {
		var list v1alpha1.IPLeaseList
		if err := on.List(ctx, &list); err != nil {
			return err
		}
		leased := map[node][]netip.Addr{}
		for i := range list.Items {
			l := &list.Items[i].Spec
			if a := netip.MustParseAddr(l.Address); l.Phase == v1alpha1.LeaseBound && l.Holder.Parent != "" && of(a) {
				leased[node(l.Holder.Node)] = append(leased[node(l.Holder.Node)], a)
			}
		}
		for _, n := range nodes {
			slices.SortFunc(leased[n], netip.Addr.Compare)
			got, err := n.path(of)
			if err != nil {
				return err
			}
			for _, what := range slices.Sorted(maps.Keys(got)) {
				if !slices.Equal(got[what], leased[n]) {
					return fmt.Errorf("%s has %s to %v, and leases of %v", n, what, got[what], leased[n])
				}
			}
		}
		return nil
	})
}

// path of the node to its pods: the addresses that it has routes to, and those that it has neighbours for.
func (n node) path(of func(netip.Addr) bool) (map[string][]netip.Addr, error) {
	got := map[string][]netip.Addr{"routes": nil, "neighbours": nil}
	for _, family := range []string{"-4", "-6"} {
		for what, args := range map[string][]string{
			"routes":     {"route", "show", "proto", "98"},
			"neighbours": {"neigh", "show", "nud", "permanent"},
		} {
			text, err := n.try(append([]string{"ip", family, "-json"}, args...)...)
			if err != nil {
				return nil, err
			}
			var entries []struct {
				To   netip.Addr `json:"dst"` // of one address, so without a length
				Link string     `json:"dev"`
			}
			if text = strings.TrimSpace(text); text == "" {
				continue
			}
			if err := json.Unmarshal([]byte(text), &entries); err != nil {
				return nil, fmt.Errorf("ip -json %s: %w in %q", args[0], err, text)
			}
			for _, e := range entries {
				if (what == "routes" || strings.HasPrefix(e.Link, "vmac")) && of(e.To) {
					got[what] = append(got[what], e.To)
				}
			}
		}
	}
	for _, list := range got {
		slices.SortFunc(list, netip.Addr.Compare)
	}
	return got, nil
}
