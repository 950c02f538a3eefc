package services

import (
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/service"
)

// state is what is known of the cluster.
type state struct {
	node  string
	log   *slog.Logger
	sinks []*sink

	onNodes func([]netip.Addr)

	mu       sync.Mutex
	services map[string]*entry         // by name; also those of which only slices are known
	bySlice  map[string]*service.Slice // by namespace/name
	allNodes map[string]*service.Node  // by name
	pools    []*ipam.Pool
	claims   *service.Claims
	view     *service.View
	missing  map[part]bool     // what has not been listed yet
	complete chan struct{}     // closed when nothing is missing
	told     map[string]string // what was left out of an object, as it was last logged

	counted, endpoints int // Services with frontends; endpoints
}

// part of what has to be known before anything is handed over.
type part string

// entry is one Service.
type entry struct {
	spec   *service.Spec // nil: unknown, or without frontends
	slices []*service.Slice
	has    []print // what each sink has of it
}

func newState(node string, log *slog.Logger) *state {
	return &state{
		node: node, log: log,
		services: map[string]*entry{}, bySlice: map[string]*service.Slice{}, allNodes: map[string]*service.Node{},
		claims: service.NewClaims(), view: service.NewView(node, nil, nil), told: map[string]string{},
		missing:  map[part]bool{"services": true, "slices": true, "nodes": true, "pools": true},
		complete: make(chan struct{}),
	}
}

// listed says that a part is known now; s.mu is held.
func (s *state) listed(p part) {
	if !s.missing[p] {
		return
	}
	if delete(s.missing, p); len(s.missing) == 0 {
		close(s.complete)
	}
}

// entry of a Service, made if need be; s.mu is held.
func (s *state) entry(name string) *entry {
	e := s.services[name]
	if e == nil {
		e = &entry{has: make([]print, len(s.sinks))}
		s.services[name] = e
	}
	return e
}

// changed Services are put into the queues; s.mu is held. at is when the event came that changed them.
func (s *state) changed(at time.Time, names ...string) {
	for _, name := range names {
		for _, to := range s.sinks {
			to.add(name, at)
		}
	}
}

func (s *state) setSpec(it item[*service.Spec]) {
	at := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putSpec(at, it.key, it.kept)
}

func (s *state) deleteSpec(name string) {
	at := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropSpec(at, name)
}

func (s *state) dropSpec(at time.Time, name string) {
	s.putSpec(at, name, nil)
	s.forget("Service", name)
	s.forget("frontends", name)
}

func (s *state) replaceSpecs(items []item[*service.Spec]) {
	at := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := map[string]bool{}
	for name, e := range s.services {
		gone[name] = e.spec != nil
	}
	for _, it := range items {
		delete(gone, it.key)
		s.putSpec(at, it.key, it.kept)
	}
	for name, had := range gone {
		if had {
			s.dropSpec(at, name)
		}
	}
	s.listed("services")
}

// putSpec of a Service, nil for none; s.mu is held.
func (s *state) putSpec(at time.Time, name string, next *service.Spec) {
	old := (*service.Spec)(nil)
	if e := s.services[name]; e != nil {
		old = e.spec
	}
	if old == nil && next == nil {
		return
	}
	s.entry(name).spec = next
	s.counted += one(next != nil) - one(old != nil)
	s.changed(at, name)
	s.changed(at, s.claims.Replace(old, next)...)
}

func one(is bool) int {
	if is {
		return 1
	}
	return 0
}

func (s *state) setSlice(it item[*service.Slice]) {
	at := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putSlice(at, it.key, it.kept)
}

func (s *state) deleteSlice(key string) {
	at := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropSlice(at, key)
}

func (s *state) dropSlice(at time.Time, key string) {
	s.putSlice(at, key, nil)
	s.forget("EndpointSlice", key)
}

func (s *state) replaceSlices(items []item[*service.Slice]) {
	at := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := maps.Clone(s.bySlice)
	for _, it := range items {
		delete(gone, it.key)
		s.putSlice(at, it.key, it.kept)
	}
	for key := range gone {
		s.dropSlice(at, key)
	}
	s.listed("slices")
}

// putSlice, nil for one that is gone or no Service's; s.mu is held. A slice may change the Service that it is of.
func (s *state) putSlice(at time.Time, key string, next *service.Slice) {
	if old := s.bySlice[key]; old != nil {
		e := s.entry(old.Service)
		e.slices = slices.DeleteFunc(slices.Clone(e.slices), func(o *service.Slice) bool { return o == old })
		s.endpoints -= old.Endpoints()
		delete(s.bySlice, key)
		s.changed(at, old.Service)
	}
	if next != nil {
		e := s.entry(next.Service)
		e.slices = append(e.slices, next)
		s.endpoints += next.Endpoints()
		s.bySlice[key] = next
		s.changed(at, next.Service)
	}
}

func (s *state) setNode(it item[*service.Node]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.allNodes[it.kept.Name]; old != nil && old.Equal(it.kept) {
		return // a heartbeat
	}
	s.allNodes[it.kept.Name] = it.kept
	s.tellNodes()
	s.look()
}

func (s *state) deleteNode(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.allNodes, key[1:]) // nodes have no namespace
	s.tellNodes()
	s.look()
}

func (s *state) replaceNodes(items []item[*service.Node]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.allNodes)
	for _, it := range items {
		s.allNodes[it.kept.Name] = it.kept
	}
	s.tellNodes()
	s.look()
	s.listed("nodes")
}

// tellNodes where they are; s.mu is held.
func (s *state) tellNodes() {
	if s.onNodes == nil {
		return
	}
	var all []netip.Addr
	for _, n := range s.allNodes {
		all = append(all, n.Addresses...)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	s.onNodes(slices.Compact(all))
}

func (s *state) setPools(pools []*ipam.Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools = slices.Clone(pools)
	s.look()
	s.listed("pools")
}

// look anew at where addresses are; s.mu is held. Only Services with an endpoint that is elsewhere now are built again.
func (s *state) look() {
	at := time.Now()
	old := s.view
	s.view = service.NewView(s.node, slices.Collect(maps.Values(s.allNodes)), s.pools)
	if s.view.Equal(old) {
		return
	}
	for name, e := range s.services {
		if !s.view.SameZone(old) || slices.ContainsFunc(e.slices, func(l *service.Slice) bool { return l.Moved(old, s.view) }) {
			s.changed(at, name)
		}
	}
}

// build a Service as it is now; false if there is none. s.mu is held.
func (s *state) build(name string) (service.Service, bool) {
	e := s.services[name]
	if e == nil || e.spec == nil {
		return service.Service{Name: name}, false
	}
	built, bad := service.Build(e.spec, e.slices, s.view, s.claims)
	s.tell("frontends", name, bad)
	return built, true
}

// leftOut of an object is what is wrong in it.
func (s *state) leftOut(kind, key string, bad []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(kind, key, bad)
}

// tell what is left out, once; s.mu is held.
func (s *state) tell(kind, key string, bad []error) {
	if len(bad) == 0 {
		s.forget(kind, key)
		return
	}
	text := errors.Join(bad...).Error()
	if s.told[kind+" "+key] != text {
		s.told[kind+" "+key] = text
		s.log.Warn("left out", "of", kind+" "+key, "what", bad)
	}
}

func (s *state) forget(kind, key string) {
	if len(s.told) > 0 {
		delete(s.told, kind+" "+key)
	}
}

// counts of Services with frontends, and of endpoints.
func (s *state) counts() (services, endpoints int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counted, s.endpoints
}
