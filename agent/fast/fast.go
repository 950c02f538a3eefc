//go:build linux

// Package fast keeps fast mode on a node (package bpf/sock): it tells the programs at the sockets which Services there are, which pods
// may use them, and by which ways each pod reaches a backend without its node.
//
// As package path does, it works on levels: what is wanted is held here. It is a sink of package services.
package fast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/bpf/sock"
	"github.com/berthdev/berth/service"
)

// period between two looks at what nobody tells of: programs that somebody detached, routes of the node.
const period = 30 * time.Second

// gathering is how long interfaces that go wait for others.
const gathering = time.Second

// Config does not change while the agent runs.
type Config struct {
	PinDir string // on a bpffs, say /sys/fs/bpf/berth
	Cgroup string // directory of the cgroup to which all pods belong, see sock.FindCgroup
}

// Interface of a pod that has the way to Services.
type Interface struct {
	ContainerID, Name string
	Cookie            uint64 // of its network namespace
	NetNS             string // as this process finds it
	Parent            string
	Ways              []sock.Way // see Ways
}

type key struct{ containerID, name string }

// Fast mode of a node.
type Fast struct {
	cfg  Config
	log  *slog.Logger
	wake chan struct{}                             // sockets have to be destroyed
	left chan struct{}                             // interfaces have been dropped
	by   func(netip.Addr) (link string, err error) // the link that the node reaches an address by

	mu         sync.Mutex
	programs   *sock.Programs
	interfaces map[key]Interface
	dropped    []uint64                   // cookies of pods with fewer interfaces than the programs know
	services   map[string]service.Service // as they were handed over
	nodes      []netip.Addr
	links      map[netip.Addr]string // by which other nodes are reached
	removed    []sock.Removed        // of which sockets may have to be destroyed
}

// Open attaches the programs. What an earlier agent left goes on until Sync and SyncInterfaces. An error says what the node lacks; all
// connections go through the node then.
func Open(cfg Config, log *slog.Logger) (*Fast, error) {
	return open(cfg, linkTo, log)
}

func open(cfg Config, by func(netip.Addr) (string, error), log *slog.Logger) (*Fast, error) {
	f := &Fast{
		cfg: cfg, log: log, wake: make(chan struct{}, 1), left: make(chan struct{}, 1), by: by,
		interfaces: map[key]Interface{}, services: map[string]service.Service{}, links: map[netip.Addr]string{},
	}
	if err := f.attach(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *Fast) attach() error {
	if err := sock.Supported(f.cfg.Cgroup); err != nil {
		return err
	}
	programs, err := sock.Attach(sock.Config{PinDir: f.cfg.PinDir, Cgroup: f.cfg.Cgroup})
	if err == nil {
		f.programs = programs
	}
	return err
}

// Put lets the sockets of a pod use an interface's ways, besides those of its others.
func (f *Fast) Put(i Interface) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.interfaces[key{i.ContainerID, i.Name}] = i
	return f.programs.SetPod(i.Cookie, f.pods()[i.Cookie])
}

// Drop an interface that is about to go, or that has given up what it had. The programs know it some time after: taking a pod out makes
// all others wait for a grace period of the kernel, so those that go are taken out together. Until then its sockets connect as before,
// within its own namespace, whose cookie does not come again.
func (f *Fast) Drop(containerID, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := key{containerID, name}
	i, ok := f.interfaces[k]
	if !ok {
		return
	}
	delete(f.interfaces, k)
	f.dropped = append(f.dropped, i.Cookie)
	select {
	case f.left <- struct{}{}:
	default: // somebody has said so already
	}
}

// takeOut what was dropped.
func (f *Fast) takeOut() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	pods, gone := f.pods(), []uint64(nil)
	var errs []error
	for _, cookie := range f.dropped {
		if pod, ok := pods[cookie]; ok {
			errs = append(errs, f.programs.SetPod(cookie, pod))
		} else {
			gone = append(gone, cookie)
		}
	}
	f.dropped = nil
	return errors.Join(append(errs, f.programs.DeletePods(gone...))...)
}

// SyncInterfaces says all that there are.
func (f *Fast) SyncInterfaces(all []Interface) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.interfaces)
	for _, i := range all {
		f.interfaces[key{i.ContainerID, i.Name}] = i
	}
	return f.programs.SyncPods(f.pods())
}

// pods by the cookies of their namespaces.
func (f *Fast) pods() map[uint64]sock.Pod {
	out := map[uint64]sock.Pod{}
	for _, i := range f.interfaces {
		p := out[i.Cookie]
		p.Ways = append(p.Ways, i.Ways...)
		out[i.Cookie] = p
	}
	for cookie, p := range out {
		out[cookie] = sock.Pod{Ways: fewest(p.Ways)}
	}
	return out
}

// Run mends what others change, and ends UDP sockets whose backends are gone, until ctx ends. What is attached goes on then.
func (f *Fast) Run(ctx context.Context) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	complaint := ""
	var together <-chan time.Time
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-f.left:
			if together == nil {
				together = time.After(gathering)
			}
			continue
		case <-together:
			together = nil
			if err := f.takeOut(); err != nil {
				f.log.Warn("fast mode of pods that are gone", "err", err)
			}
			continue
		case <-f.wake:
			f.destroy()
			continue
		case <-tick.C:
			err = errors.Join(f.mend(), f.relocate())
		}
		if now := fmt.Sprint(err); err != nil && now != complaint {
			f.log.Warn("fast mode is not as it should be; tried again", "every", period, "err", err)
			complaint = now
		} else if err == nil {
			complaint = ""
		}
	}
}

// mend programs that are not as they were left.
func (f *Fast) mend() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ok, err := f.programs.Attached(); ok && err == nil {
		return nil
	}
	f.log.Warn("the programs at the sockets are not as they were left; attaching them anew")
	before := f.programs
	if err := f.attach(); err != nil {
		return err
	}
	return errors.Join(before.Close(), f.programs.SetNodes(f.nodes), f.sync(), f.programs.SyncPods(f.pods()))
}

// Counters of calls, by what became of them.
func (f *Fast) Counters() (map[string]uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.programs.Counters()
}

// Close lets go of descriptors. Fast mode goes on.
func (f *Fast) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.programs.Close()
}

// Cleanup takes fast mode off this node.
func Cleanup(pinDir string) error { return sock.Remove(pinDir) }

// destroy the connected UDP sockets of pods to backends that are gone.
func (f *Fast) destroy() {
	f.mu.Lock()
	removed, programs := f.removed, f.programs
	f.removed = nil
	var where []string
	for _, i := range f.interfaces {
		where = append(where, i.NetNS)
	}
	f.mu.Unlock()
	slices.Sort(where)
	for _, netns := range slices.Compact(where) {
		n, err := programs.DestroyUDP(netns, removed)
		if n > 0 {
			f.log.Info("ended UDP sockets whose backends are gone", "netns", netns, "sockets", n)
		}
		if errors.Is(err, sock.ErrNoDestroy) {
			f.log.Warn("UDP sockets stay with backends that are gone", "err", err)
			return
		} else if err != nil {
			f.log.Debug("UDP sockets of backends that are gone", "err", err) // a pod that has gone, mostly
		}
	}
}

// linkTo is the link of the node's route to an address.
func linkTo(a netip.Addr) (string, error) {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return "", err
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", err
	}
	return link.Attrs().Name, nil
}
