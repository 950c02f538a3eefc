//go:build linux

// Package path keeps the service path of one node, in steering mode: for each parent link that has macvlan pods a
// sibling on the host (vmac) with a program on it, and what the host needs around it.
package path

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Endpoint is one address of one local pod interface that is a macvlan child in bridge mode of Parent.
type Endpoint struct {
	Parent  string
	Address netip.Addr
	MAC     net.HardwareAddr
}

type Config struct {
	NodeName string
	PinDir   string        // on a bpffs, say /sys/fs/bpf/berth
	Idle     time.Duration // how long a vmac without endpoints is kept
}

// Prefixes are what is steered, besides the node's own addresses, which Path finds itself.
type Prefixes struct {
	Services, Pods, User []netip.Prefix
	LocalPods            []netip.Prefix // pod CIDRs of this node: they see the client's own address
}

type Path struct{ cfg Config }

func New(cfg Config, log *slog.Logger) *Path                      { return &Path{cfg: cfg} }
func (p *Path) Run(ctx context.Context) error                     { <-ctx.Done(); return nil }
func (p *Path) SetPrefixes(Prefixes)                              {}
func (p *Path) Attach(ctx context.Context, eps ...Endpoint) error { return nil }
func (p *Path) Detach(ctx context.Context, eps ...Endpoint) error { return nil }
func (p *Path) Sync(ctx context.Context, all []Endpoint) error    { return nil }
func (p *Path) Steered() []netip.Prefix                           { return nil }
func (p *Path) Counters() (map[string]map[string]uint64, error)   { return nil, nil }
func Cleanup(cfg Config, log *slog.Logger) error                  { return nil }
