package bpf

import (
	"errors"
	"net/netip"
)

// Steer is the attached programs of one vmac.
type Steer struct{}

// Attach loads the programs, with the pinned maps of an earlier Attach where their layout is the same, pins them and
// attaches them: by tcx where the kernel has it, else by clsact. Traffic is not interrupted.
func Attach(cfg Config) (*Steer, error) { return nil, errors.ErrUnsupported }

// Mode is "tcx" or "clsact".
func (s *Steer) Mode() string { return "" }

// SyncEndpoints makes the endpoints exactly these. Those in both the old and the new set are served throughout.
func (s *Steer) SyncEndpoints(want []Endpoint) error { return errors.ErrUnsupported }

// PutEndpoint adds an endpoint, or gives its address to another MAC.
func (s *Steer) PutEndpoint(e Endpoint) error { return errors.ErrUnsupported }

// DeleteEndpoint is no error for an address without endpoint.
func (s *Steer) DeleteEndpoint(address netip.Addr) error { return errors.ErrUnsupported }

// SyncPrefixes makes the steered prefixes exactly these.
func (s *Steer) SyncPrefixes(want map[netip.Prefix]Class) error { return errors.ErrUnsupported }

// Counters are the packets by reason, summed over CPUs.
func (s *Steer) Counters() (map[string]uint64, error) { return nil, errors.ErrUnsupported }

// Close releases the descriptors. All stays attached and pinned.
func (s *Steer) Close() error { return nil }

// Remove detaches and unpins.
func (s *Steer) Remove() error { return errors.ErrUnsupported }

// Remove detaches and unpins what was attached for the vmac of that name, which need not exist any more.
func Remove(pinDir, name string) error { return errors.ErrUnsupported }

// Reasons are the names of all counters, in order.
func Reasons() []string { return nil }
