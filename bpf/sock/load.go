package sock

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// load reads what the maps have, returns it by row, and deletes what belongs to nothing: a change that was cut short leaves slots that no service has yet
// or any more, and members, services and frontends likewise.
func (p *Programs) load() (table, error) {
	var (
		frontends = make(map[endpoint]uint32)
		services  = make(map[uint32]serviceValue)
		slots     = make(map[slotKey]endpoint)
		members   = make(map[memberKey]uint64)
	)
	if err := errors.Join(
		contents(p.maps.Frontends, frontends),
		contents(p.maps.Services, services),
		contents(p.maps.Slots, slots),
		contents(p.maps.Members, members),
	); err != nil {
		return nil, err
	}
	rows, gone := tidy(frontends, services, slots, members)
	if err := p.write(gone); err != nil {
		return nil, fmt.Errorf("tidy up: %w", err)
	}
	return rows, nil
}

// tidy makes rows of the maps, and says what is in none. A service that is not whole is not kept: its frontends go to the node
// until it is written again.
func tidy(frontends map[endpoint]uint32, services map[uint32]serviceValue, slots map[slotKey]endpoint, members map[memberKey]uint64) (table, changes) {
	rows := make(table, len(services))
	var gone changes
	of := make(map[uint32][]endpoint, len(services))
	for f, id := range frontends {
		of[id] = append(of[id], f)
	}
	staying := make(map[uint32][]member)
	for key, network := range members {
		if plain := key.Backend.plain(); plain != key.Backend {
			staying[key.Service] = append(staying[key.Service], member{plain, network})
		}
	}
	for id, v := range services {
		r := row{generation: v.Generation, port: port{frontends: of[id], staying: staying[id], affinity: v.Affinity, steered: v.Flags&flagSteered != 0}}
		stored := slotsOf(slots, id, v)
		whole := len(r.frontends) > 0
		if v.Flags == 0 {
			for _, e := range stored {
				network, known := members[memberKey{id, e}]
				whole = whole && known
				r.backends = append(r.backends, member{e, network})
			}
		}
		if r.port = r.normal(); whole && r.value() == v && slices.Equal(r.slots(), stored) {
			rows[id] = r
		} else {
			gone.goneServices = append(gone.goneServices, id)
		}
	}
	for f, id := range frontends {
		if _, ok := rows[id]; !ok {
			gone.goneFrontends = append(gone.goneFrontends, f)
		}
	}
	for key := range slots {
		if r, ok := rows[key.Service]; !ok || key.Generation != r.generation || int(key.Index) >= len(r.slots()) {
			gone.goneSlots = append(gone.goneSlots, key)
		}
	}
	for key := range members {
		r, of := rows[key.Service], key.Backend.plain()
		all := r.backends
		if of != key.Backend {
			all = r.staying
		}
		if !hasMember(all, of) {
			gone.goneMembers = append(gone.goneMembers, key)
		}
	}
	return rows, gone
}

// slotsOf are the slots of a service as the map has them.
func slotsOf(slots map[slotKey]endpoint, id uint32, v serviceValue) []endpoint {
	if v.Flags&flagSteered != 0 {
		return nil
	}
	var out []endpoint
	for i := uint32(0); i < v.Count; i++ {
		e, ok := slots[slotKey{id, v.Generation, i}]
		if !ok {
			return nil
		}
		out = append(out, e)
	}
	return out
}

// contents reads a whole map, which nobody else may change meanwhile, into out.
func contents[K comparable, V any](m *ebpf.Map, out map[K]V) error {
	var (
		key   K
		value V
	)
	it := m.Iterate()
	for it.Next(&key, &value) {
		out[key] = value
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read map %s: %w", m, err)
	}
	return nil
}
