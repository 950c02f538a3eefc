package bpf

import (
	"fmt"
	"maps"
	"sync"

	"github.com/cilium/ebpf"
)

// seats is an array in front of a hash map, where programs find for less what the hash map says of a key (seats.h). It is what this process
// has made of the hash map for its own programs: the next one begins with another array. The row (row.go) is one such value before a trie.
//
// An element of an array is changed while programs read it, and they may see half of the change. So a seat is written only while nobody reads
// it, and only its flag changes while somebody may. Who has no seat, because it has just changed or because both of its seats are others',
// is found in the hash map. A seat:
//
//	state  | flag | read by                           | leaves by
//	free   | no   | nobody                            | settle, written → filled
//	filled | no   | nobody                            | leave → free; settle, after a grace period, flagged → taken
//	taken  | yes  | all                               | leave, the flag goes → left
//	left   | no   | programs that were running then   | settle, after a grace period → free
type seats[K, V comparable] struct {
	array *ebpf.Map
	first func(K) uint32 // of the two seats of a key
	flag  func(V) V      // sets flagSeated
	grace func() error

	settling sync.Mutex  // held by settle
	mu       *sync.Mutex // of the owner, held to change the hash map, and for all methods but settle
	want     map[K]V
	at       map[uint32]occupant[K] // those that are not free
	closed   bool                   // the array is
}

// seat is an element of the array.
type seat[K, V any] struct {
	Key   K
	Value V
}

type occupant[K comparable] struct {
	key   K
	state seatState
}

type seatState int

const (
	seatFilled seatState = iota
	seatTaken
	seatLeft
)

const (
	seatsBits  = 11
	flagSeated = 1 << 15
)

// newSeats fills the array for programs that do not run yet.
func newSeats[K, V comparable](array *ebpf.Map, mu *sync.Mutex, first func(K) uint32, flag func(V) V, content map[K]V) (*seats[K, V], error) {
	s := &seats[K, V]{array: array, first: first, flag: flag, grace: grace, mu: mu, want: content, at: map[uint32]occupant[K]{}}
	for k := range s.want {
		n, ok := s.choose(k)
		if !ok {
			continue
		}
		if err := s.write(n, k, true); err != nil {
			return nil, err
		}
		s.at[n] = occupant[K]{k, seatTaken}
	}
	return s, nil
}

// firstSeat of a key of two words, as in seats.h.
func firstSeat(high, low uint64) uint32 {
	const golden = 0x9e3779b97f4a7c15
	return uint32((high*golden + low) * golden >> (64 - seatsBits))
}

// find the seat of a key.
func (s *seats[K, V]) find(k K) (uint32, bool) {
	for _, n := range [...]uint32{s.first(k), s.first(k) ^ 1} {
		if o, ok := s.at[n]; ok && o.key == k && o.state != seatLeft {
			return n, true
		}
	}
	return 0, false
}

// choose a free seat for a key.
func (s *seats[K, V]) choose(k K) (uint32, bool) {
	for _, n := range [...]uint32{s.first(k), s.first(k) ^ 1} {
		if _, ok := s.at[n]; !ok {
			return n, true
		}
	}
	return 0, false
}

func (s *seats[K, V]) write(n uint32, k K, flagged bool) error {
	v := s.want[k]
	if flagged {
		v = s.flag(v)
	}
	if err := s.array.Put(n, seat[K, V]{k, v}); err != nil {
		return fmt.Errorf("write seat %d of %v: %w", n, k, err)
	}
	return nil
}

// put has write change the hash map, which is to say v of a key.
func (s *seats[K, V]) put(k K, v V, write func() error) error {
	if old, ok := s.want[k]; !ok || old != v {
		if err := s.leave(k); err != nil {
			return err
		}
	}
	if err := write(); err != nil {
		return err
	}
	s.want[k] = v
	return nil
}

// delete has write delete a key from the hash map.
func (s *seats[K, V]) delete(k K, write func() error) error {
	if err := s.leave(k); err != nil {
		return err
	}
	return write()
}

// sync has write make the content of the hash map exactly want.
func (s *seats[K, V]) sync(want map[K]V, write func() error) error {
	for k, old := range s.want {
		if v, ok := want[k]; ok && v == old {
			continue
		}
		if err := s.leave(k); err != nil {
			return err
		}
	}
	if err := write(); err != nil {
		return err
	}
	maps.Copy(s.want, want)
	return nil
}

// leave sends programs to the hash map for a key.
func (s *seats[K, V]) leave(k K) error {
	if n, ok := s.find(k); ok && s.at[n].state == seatTaken {
		if err := s.write(n, k, false); err != nil {
			return err
		}
		s.at[n] = occupant[K]{k, seatLeft}
	} else if ok {
		delete(s.at, n)
	}
	delete(s.want, k)
	return nil
}

// settle gives seats to all that can have one. It waits for up to two grace periods, without the lock; nothing else has to wait for it.
func (s *seats[K, V]) settle() error {
	s.settling.Lock()
	defer s.settling.Unlock()
	for range 2 { // one may free the seat that the next fills
		moving, err := s.fill()
		if err == nil && len(moving) > 0 {
			err = s.grace()
		}
		if err == nil {
			err = s.move(moving)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fill free seats. It returns those that a grace period moves on.
func (s *seats[K, V]) fill() (moving map[uint32]occupant[K], err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil
	}
	for k := range s.want {
		if _, ok := s.find(k); ok {
			continue
		}
		n, ok := s.choose(k)
		if !ok {
			continue
		}
		if err := s.write(n, k, false); err != nil {
			return nil, err
		}
		s.at[n] = occupant[K]{k, seatFilled}
	}
	moving = map[uint32]occupant[K]{}
	for n, o := range s.at {
		if o.state != seatTaken {
			moving[n] = o
		}
	}
	return moving, nil
}

// move on the seats that nobody has changed during the grace period.
func (s *seats[K, V]) move(moving map[uint32]occupant[K]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, o := range moving {
		switch now, ok := s.at[n]; {
		case !ok || now != o || s.closed:
		case o.state == seatLeft:
			delete(s.at, n)
		default:
			if err := s.write(n, o.key, true); err != nil {
				return err
			}
			s.at[n] = occupant[K]{o.key, seatTaken}
		}
	}
	return nil
}

// grace returns when all programs have ended that ran when it was called. The kernel promises that of an update of a map of maps
// (maybe_wait_bpf_programs). Some 10 ms.
func grace() (err error) {
	spec := &ebpf.MapSpec{Name: "grace", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	inner, err := ebpf.NewMap(spec)
	if err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	defer inner.Close()
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Name: "grace", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: spec})
	if err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	defer outer.Close()
	if err := outer.Put(uint32(0), inner); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}
