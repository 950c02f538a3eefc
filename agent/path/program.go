//go:build linux

package path

import (
	"fmt"
	"net/netip"

	"github.com/berthdev/berth/bpf"
)

// program is what this package asks of the programs of one vmac.
type program interface {
	SyncEndpoints([]bpf.Endpoint) error
	PutEndpoint(bpf.Endpoint) error
	DeleteEndpoint(netip.Addr) error
	Seat() error
	SyncPrefixes(map[netip.Prefix]bpf.Class) error
	SyncWatched([]netip.Prefix) error
	ReadSighting() (bpf.Sighting, error)
	Sightings() (map[string]uint64, error)
	Counters() (map[string]uint64, error)
	Mode() string
	Attached() (bool, error)
	Close() error
	Remove() error
}

var _ program = (*bpf.Steer)(nil)

func attachProgram(cfg Config, v *vmac) (program, error) {
	steer, err := bpf.Attach(bpf.Config{
		PinDir: cfg.PinDir,
		Name:   v.name,
		VMAC:   v.index,
		Parent: v.parentIndex,
		MAC:    v.mac,
	})
	if err != nil {
		return nil, fmt.Errorf("attach the program of %q on %q: %w", v.name, v.parent, err)
	}
	return steer, nil
}
