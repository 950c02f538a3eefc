package bpf

import (
	"fmt"
	"net/netip"
)

// prefixKey and prefix are key and value of the prefixes map.
type (
	prefixKey struct {
		Len     uint32
		Address [16]byte
	}
	prefix struct{ Class, Len uint16 }
)

// key is the prefix among the v4-mapped: IPv4 lives under ::ffff:0:0/96.
func key(p netip.Prefix) (prefixKey, error) {
	if !p.IsValid() {
		return prefixKey{}, fmt.Errorf("prefix %v: not valid", p)
	}
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return prefixKey{uint32(bits), p.Masked().Addr().As16()}, nil
}

func (k prefixKey) prefix() netip.Prefix {
	a := netip.AddrFrom16(k.Address)
	if a.Is4In6() && k.Len >= 96 {
		return netip.PrefixFrom(a.Unmap(), int(k.Len)-96)
	}
	return netip.PrefixFrom(a, int(k.Len))
}

// Prefixes are those that the programs steer.
func (s *Steer) Prefixes() (map[netip.Prefix]Class, error) {
	have, err := contents[prefixKey, prefix](s.maps.Prefixes)
	if err != nil {
		return nil, fmt.Errorf("read prefixes: %w", err)
	}
	out := make(map[netip.Prefix]Class, len(have))
	for key, value := range have {
		out[key.prefix()] = Class(value.Class)
	}
	return out, nil
}

// SyncPrefixes makes the steered prefixes exactly these. Where they overlap the longest counts. Of ClassNode, only single
// addresses are answered for; a whole network of that class is steered like any other.
func (s *Steer) SyncPrefixes(want map[netip.Prefix]Class) error {
	s.mu.Lock()
	defer s.mu.Unlock()

	entries := make(map[prefixKey]prefix, len(want))
	for p, class := range want {
		k, err := key(p)
		if err != nil {
			return err
		}
		value := prefix{uint16(class), uint16(k.Len)}
		if other, ok := entries[k]; ok && other != value {
			return fmt.Errorf("prefix %s: two classes, %s and %s", p.Masked(), Class(other.Class), class)
		}
		entries[k] = value
	}
	widest := map[uint64]row{rowKey: newRow(entries)}
	if err := s.rows.sync(widest, func() error { return synchronize(s.maps.Prefixes, entries) }); err != nil {
		return fmt.Errorf("prefixes: %w", err)
	}
	return nil
}
