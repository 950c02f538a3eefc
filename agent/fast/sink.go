//go:build linux

package fast

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/berthdev/berth/bpf/sock"
	"github.com/berthdev/berth/service"
)

// underlay is the network of other nodes' own addresses that the node reaches by this link. A pod whose interface is a child of it
// reaches them in the same way. Nodes that know each other by another network, a management LAN say, are not native to any pod. No
// IPPool's network has such a name.
func underlay(link string) string { return "link/" + link }

// Set Services, all at once.
func (f *Fast) Set(all ...service.Service) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	located := make([]service.Service, len(all))
	for i, s := range all {
		f.services[s.Name] = s
		located[i] = f.located(s)
	}
	removed, err := f.programs.Set(located...)
	f.end(removed)
	return err
}

// Delete Services.
func (f *Fast) Delete(names ...string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range names {
		delete(f.services, name)
	}
	removed, err := f.programs.Delete(names...)
	f.end(removed)
	return err
}

// Sync all Services.
func (f *Fast) Sync(all []service.Service) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.services)
	for _, s := range all {
		f.services[s.Name] = s
	}
	return f.sync()
}

func (f *Fast) sync() error {
	all := make([]service.Service, 0, len(f.services))
	for _, s := range f.services {
		all = append(all, f.located(s))
	}
	removed, err := f.programs.Sync(all)
	f.end(removed)
	return err
}

// SetNodes says the addresses of all nodes, at which NodePorts are.
func (f *Fast) SetNodes(addresses []netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes = addresses
	return f.programs.SetNodes(addresses)
}

// located says of backends at other nodes by which link the node reaches them. One that it has no route to is nobody's.
func (f *Fast) located(s service.Service) service.Service {
	elsewhere := func(b service.Backend) bool { return b.Node }
	if !slices.ContainsFunc(s.Ports, func(p service.Port) bool { return slices.ContainsFunc(p.Backends, elsewhere) }) {
		return s
	}
	s.Ports = slices.Clone(s.Ports)
	for i := range s.Ports {
		backends := slices.Clone(s.Ports[i].Backends)
		for j := range backends {
			if b := &backends[j]; b.Node {
				b.Node = false
				if link := f.link(b.Address); link != "" {
					b.Network = underlay(link)
				}
			}
		}
		s.Ports[i].Backends = backends
	}
	return s
}

// link by which the node reaches another; "" for none.
func (f *Fast) link(a netip.Addr) string {
	link, known := f.links[a]
	if !known {
		link, _ = f.by(a) // no route is an error
		f.links[a] = link
	}
	return link
}

// relocate nodes: their routes may have changed.
func (f *Fast) relocate() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.links
	f.links = map[netip.Addr]string{}
	var all []service.Service
	for _, s := range f.services {
		all = append(all, f.located(s))
	}
	if maps.Equal(before, f.links) {
		return nil
	}
	removed, err := f.programs.Set(all...)
	f.end(removed)
	return err
}

// end the sockets of backends that are gone, soon.
func (f *Fast) end(removed []sock.Removed) {
	if len(removed) == 0 {
		return
	}
	f.removed = append(f.removed, removed...)
	select {
	case f.wake <- struct{}{}:
	default: // awake already
	}
}
