package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/bpf/pins"
)

// WatchFilter says which packets are shown: those of one pod.
type WatchFilter struct {
	MACs      [][6]byte
	Addresses []netip.Addr
	Cookie    uint64      // of its network namespace; 0 if it is not known: what its source guard drops is known by MAC and address then
	Peers     []WatchPeer // only to or from one of these; none: all. ARP, ND, ICMP and fragments but the first are shown always
	PerSecond uint32      // at most
}

// WatchPeer is an address and port of an IP protocol.
type WatchPeer struct {
	netip.AddrPort
	Protocol uint8
}

// Sight is where a packet was seen.
type Sight uint8

// As enum sight_of in watch.h.
const (
	PodSends Sight = iota
	PodReceives
	NodeReceives // at the vmac, before steer
	NodeSends    // out of the vmac
	SteerDrops
	GuardDrops
	SourceDrops
)

// SeenPacket is a packet of the watched pod. What it does not have is zero.
type SeenPacket struct {
	Time           time.Time
	At             Sight
	Reason         string // of a drop: the name of the counter
	SrcMAC, DstMAC [6]byte
	EtherType      uint16
	Src, Dst       netip.Addr // of ARP: sender and target
	SrcPort        uint16
	DstPort        uint16
	Protocol       uint8
	Detail         uint8 // flags of TCP, type of ICMP, operation of ARP
	Fragment       bool  // of IPv4
	Length         int   // of the frame
}

// Lost is what was not shown.
type Lost struct{ OverBudget, BufferFull uint64 }

// ErrWatched is that somebody else watches on this node.
var ErrWatched = errors.New("somebody watches on this node already")

// watchPatience is how long a watch lasts without Renew, so that of one that was killed nothing is left.
const watchPatience = 5 * time.Second

const (
	watchLayout = 1
	watchPrefix = "watch"

	watchAddress = 1 // enum watch_kind
	watchMAC     = 2
	watchPeer    = 3
)

// As in watch.h.
type (
	watching struct {
		Until, Cookie, Since         uint64
		Told, OverBudget, BufferFull uint64
		Spent, Budget, Peers, _      uint32
	}
	watchKey struct {
		Address  [16]byte
		Port     [2]byte
		Protocol uint8
		Kind     uint8
	}
	seenPacket struct {
		Time             uint64
		Src, Dst         [16]byte
		SrcMAC, DstMAC   [6]byte
		EtherType        [2]byte
		SrcPort, DstPort [2]byte
		Upper, Detail    uint8
		At, Reason       uint8
		Fragment         [2]byte
		Length, _        uint32
	}
)

func watchDir(pinDir string) string {
	return filepath.Join(pinDir, fmt.Sprint(watchPrefix, watchLayout))
}

// withWatch adds to the maps that a program is loaded with those by which it shows what it drops: one set for the node, pinned, so that
// who watches finds them and sees through a restart of the agent. The caller closes all.
func withWatch(pinDir string, spec *ebpf.CollectionSpec, reused map[string]*ebpf.Map) error {
	shared, err := sharedMaps(pinDir, spec)
	if err != nil {
		return fmt.Errorf("maps of watch: %w", err)
	}
	maps.Copy(reused, shared)
	return nil
}

func sharedMaps(pinDir string, spec *ebpf.CollectionSpec) (_ map[string]*ebpf.Map, err error) {
	dir := watchDir(pinDir)
	if err := pins.OnBPFFS(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	out := map[string]*ebpf.Map{}
	defer func() {
		if err != nil {
			pins.CloseMaps(out)
		}
	}()
	for _, name := range []string{watchMapWatching, watchMapWatchKeys, watchMapPackets} {
		at := filepath.Join(dir, name)
		m, err := ebpf.LoadPinnedMap(at, nil)
		if errors.Is(err, fs.ErrNotExist) {
			if m, err = ebpf.NewMap(spec.Maps[name]); err == nil {
				err = m.Pin(at)
			}
		}
		if m != nil {
			out[name] = m
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return out, nil
}

// RemoveWatch removes the pins, of whatever version.
func RemoveWatch(pinDir string) error {
	dirs, err := filepath.Glob(filepath.Join(pinDir, watchPrefix+"*"))
	for _, d := range dirs {
		err = errors.Join(err, os.RemoveAll(d))
	}
	return err
}

// Watch shows packets of one pod until it is closed, or not renewed. Nothing of it outlives its process but an entry that ends by itself.
type Watch struct {
	lock    *os.File
	spec    *ebpf.CollectionSpec
	shared  map[string]*ebpf.Map
	reader  *ringbuf.Reader
	sockets []int
	begin   uint64    // bpf_ktime_get_ns; what is in the buffer from before is another's
	epoch   time.Time // when that clock was 0
}

// OpenWatch begins. That the agent has not yet attached anything on this node is fs.ErrNotExist; one at a time may watch (ErrWatched).
func OpenWatch(pinDir string, f WatchFilter) (_ *Watch, err error) {
	w := &Watch{}
	defer func() {
		if err != nil {
			err = fmt.Errorf("watch: %w", errors.Join(err, w.Close()))
		}
	}()
	if w.lock, err = os.Open(watchDir(pinDir)); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(w.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrWatched
	} else if err != nil {
		return nil, fmt.Errorf("lock %s: %w", watchDir(pinDir), err)
	}
	if w.spec, err = loadWatch(); err != nil {
		return nil, err
	}
	if w.shared, err = sharedMaps(pinDir, w.spec); err != nil {
		return nil, err
	}
	if w.reader, err = ringbuf.NewReader(w.shared[watchMapPackets]); err != nil {
		return nil, err
	}
	var clock unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &clock); err != nil {
		return nil, err
	}
	w.begin = uint64(clock.Nano())
	w.epoch = time.Now().Add(-time.Duration(clock.Nano()))
	// Keys of one that was killed would be shown, too.
	if err := synchronize(w.shared[watchMapWatchKeys], f.keys()); err != nil {
		return nil, fmt.Errorf("filter: %w", err)
	}
	return w, w.put(watching{Cookie: f.Cookie, Budget: f.PerSecond, Peers: uint32(len(f.Peers))})
}

func (f WatchFilter) keys() map[watchKey]uint32 {
	out := map[watchKey]uint32{}
	for _, a := range f.Addresses {
		out[watchKey{Address: a.As16(), Kind: watchAddress}] = 1
	}
	for _, m := range f.MACs {
		k := watchKey{Kind: watchMAC}
		copy(k.Address[:], m[:])
		out[k] = 1
	}
	for _, p := range f.Peers {
		k := watchKey{Address: p.Addr().As16(), Protocol: p.Protocol, Kind: watchPeer}
		binary.BigEndian.PutUint16(k.Port[:], p.Port())
		out[k] = 1
	}
	return out
}

func (w *Watch) put(state watching) error {
	state.Until = w.now() + uint64(watchPatience)
	return w.shared[watchMapWatching].Put(uint32(0), state)
}

func (w *Watch) now() uint64 { return uint64(time.Since(w.epoch)) }

// Renew has it last for some seconds more.
func (w *Watch) Renew() error {
	var state watching
	err := w.shared[watchMapWatching].Lookup(uint32(0), &state)
	if err == nil {
		err = w.put(state)
	}
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	return nil
}

// Lost says how much was not shown so far.
func (w *Watch) Lost() (Lost, error) {
	var state watching
	if err := w.shared[watchMapWatching].Lookup(uint32(0), &state); err != nil {
		return Lost{}, fmt.Errorf("watch: %w", err)
	}
	return Lost{state.OverBudget, state.BufferFull}, nil
}

// Link shows what goes by an interface of a pod, or by a vmac, too. It acts in the network namespace of the calling thread.
func (w *Watch) Link(ifindex int, ofPod bool) error {
	sends, receives := NodeSends, NodeReceives
	if ofPod {
		sends, receives = PodSends, PodReceives
	}
	spec := w.spec.Copy()
	if err := errors.Join(spec.Variables[watchVarSends].Set(uint32(sends)), spec.Variables[watchVarReceives].Set(uint32(receives))); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	var program watchPrograms
	if err := spec.LoadAndAssign(&program, &ebpf.CollectionOptions{MapReplacements: w.shared}); err != nil {
		return fmt.Errorf("watch: load: %w", err)
	}
	defer func() { _ = program.Close() }()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // of no protocol: nothing before the filter is there
	if err != nil {
		return fmt.Errorf("watch: packet socket: %w", err)
	}
	w.sockets = append(w.sockets, fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, program.Watch.FD()); err != nil {
		return fmt.Errorf("watch: attach to a packet socket: %w", err)
	}
	all := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifindex}); err != nil {
		return fmt.Errorf("watch: bind to link %d: %w", ifindex, err)
	}
	return nil
}

// Read waits for the next packet, no longer than until then (os.ErrDeadlineExceeded).
func (w *Watch) Read(until time.Time) (SeenPacket, error) {
	w.reader.SetDeadline(until)
	for {
		record, err := w.reader.Read()
		if err != nil {
			return SeenPacket{}, err
		}
		var raw seenPacket
		if _, err := binary.Decode(record.RawSample, binary.NativeEndian, &raw); err != nil {
			return SeenPacket{}, fmt.Errorf("watch: %d bytes: %w", len(record.RawSample), err)
		}
		if raw.Time >= w.begin {
			return raw.packet(w.epoch), nil
		}
	}
}

func (r seenPacket) packet(epoch time.Time) SeenPacket {
	p := SeenPacket{Time: epoch.Add(time.Duration(r.Time)), At: Sight(r.At), SrcMAC: r.SrcMAC, DstMAC: r.DstMAC,
		EtherType: binary.BigEndian.Uint16(r.EtherType[:]), SrcPort: binary.BigEndian.Uint16(r.SrcPort[:]), DstPort: binary.BigEndian.Uint16(r.DstPort[:]),
		Protocol: r.Upper, Detail: r.Detail, Fragment: r.Fragment != [2]byte{}, Length: int(r.Length)}
	switch p.EtherType {
	case unix.ETH_P_IP, unix.ETH_P_IPV6, unix.ETH_P_ARP:
		p.Src, p.Dst = netip.AddrFrom16(r.Src).Unmap(), netip.AddrFrom16(r.Dst).Unmap()
	}
	switch names := refusals[:]; p.At {
	case SteerDrops, GuardDrops:
		names = reasons[:]
		fallthrough
	case SourceDrops:
		if int(r.Reason) < len(names) {
			p.Reason = names[r.Reason]
		}
	}
	return p
}

// Close ends it.
func (w *Watch) Close() error {
	var errs []error
	for _, fd := range w.sockets {
		errs = append(errs, unix.Close(fd))
	}
	if m := w.shared[watchMapWatching]; m != nil {
		errs = append(errs, m.Put(uint32(0), watching{}), synchronize(w.shared[watchMapWatchKeys], map[watchKey]uint32{}))
	}
	if w.reader != nil {
		errs = append(errs, w.reader.Close())
	}
	pins.CloseMaps(w.shared)
	if w.lock != nil {
		errs = append(errs, w.lock.Close()) // and others may
	}
	return errors.Join(errs...)
}
