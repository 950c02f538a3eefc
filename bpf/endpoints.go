package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

// addressKey and endpoint are key and value of the endpoints map.
type (
	addressKey [16]byte
	endpoint   struct {
		MAC   [6]byte
		Flags uint16 // flagSeated
	}
)

func (k addressKey) seat() uint32 {
	words := func(i int) uint64 {
		return uint64(binary.NativeEndian.Uint32(k[i:]))<<32 | uint64(binary.NativeEndian.Uint32(k[i+4:]))
	}
	return firstSeat(words(0), words(8))
}

func (e endpoint) seated() endpoint {
	e.Flags |= flagSeated
	return e
}

func (e Endpoint) entry() (key addressKey, value endpoint, err error) {
	if !e.Address.IsValid() {
		return key, value, fmt.Errorf("endpoint %x: no address", e.MAC)
	}
	return e.Address.As16(), endpoint{MAC: e.MAC}, nil
}

// Endpoints are those that the programs know, in no order.
func (s *Steer) Endpoints() ([]Endpoint, error) {
	have, err := contents[addressKey, endpoint](s.maps.Endpoints)
	if err != nil {
		return nil, fmt.Errorf("read endpoints: %w", err)
	}
	return asEndpoints(have), nil
}

func asEndpoints(known map[addressKey]endpoint) []Endpoint {
	var out []Endpoint
	for key, value := range known {
		out = append(out, Endpoint{netip.AddrFrom16(key).Unmap(), value.MAC})
	}
	return out
}

// SyncEndpoints makes the endpoints exactly these. Those in both the old and the new set are served throughout.
func (s *Steer) SyncEndpoints(want []Endpoint) error {
	s.mu.Lock()
	defer s.mu.Unlock()

	entries := make(map[addressKey]endpoint, len(want))
	for _, e := range want {
		key, value, err := e.entry()
		if err != nil {
			return err
		}
		if other, ok := entries[key]; ok && other != value {
			return fmt.Errorf("endpoint %s: two MACs, %x and %x", e.Address, other.MAC, value.MAC)
		}
		entries[key] = value
	}
	// A MAC comes before its first endpoint and goes after its last, so that both questions of a pod, from its address
	// and from its link-local one, are answered from the start.
	for _, value := range entries {
		if err := s.putMAC(value.MAC); err != nil {
			return err
		}
	}
	if err := s.seats.sync(entries, func() error { return synchronize(s.maps.Endpoints, entries) }); err != nil {
		return fmt.Errorf("endpoints: %w", err)
	}
	return s.dropMACs()
}

// PutEndpoint adds an endpoint, or gives its address to another MAC.
func (s *Steer) PutEndpoint(e Endpoint) error {
	s.mu.Lock()
	defer s.mu.Unlock()

	key, value, err := e.entry()
	if err != nil {
		return err
	}
	if err := s.putMAC(e.MAC); err != nil {
		return err
	}
	var old endpoint
	lookup := s.maps.Endpoints.Lookup(key, &old)
	if err := s.seats.put(key, value, func() error { return s.maps.Endpoints.Put(key, value) }); err != nil {
		return fmt.Errorf("put endpoint %s: %w", e.Address, err)
	}
	if lookup == nil && old.MAC != e.MAC {
		return s.dropMACs()
	}
	return nil
}

// DeleteEndpoint is no error for an address without endpoint.
func (s *Steer) DeleteEndpoint(address netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()

	key, _, err := Endpoint{Address: address}.entry()
	if err != nil {
		return err
	}
	err = s.seats.delete(key, func() error { return s.maps.Endpoints.Delete(key) })
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete endpoint %s: %w", address, err)
	}
	return s.dropMACs()
}

// Seat has the programs find faster the endpoints and prefixes that are new since the last call. It waits for the kernel, some ten milliseconds.
func (s *Steer) Seat() error {
	if err := errors.Join(s.seats.settle(), s.rows.settle()); err != nil {
		return fmt.Errorf("service path of %s: %w", s.cfg.Name, err)
	}
	return nil
}

func (s *Steer) putMAC(mac [6]byte) error {
	if err := s.maps.Macs.Put(mac, uint32(1)); err != nil {
		return fmt.Errorf("put MAC %x: %w", mac, err)
	}
	return nil
}

// dropMACs removes the MACs without endpoint. It reads the map instead of keeping count, so nothing can drift.
func (s *Steer) dropMACs() error {
	endpoints, err := contents[addressKey, endpoint](s.maps.Endpoints)
	if err != nil {
		return fmt.Errorf("read endpoints: %w", err)
	}
	used := make(map[[6]byte]uint32, len(endpoints))
	for _, value := range endpoints {
		used[value.MAC] = 1
	}
	if err := synchronize(s.maps.Macs, used); err != nil {
		return fmt.Errorf("MACs: %w", err)
	}
	return nil
}
