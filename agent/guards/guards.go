//go:build linux

// Package guards keeps the source guard of the pods of one node: what leaves a pod's interface bears an address and the MAC of its leases.
// And it knows where each interface is: the cookie of its network namespace.
//
// As package path does, it works on levels. What is wanted is held here, what is there is read from the kernel: at the start, at
// each change, and every half minute. It owns the pins of package bpf's SourceGuard, and the programs at the egress of pods' interfaces.
package guards

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/berthdev/berth/bpf"
)

// Interface of a sandbox: a macvlan child in bridge mode of a link of this node.
type Interface struct {
	ContainerID string
	Name        string
	NetNS       string // CNI_NETNS
	Parent      string
	Network     string // of its leases
	MAC         net.HardwareAddr
	Addresses   []netip.Addr // leased

	Guarded bool           // else it is only located
	Allowed []netip.Prefix // beside the addresses
	DHCP    bool           // a DHCP client renews an address
}

// Located is an interface that was found: Cookie is its network namespace's (SO_NETNS_COOKIE), Index is its own there.
type Located struct {
	Interface
	Cookie uint64
	Index  int
}

// Config does not change while the agent runs.
type Config struct {
	PinDir string // on a bpffs, say /sys/fs/bpf/berth
	NetNS  string // directory in which this process finds the sandboxes' namespaces, say /run/netns
	Clsact bool   // attach as on a kernel without tcx
}

// known is an interface of which the agent has told.
//
//	state    | program            | what it may send            | leaves by
//	wanted   | none               | anything                    | Attach, or the next look → guarded
//	guarded  | clsact, then tcx   | as its leases               | Detach → silent; a look that finds it detached → wanted
//	silent   | the same           | nothing                     | the link is gone → forgotten
//	located  | none, not wanted   | anything                    | Detach → forgotten
type known struct {
	Interface
	at      bpf.Place // zero: not found yet
	put     *bpf.Source
	settled bool // attached for good, at the last look
	leaving bool
	looked  bool
	refused Refused // when it was last told
	told    time.Time
	err     error // of the last look
}

type key struct{ containerID, name string }

// Guards of this node.
type Guards struct {
	cfg  Config
	log  *slog.Logger
	kick chan struct{} // wakes Run
	tell func(Interface, Refused)

	mu     sync.Mutex
	guard  *bpf.SourceGuard // nil until it is needed
	known  map[key]*known
	synced bool // what is not known is nobody's
}

// Refused is what was refused of an interface.
type Refused struct {
	Frames uint64
	Calls  uint64 // by which its pod would have gone around the guard
}

// New has no effect on the node. tell is called, by Run, of interfaces that have been refused something, and what since it was last
// told, at most every ten minutes.
func New(cfg Config, tell func(Interface, Refused), log *slog.Logger) *Guards {
	return &Guards{cfg: cfg, log: log, tell: tell, kick: make(chan struct{}, 1), known: map[key]*known{}}
}

func (g *Guards) open() (*bpf.SourceGuard, error) {
	if g.guard == nil {
		guard, err := bpf.OpenSourceGuard(g.cfg.PinDir, g.cfg.Clsact)
		if err != nil {
			return nil, err
		}
		g.guard = guard
		if err := guard.Unfenced(); err != nil {
			g.log.Warn("pods can go around their source guard, as this kernel takes no programs that keep them from it", "err", err)
		}
	}
	return g.guard, nil
}

// Attach guards an interface, or changes what it may send as. It is guarded when Attach returns. With an error it is not, and Run
// goes on trying.
func (g *Guards) Attach(i Interface) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.wake() // to settle it
	k := &known{Interface: i}
	g.known[key{i.ContainerID, i.Name}] = k
	guard, err := g.open()
	if err == nil {
		err = g.in(i.NetNS, func() (err error) {
			if k.at, err = locate(i.Name); err != nil {
				return err
			}
			if !i.Guarded {
				return guard.Release(k.at) // if an earlier try of the ADD was to be guarded
			}
			return errors.Join(k.fill(guard), guard.Guard(k.at))
		})
	}
	k.err, k.settled = err, err == nil && !i.Guarded
	return err
}

// fill tells the program what the interface may send as.
func (k *known) fill(guard *bpf.SourceGuard) error {
	want := bpf.Source{Addresses: k.Addresses, Prefixes: k.Allowed, DHCP: k.DHCP}
	if k.leaving {
		want = bpf.Source{}
	} else if copy(want.MAC[:], k.MAC) != len(want.MAC) {
		return fmt.Errorf("%q is not an Ethernet address", k.MAC)
	}
	if k.put != nil && same(*k.put, want) {
		return nil
	}
	if err := guard.Put(k.at, want); err != nil {
		return err
	}
	k.put = &want
	return nil
}

// Detach silences an interface that is about to go: its addresses may be another's soon. It is forgotten once it is gone. One that
// is not known is no error.
func (g *Guards) Detach(containerID, name string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.known[key{containerID, name}]
	if k == nil {
		return nil
	}
	defer g.wake()
	k.leaving = true
	if !k.Guarded {
		delete(g.known, key{containerID, name})
		return nil
	}
	guard, err := g.open()
	if err == nil && k.at == (bpf.Place{}) { // an earlier agent's
		err = g.in(k.NetNS, func() (err error) {
			k.at, err = locate(k.Name)
			return err
		})
	}
	if err != nil { // there is nothing to silence
		delete(g.known, key{containerID, name})
		return nil
	}
	return k.fill(guard)
}

// Sync tells of all interfaces, as an agent does at its start. Run guards them.
func (g *Guards) Sync(all []Interface) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, i := range all {
		if k := (key{i.ContainerID, i.Name}); g.known[k] == nil {
			g.known[k] = &known{Interface: i}
		}
	}
	g.synced = true
	g.wake()
}

// Known says what the agent has told of an interface.
func (g *Guards) Known(containerID, name string) (Interface, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	k := g.known[key{containerID, name}]
	if k == nil || k.leaving {
		return Interface{}, false
	}
	return k.Interface, true
}

// Interfaces that are there, guarded or not, in no order.
func (g *Guards) Interfaces() []Located {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Located
	for _, k := range g.known {
		if k.at != (bpf.Place{}) && !k.leaving {
			out = append(out, Located{k.Interface, k.at.Cookie, k.at.Index})
		}
	}
	return out
}

// States counts the interfaces: "guarded", "unguarded" by somebody's wish, and "failed", which should be guarded and are not.
func (g *Guards) States() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[string]int{"guarded": 0, "unguarded": 0, "failed": 0}
	for _, k := range g.known {
		switch {
		case k.leaving:
		case !k.Guarded:
			out["unguarded"]++
		case k.err != nil || k.at == (bpf.Place{}):
			out["failed"]++
		default:
			out["guarded"]++
		}
	}
	return out
}

// Counters of what was dropped, by reason.
func (g *Guards) Counters() (map[string]uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.guard == nil {
		return nil, nil
	}
	return g.guard.Counters()
}

// Unfenced is why pods can go around their guards; nil if a fence keeps them from it. Before the guard has been needed it is not known.
func (g *Guards) Unfenced() (why error, known bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.guard == nil {
		return nil, false
	}
	return g.guard.Unfenced(), true
}

// Denials are the calls that the fence has denied, by reason.
func (g *Guards) Denials() (map[string]uint64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.guard == nil {
		return nil, nil
	}
	return g.guard.Denials()
}

// Close lets go of descriptors. The guards stay.
func (g *Guards) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.guard == nil {
		return nil
	}
	guard := g.guard
	g.guard = nil
	return guard.Close()
}

// Cleanup takes all guards off this node, of whatever version.
func Cleanup(cfg Config) error { return bpf.RemoveSourceGuard(cfg.PinDir) }

func (g *Guards) wake() {
	select {
	case g.kick <- struct{}{}:
	default: // awake already
	}
}

// errGone says that a namespace or an interface exists no more, errNoNamespace that it is the namespace. errReplaced: what a look began with
// is not what is wanted any more.
var (
	errReplaced    = errors.New("an Attach came in between")
	errGone        = errors.New("is gone")
	errNoNamespace = fmt.Errorf("with all its interfaces %w", errGone)
)
