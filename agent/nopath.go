package agent

import (
	"context"
	"net/netip"

	"github.com/berthdev/berth/agent/path"
)

// noPath is the service path of an agent without one (Config.NoServicePath): pods get addresses and the routes of their pools, and
// none into the host. It touches nothing in the kernel, so the agent needs no privilege.
type noPath struct{}

func (noPath) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func (noPath) SetPrefixes(path.Prefixes)                                  {}
func (noPath) SetOthers([]path.OtherNode)                                 {}
func (noPath) SetMultihomed([]netip.Addr)                                 {}
func (noPath) SetTenants(path.Tenants)                                    {}
func (noPath) KeptApart() (map[string]uint64, error)                      { return nil, nil }
func (noPath) OnLinks(func([]string) error)                               {}
func (noPath) Attach(context.Context, ...path.Endpoint) error             { return nil }
func (noPath) Detach(context.Context, ...path.Endpoint) error             { return nil }
func (noPath) Sync(context.Context, []path.Endpoint) error                { return nil }
func (noPath) SetWatched(map[string]path.Watched)                         {}
func (noPath) OnSighting(func(path.Sighting))                             {}
func (noPath) Steered() []netip.Prefix                                    { return nil }
func (noPath) Wanted() *path.Wanted                                       { return nil }
func (noPath) Sightings() (counts map[string]map[string]uint64, _ error)  { return nil, nil }
func (noPath) Counters() (counters map[string]map[string]uint64, _ error) { return nil, nil }
