package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
)

// Sighting is an address and a MAC that uses it, as ARP or ND on the segment says.
type Sighting struct {
	Address netip.Addr
	MAC     [6]byte
}

// ErrClosed is what ReadSighting ends with.
var ErrClosed = os.ErrClosed

// sighting is a record of the ring buffer, and a key of the map seen.
type sighting struct {
	Address [16]byte
	MAC     [6]byte
	_       uint16
}

// telling is the value of the map of that name.
type telling struct{ Since, Spent, Told, OverBudget, BufferFull uint64 }

// ReadSighting waits for the next sighting. One goroutine at a time may call it, and no process has another's.
func (s *Steer) ReadSighting() (Sighting, error) {
	record, err := s.reader.Read()
	if errors.Is(err, ErrClosed) {
		return Sighting{}, ErrClosed
	}
	if err != nil {
		return Sighting{}, fmt.Errorf("read sightings of %s: %w", s.cfg.Name, err)
	}
	var raw sighting
	if _, err := binary.Decode(record.RawSample, binary.NativeEndian, &raw); err != nil {
		return Sighting{}, fmt.Errorf("read sightings of %s: %d bytes: %w", s.cfg.Name, len(record.RawSample), err)
	}
	return Sighting{netip.AddrFrom16(raw.Address).Unmap(), raw.MAC}, nil
}

// SyncWatched makes the watched addresses exactly these. After Attach there are none.
func (s *Steer) SyncWatched(want []netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()

	entries := make(map[prefixKey]uint32, len(want))
	for _, p := range want {
		k, err := key(p)
		if err != nil {
			return err
		}
		entries[k] = 1
	}
	if err := synchronize(s.maps.Watched, entries); err != nil {
		return fmt.Errorf("watched prefixes: %w", err)
	}
	return nil
}

// The outcomes of sightings.
const (
	SightingsTold       = "told"
	SightingsOverBudget = "over_budget" // more than 128 in a second
	SightingsBufferFull = "buffer_full" // nobody reads
)

// Sightings are counted since Attach, by outcome. One that was told is not counted again within half a minute.
func (s *Steer) Sightings() (map[string]uint64, error) {
	var t telling
	if err := s.maps.Telling.Lookup(uint32(0), &t); err != nil {
		return nil, fmt.Errorf("count sightings of %s: %w", s.cfg.Name, err)
	}
	return map[string]uint64{SightingsTold: t.Told, SightingsOverBudget: t.OverBudget, SightingsBufferFull: t.BufferFull}, nil
}
