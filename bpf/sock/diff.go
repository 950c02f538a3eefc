package sock

import (
	"slices"
)

// row is what the maps have of one service, that is of one port of a Service.
type row struct {
	port
	generation uint32
}

// table is what the maps have, by the service's number.
type table map[uint32]row

// changes are writes, in the order of the fields. Whoever reads the maps meanwhile sees each service as it was or as it will be:
//
//	slots          of a generation that no service has yet
//	members        more of them, which no slot in use names yet
//	goneFrontends  to the node
//	services       the switch to the new generation, once its slots and members are there
//	frontends      once there are their services
//	goneMembers    remembered by flows, sockets and affinity, in no slot in use
//	               here a grace period: programs may be at a service's old slots, or have a member at hand
//	goneServices   to which no frontend leads
//	goneSlots      of generations that no service has
type changes struct {
	slots         []put[slotKey, endpoint]
	members       []put[memberKey, uint64]
	goneFrontends []endpoint
	services      []put[uint32, serviceValue]
	frontends     []put[endpoint, uint32]
	goneMembers   []memberKey
	goneServices  []uint32
	goneSlots     []slotKey
}

// put is a write. One that replaces leaves an element to others, see write.go.
type put[K comparable, V any] struct {
	key      K
	value    V
	replaces bool
}

// diff says what makes the rows that have, into rows of the ports that want; the frontends of those are all different. A port is the
// row that one of its frontends leads to by now, so that it keeps its number, and with it affinity. fresh gives numbers that no row
// has. next are the rows afterwards; removed, the backends that a row has no more, and those of rows that have lost a frontend.
func diff(want []port, have table, fresh func() uint32) (c changes, next table, removed []endpoint) {
	at := make(map[endpoint]uint32)
	for id, r := range have {
		for _, f := range r.frontends {
			at[f] = id
		}
	}
	next = make(table, len(want))
	lost := make(map[uint32]bool) // rows, a frontend
	for _, p := range want {
		id, known := p.among(at, next)
		for taken := !known; taken; _, taken = next[id] {
			id = fresh()
		}
		old := have[id]
		r := row{p, old.generation}
		if !known || !r.sameBackends(old) {
			r.generation++
			removed = append(removed, c.fill(id, r, old)...)
		}
		if !known || r.value() != old.value() {
			c.services = append(c.services, put[uint32, serviceValue]{id, r.value(), known})
		}
		for _, f := range p.frontends {
			if other, there := at[f]; !there || other != id {
				c.frontends = append(c.frontends, put[endpoint, uint32]{f, id, there})
				if there {
					lost[other] = true
				}
			}
			delete(at, f)
		}
		next[id] = r
	}
	for f, id := range at {
		c.goneFrontends = append(c.goneFrontends, f)
		lost[id] = true
	}
	for id, old := range have {
		if _, stays := next[id]; !stays {
			c.goneServices = append(c.goneServices, id)
			removed = append(removed, c.fill(id, row{}, old)...)
		} else if lost[id] {
			for _, m := range old.members() {
				removed = append(removed, m.plain())
			}
		}
	}
	slices.SortFunc(removed, endpoint.compare)
	return c, next, slices.Compact(removed)
}

// among is the row that a frontend of the port leads to, unless another port has it.
func (p port) among(at map[endpoint]uint32, taken table) (uint32, bool) {
	for _, f := range p.frontends {
		if id, ok := at[f]; ok {
			if _, ok := taken[id]; !ok {
				return id, true
			}
		}
	}
	return 0, false
}

func (r row) sameBackends(old row) bool {
	return r.steered == old.steered && slices.Equal(r.backends, old.backends) && slices.Equal(r.staying, old.staying)
}

// fill changes slots and members from the old row to the new one, and returns which endpoints are none of its members any more.
func (c *changes) fill(id uint32, r, old row) (removed []endpoint) {
	if old.generation != 0 {
		for i := range old.slots() {
			c.goneSlots = append(c.goneSlots, slotKey{id, old.generation, uint32(i)})
		}
	}
	if r.generation != 0 {
		for i, e := range r.slots() {
			c.slots = append(c.slots, put[slotKey, endpoint]{slotKey{id, r.generation, uint32(i)}, e, false})
		}
	}
	have, want := old.members(), r.members()
	gone := func(e endpoint) {
		c.goneMembers = append(c.goneMembers, memberKey{id, e})
		if !hasMember(r.backends, e.plain()) && !hasMember(r.staying, e.plain()) {
			removed = append(removed, e.plain())
		}
	}
	for _, b := range want {
		for len(have) > 0 && have[0].compare(b.endpoint) < 0 {
			gone(have[0].endpoint)
			have = have[1:]
		}
		known := len(have) > 0 && have[0].endpoint == b.endpoint
		if !known || have[0].network != b.network {
			c.members = append(c.members, put[memberKey, uint64]{memberKey{id, b.endpoint}, b.network, known})
		}
		if known {
			have = have[1:]
		}
	}
	for _, b := range have {
		gone(b.endpoint)
	}
	return removed
}

// touched are the frontends of rows that the changes are about.
func (c changes) touched(next table) []endpoint {
	rows := make(map[uint32]bool)
	for _, p := range c.services {
		rows[p.key] = true
	}
	for _, p := range c.members {
		rows[p.key.Service] = true
	}
	frontends := slices.Clone(c.goneFrontends)
	for id := range rows {
		frontends = append(frontends, next[id].frontends...)
	}
	for _, p := range c.frontends {
		frontends = append(frontends, p.key)
	}
	return frontends
}

// size is the number of writes.
func (c changes) size() int {
	return len(c.slots) + len(c.members) + len(c.services) + len(c.frontends) +
		len(c.goneFrontends) + len(c.goneMembers) + len(c.goneServices) + len(c.goneSlots)
}
