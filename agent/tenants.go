package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/berthdev/berth/agent/journal"
	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// tenants tells the service path which addresses are of which netspace, and which netspaces have pods of this node on which parent:
// at each change of pools, and before the path of a pod of a netspace is made.
type tenants struct {
	*Agent
	kick chan struct{} // pools have changed

	mu   sync.Mutex
	told path.Tenants
}

func newTenants(a *Agent) *tenants { return &tenants{Agent: a, kick: make(chan struct{}, 1)} }

// changed is told of pools. The work is done by run: at a start, news come pool by pool.
func (t *tenants) changed() {
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// run until ctx ends.
func (t *tenants) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.kick:
			t.sync()
		}
		select { // a burst of changes is one
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// sync what the path was told with what there is, these leases of the node among it.
func (t *tenants) sync(more ...*v1alpha1.IPLease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := tenantsOf(t.pools.all(), slices.Concat(t.bound(), more), t.cfg.NodeName)
	if reflect.DeepEqual(now, t.told) {
		return
	}
	t.told = now
	t.path.SetTenants(now)
	if data, err := json.Marshal(now); err == nil {
		t.journal.SetNode(journal.KeyTenants, data)
	}
}

// attaching these leases of one interface: their path must know whose they are.
func (t *tenants) attaching(pools []*ipam.Pool, leases []*v1alpha1.IPLease) {
	if slices.ContainsFunc(pools, func(p *ipam.Pool) bool { return p.Netspace != "" }) {
		t.sync(leases...)
	}
}

// resume what the last run knew, until the API answers.
func (t *tenants) resume() {
	raw := t.journal.Node(journal.KeyTenants)
	if raw == nil {
		return
	}
	var was path.Tenants
	if err := json.Unmarshal(raw, &was); err != nil {
		t.log.Warn("tenants in the journal", "err", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told = was
	t.path.SetTenants(was)
}

// tenantsOf pools, and of the leases that a node holds.
func tenantsOf(pools []*ipam.Pool, leases []*v1alpha1.IPLease, node string) path.Tenants {
	out := path.Tenants{}
	byName := map[string]*ipam.Pool{}
	for _, p := range pools {
		if p.Netspace == "" {
			continue
		}
		byName[p.Name] = p
		for _, f := range ipam.Families {
			for _, r := range p.Ranges(f) {
				out.Add(p.Netspace, path.Range{First: r.From, Last: r.To})
			}
		}
	}
	on := map[string]map[string]bool{}
	for _, l := range leases {
		p, h := byName[l.Spec.Pool], ipam.HolderOn(l, node)
		if p == nil || h == nil || h.Parent == "" {
			continue
		}
		if a, err := netip.ParseAddr(l.Spec.Address); err == nil && !p.Contains(a) { // of a delegate, or held out of its pool's ranges by now
			out.Add(p.Netspace, path.Range{First: a, Last: a})
		}
		if on[h.Parent] == nil {
			on[h.Parent] = map[string]bool{}
		}
		on[h.Parent][p.Netspace] = true
	}
	for parent, netspaces := range on {
		if out.Of == nil {
			out.Of = map[string][]string{}
		}
		out.Of[parent] = slices.Sorted(maps.Keys(netspaces))
	}
	for netspace, ranges := range out.Ranges {
		slices.SortFunc(ranges, func(a, b path.Range) int { return cmp.Or(a.First.Compare(b.First), a.Last.Compare(b.Last)) })
		out.Ranges[netspace] = slices.Compact(ranges)
	}
	return out
}
