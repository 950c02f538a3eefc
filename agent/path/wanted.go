//go:build linux

package path

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Wanted is what a Path is to have, for those who compare it with what is there.
type Wanted struct {
	Prefixes   *Prefixes          `json:"prefixes,omitempty"` // nil: not known yet
	Endpoints  []Endpoint         `json:"endpoints"`
	Links      []string           `json:"links"`    // names of the vmacs
	Complete   bool               `json:"complete"` // what is not in Endpoints is not wanted
	Multihomed []netip.Addr       `json:"multihomed,omitempty"`
	Watched    map[string]Watched `json:"watched,omitempty"` // by parent
	Tenants    Tenants            `json:"tenants"`
	Others     *[]OtherNode       `json:"others,omitempty"` // nil: not known yet
}

// Wanted now.
func (p *Path) Wanted() *Wanted {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := &Wanted{Others: p.others, Complete: p.synced, Tenants: p.tenants, Multihomed: slices.Clone(p.multihomed), Watched: maps.Clone(p.watched), Endpoints: []Endpoint{}}
	if p.prefixes != nil {
		prefixes := *p.prefixes
		w.Prefixes = &prefixes
	}
	for _, v := range p.vmacs {
		w.Links = append(w.Links, v.name)
	}
	slices.Sort(w.Links)
	for _, parent := range slices.Sorted(maps.Keys(p.desired)) {
		for _, ep := range desiredEndpoints(p.desired[parent]) {
			w.Endpoints = append(w.Endpoints, Endpoint{parent, ep.Address, ep.MAC[:]})
		}
	}
	return w
}

func (w *Wanted) endpoints() (endpoints, error) {
	desired := endpoints{}
	for _, ep := range w.Endpoints {
		if _, _, err := desired.put(ep); err != nil {
			return nil, fmt.Errorf("what the agent wants: %w", err)
		}
	}
	return desired, nil
}
