//go:build linux

package path

import (
	"net/netip"

	"github.com/berthdev/berth/bpf"
)

// program is what this package asks of the programs of one vmac.
type program interface {
	SyncEndpoints([]bpf.Endpoint) error
	PutEndpoint(bpf.Endpoint) error
	DeleteEndpoint(netip.Addr) error
	SyncPrefixes(map[netip.Prefix]bpf.Class) error
	Counters() (map[string]uint64, error)
	Mode() string
	Close() error
	Remove() error
}

var _ program = (*bpf.Steer)(nil)

func attachProgram(cfg Config, v *vmac) (program, error) {
	return bpf.Attach(bpf.Config{
		PinDir: cfg.PinDir,
		Name:   v.name,
		VMAC:   v.index,
		Parent: v.parentIndex,
		MAC:    v.mac,
	})
}
