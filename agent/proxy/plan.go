//go:build linux

package proxy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/berthdev/berth/service"
)

// state is what the kernel's table has.
type state struct {
	base      []string                    // what the base chains are known by, see base.known
	links     []string                    // sorted
	chains    map[string]bool             // of ports
	sticky    map[string]bool             // sets
	frontends map[service.Frontend]string // verdicts
	addresses map[netip.Addr]bool
}

func newState() *state {
	return &state{chains: map[string]bool{}, sticky: map[string]bool{}, frontends: map[service.Frontend]string{}, addresses: map[netip.Addr]bool{}}
}

// wanted is what Services ask of it.
type wanted struct {
	services  map[string]service.Service
	claims    map[service.Frontend]claim
	chains    map[string]int     // how many Services use it: one, or none
	sticky    map[string]int     // how many chains use it
	addresses map[netip.Addr]int // how many frontends are of it
}

// claim of a Service on a frontend. If several want one, package service decides; while it passes from one to the other, the later
// claim is the right one.
type claim struct{ service, verdict string }

func newWanted() *wanted {
	return &wanted{map[string]service.Service{}, map[service.Frontend]claim{}, map[string]int{}, map[string]int{}, map[netip.Addr]int{}}
}

// put a Service in the place of the one of its name. It says what has to be looked at.
func (w *wanted) put(s service.Service) touched {
	t := w.remove(s.Name)
	c := compile(s)
	w.services[s.Name] = s
	for _, ch := range c.chains {
		w.chains[ch.name]++
		for _, set := range ch.sticky {
			w.sticky[set]++
		}
	}
	for f, verdict := range c.frontends {
		w.claims[f] = claim{s.Name, verdict}
		t.frontends[f] = true
		if !f.NodePort() {
			w.addresses[f.Address]++
			t.addresses[f.Address] = true
		}
	}
	return t
}

func (w *wanted) remove(name string) touched {
	t := newTouched()
	s, ok := w.services[name]
	if !ok {
		return t
	}
	delete(w.services, name)
	c := compile(s)
	for _, ch := range c.chains {
		t.chains[ch.name] = true
		for _, set := range ch.sticky {
			t.sticky[set] = true
			if w.sticky[set]--; w.sticky[set] == 0 {
				delete(w.sticky, set)
			}
		}
		if w.chains[ch.name]--; w.chains[ch.name] == 0 {
			delete(w.chains, ch.name)
		}
	}
	for f := range c.frontends {
		t.frontends[f] = true
		if w.claims[f].service == name {
			delete(w.claims, f)
		}
		if f.NodePort() {
			continue
		}
		t.addresses[f.Address] = true
		if w.addresses[f.Address]--; w.addresses[f.Address] == 0 {
			delete(w.addresses, f.Address)
		}
	}
	return t
}

// touched is what a change of a Service may have changed in the table; what comes with the Service's new chains is not in it.
type touched struct {
	frontends map[service.Frontend]bool
	addresses map[netip.Addr]bool
	chains    map[string]bool // that it had
	sticky    map[string]bool // that it had
}

func newTouched() touched {
	return touched{map[service.Frontend]bool{}, map[netip.Addr]bool{}, map[string]bool{}, map[string]bool{}}
}

// add what another change touches.
func (t touched) add(o touched) {
	maps.Copy(t.frontends, o.frontends)
	maps.Copy(t.addresses, o.addresses)
	maps.Copy(t.chains, o.chains)
	maps.Copy(t.sticky, o.sticky)
}

// change is carried out in one transaction, so that each connection meets the Service as it was or as it is.
type change struct {
	service   string // "" for what no Service asks for, and addresses
	chains    []chain
	sticky    map[string]bool // sets to make, and whether they are of IPv4
	forget    []string        // sets to empty: left over, their clients have had other backends since
	point     []pointer
	unpoint   []service.Frontend
	addresses []netip.Addr // to add
	gone      []netip.Addr
}

// pointer of a frontend to where its connections go.
type pointer struct {
	frontend service.Frontend
	verdict  string
	replaces bool // it points elsewhere now
}

// leftovers are used by nothing once a change is done. They go in a later transaction: until Linux 6.2 the kernel takes a chain for
// used for a moment after the last element that points to it is gone.
type leftovers struct{ chains, sticky map[string]bool }

// plan says how the table becomes what Services want of it, as far as it was touched; what is right already is not in it.
// First goes what no Service asks for, then one change for each Service.
func plan(w *wanted, have *state, t touched) (changes []change, left leftovers) {
	byService := map[string]*change{}
	of := func(name string) *change {
		if byService[name] == nil {
			byService[name] = &change{service: name, sticky: map[string]bool{}}
		}
		return byService[name]
	}
	for f := range t.frontends {
		wants, has := w.claims[f], have.frontends[f]
		switch {
		case wants.verdict == has:
		case wants.verdict == "":
			c := of("")
			c.unpoint = append(c.unpoint, f)
		default:
			c := of(wants.service)
			c.point = append(c.point, pointer{frontend: f, verdict: wants.verdict, replaces: has != ""})
		}
	}
	for a := range t.addresses {
		switch wants, has := w.addresses[a] > 0, have.addresses[a]; {
		case wants && !has:
			c := of("")
			c.addresses = append(c.addresses, a)
		case !wants && has:
			c := of("")
			c.gone = append(c.gone, a)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byService)) {
		c := byService[name]
		c.sort()
		for _, ch := range chainsFor(w.services[name], c.point) {
			for _, set := range ch.sticky {
				if !have.sticky[set] {
					c.sticky[set] = ch.is4
				} else if !t.sticky[set] {
					c.forget = append(c.forget, set)
				}
			}
			if !have.chains[ch.name] {
				c.chains = append(c.chains, ch)
			}
		}
		changes = append(changes, *c)
	}
	return changes, t.leftovers(w, have)
}

func (t touched) leftovers(w *wanted, have *state) leftovers {
	left := newLeftovers()
	for name := range t.chains {
		if have.chains[name] && w.chains[name] == 0 {
			left.chains[name] = true
		}
	}
	for name := range t.sticky {
		if w.sticky[name] == 0 && have.sticky[name] {
			left.sticky[name] = true
		}
	}
	return left
}

// add what is left over by now, and take out what is wanted again.
func (l *leftovers) add(more leftovers, w *wanted) {
	maps.Copy(l.chains, more.chains)
	maps.Copy(l.sticky, more.sticky)
	maps.DeleteFunc(l.chains, func(name string, _ bool) bool { return w.chains[name] > 0 })
	maps.DeleteFunc(l.sticky, func(name string, _ bool) bool { return w.sticky[name] > 0 })
}

func newLeftovers() leftovers { return leftovers{map[string]bool{}, map[string]bool{}} }

func (l leftovers) empty() bool { return len(l.chains)+len(l.sticky) == 0 }

// chainsFor are those of a Service that its frontends are to be pointed to.
func chainsFor(s service.Service, point []pointer) []chain {
	if len(point) == 0 {
		return nil
	}
	return slices.DeleteFunc(compile(s).chains, func(ch chain) bool {
		return !slices.ContainsFunc(point, func(p pointer) bool { return p.verdict == ch.name })
	})
}

func (c *change) sort() {
	slices.SortFunc(c.point, func(a, b pointer) int { return compareFrontends(a.frontend, b.frontend) })
	slices.SortFunc(c.unpoint, compareFrontends)
	slices.SortFunc(c.addresses, netip.Addr.Compare)
	slices.SortFunc(c.gone, netip.Addr.Compare)
}

func compareFrontends(a, b service.Frontend) int {
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

// cleared says that the leftovers are gone.
func (s *state) cleared(l leftovers) {
	for name := range l.chains {
		delete(s.chains, name)
	}
	for name := range l.sticky {
		delete(s.sticky, name)
	}
}

// done says what the table has after a change.
func (s *state) done(c change) {
	for _, ch := range c.chains {
		s.chains[ch.name] = true
	}
	for set := range c.sticky {
		s.sticky[set] = true
	}
	for _, p := range c.point {
		s.frontends[p.frontend] = p.verdict
	}
	for _, f := range c.unpoint {
		delete(s.frontends, f)
	}
	for _, a := range c.addresses {
		s.addresses[a] = true
	}
	for _, a := range c.gone {
		delete(s.addresses, a)
	}
}

// everything is touched.
func everything(w *wanted, have *state) touched {
	t := touched{map[service.Frontend]bool{}, maps.Clone(have.addresses), maps.Clone(have.chains), maps.Clone(have.sticky)}
	for a := range w.addresses {
		t.addresses[a] = true
	}
	for f := range w.claims {
		t.frontends[f] = true
	}
	for f := range have.frontends {
		t.frontends[f] = true
	}
	return t
}
