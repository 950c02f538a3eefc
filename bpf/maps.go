package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// contents reads a whole map, which nobody else may change meanwhile.
func contents[K, V comparable](m *ebpf.Map) (map[K]V, error) {
	var (
		out   = make(map[K]V)
		key   K
		value V
	)
	it := m.Iterate()
	for it.Next(&key, &value) {
		out[key] = value
	}
	return out, it.Err()
}

// synchronize makes the map's content exactly want: first what is new, then what goes, and what stays is not touched.
func synchronize[K, V comparable](m *ebpf.Map, want map[K]V) error {
	have, err := contents[K, V](m)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	for key, value := range want {
		if old, ok := have[key]; ok && old == value {
			continue
		}
		if err := m.Put(key, value); err != nil {
			return fmt.Errorf("put %v: %w", key, err)
		}
	}
	for key := range have {
		if _, ok := want[key]; ok {
			continue
		}
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete %v: %w", key, err)
		}
	}
	return nil
}
