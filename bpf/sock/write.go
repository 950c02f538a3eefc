package sock

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// write carries out changes. Hash maps give the memory of an element that is deleted or replaced to the next one at once, and a
// program may still hold it and would take the other's value for its own. So no element is put into a map between a deletion or a
// replacement and the end of a grace period. Only services are spared that, as a program checks what it reads of them (pick in choose.h), and
// many may change at once.
func (p *Programs) write(c changes) error {
	if c.size() == 0 {
		return nil
	}
	if err := puts(p.maps.Slots, c.slots, nil); err != nil {
		return err
	}
	if err := puts(p.maps.Members, c.members, p.wait); err != nil {
		return err
	}
	if err := deletes(p.maps.Frontends, c.goneFrontends); err != nil {
		return err
	}
	if len(c.goneFrontends) > 0 && len(c.frontends) > 0 {
		if err := p.wait(); err != nil {
			return err
		}
	}
	if err := puts(p.maps.Services, c.services, nil); err != nil {
		return err
	}
	if err := puts(p.maps.Frontends, c.frontends, p.wait); err != nil {
		return err
	}
	if err := deletes(p.maps.Members, c.goneMembers); err != nil {
		return err
	}
	if len(c.goneFrontends)+len(c.goneMembers)+len(c.goneServices)+len(c.goneSlots) == 0 {
		return nil // all is new
	}
	if err := p.wait(); err != nil {
		return err
	}
	return errors.Join(deletes(p.maps.Services, c.goneServices), deletes(p.maps.Slots, c.goneSlots))
}

// puts writes; after what replaces it waits.
func puts[K comparable, V any](m *ebpf.Map, entries []put[K, V], wait func() error) error {
	for _, e := range entries {
		if err := m.Put(e.key, e.value); errors.Is(err, unix.E2BIG) {
			return fmt.Errorf("map %s is full, with %d entries: %w", m, m.MaxEntries(), err)
		} else if err != nil {
			return fmt.Errorf("put %v into map %s: %w", e.key, m, err)
		}
		if e.replaces && wait != nil {
			if err := wait(); err != nil {
				return err
			}
		}
	}
	return nil
}

// deletes is no error for what is not there.
func deletes[K comparable](m *ebpf.Map, keys []K) error {
	for _, key := range keys {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete %v of map %s: %w", key, m, err)
		}
	}
	return nil
}

// grace waits until every program that runs by now has ended. The kernel does that when a map in a map is replaced, so that user
// space may rely on it (maybe_wait_bpf_programs in kernel/bpf/syscall.c); membarrier would not where CPUs run without ticks.
type grace struct{ outer, inner *ebpf.Map }

func newGrace() (grace, error) {
	spec := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	inner, err := ebpf.NewMap(spec)
	if err != nil {
		return grace{}, fmt.Errorf("make map: %w", err)
	}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: spec})
	if err != nil {
		inner.Close()
		return grace{}, fmt.Errorf("make map of maps: %w", err)
	}
	return grace{outer, inner}, nil
}

func (g grace) wait() error {
	if err := g.outer.Put(uint32(0), g.inner); err != nil {
		return fmt.Errorf("wait for programs to end: %w", err)
	}
	return nil
}

func (g grace) Close() error { return errors.Join(g.outer.Close(), g.inner.Close()) }
