package bpf

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/bpf/pins"
)

// The modes of Steer.
const (
	modeTCX    = "tcx"
	modeClsact = "clsact"
)

// layout is the version of the maps' keys and values, and part of the maps' names. Change it with any of them that keeps
// its size, or when counters change places: Attach then starts with new, empty maps.
const layout = 1

// links are the names of the pinned links, in tcx mode.
var links = []string{programProgSteer, programProgGuard}

// Steer is the attached programs of one vmac. Its methods may be called concurrently.
type Steer struct {
	cfg  Config
	pins pins.Dir
	mode string
	maps programMaps

	reader   *ringbuf.Reader           // of the map sightings
	programs map[string]ebpf.ProgramID // by the hook's name

	mu    sync.Mutex // held to change maps
	seats *seats[addressKey, endpoint]
	rows  *seats[uint64, row]
}

// Attach loads the programs, with the pinned maps of an earlier Attach where their layout is the same, pins them and
// attaches them: by tcx where the kernel has it, else by clsact. Earlier programs work until the new ones do.
//
// It acts in the network namespace of the calling thread.
func Attach(cfg Config) (*Steer, error) {
	s, err := attach(cfg)
	if err != nil {
		return nil, fmt.Errorf("service path of %s: %w", cfg.Name, err)
	}
	return s, nil
}

func attach(cfg Config) (_ *Steer, err error) {
	p, err := pins.Of(cfg.PinDir, cfg.Name)
	if err != nil {
		return nil, err
	}
	if err := p.Begin(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Abort())
		}
	}()

	objects, err := load(cfg, p)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, objects.programPrograms.Close()) }()
	s := &Steer{cfg: cfg, pins: p, maps: objects.programMaps, programs: make(map[string]ebpf.ProgramID)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.maps.Close())
		}
	}()
	for name, m := range s.byName() {
		if err := p.PinMap(name, m); err != nil {
			return nil, err
		}
	}
	if err := s.fillSeats(); err != nil {
		return nil, err
	}
	if s.reader, err = ringbuf.NewReader(s.maps.Sightings); err != nil {
		return nil, fmt.Errorf("sightings: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.reader.Close())
		}
	}()
	hooks := hooks(cfg, objects.programPrograms)
	for _, h := range hooks {
		info, err := h.program.Info()
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", h.name, err)
		}
		s.programs[h.name], _ = info.ID()
	}
	if s.mode, err = attachHooks(p, cfg, hooks); err != nil {
		return nil, err
	}
	return s, p.Commit(links...)
}

// load loads programs and maps into the kernel. No memory limit needs raising: since 5.11 memory of BPF is accounted to
// the cgroup, not to RLIMIT_MEMLOCK.
func load(cfg Config, p pins.Dir) (*programObjects, error) {
	spec, err := loadProgram()
	if err != nil {
		return nil, err
	}
	if err := configure(spec, cfg.MAC); err != nil {
		return nil, err
	}
	specs := make(map[string]*ebpf.MapSpec)
	for _, name := range []string{programMapEndpoints, programMapMacs, programMapPrefixes, programMapCounters} {
		specs[name] = spec.Maps[name]
	}
	reused, err := p.Reusable(specs)
	if err != nil {
		return nil, err
	}
	defer pins.CloseMaps(reused) // the objects have descriptors of their own
	if err := withWatch(cfg.PinDir, spec, reused); err != nil {
		return nil, err
	}

	objects := new(programObjects)
	if err := spec.LoadAndAssign(objects, &ebpf.CollectionOptions{MapReplacements: reused}); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	return objects, nil
}

// fillSeats before the programs run.
func (s *Steer) fillSeats() error {
	known, err := contents[addressKey, endpoint](s.maps.Endpoints)
	if err != nil {
		return fmt.Errorf("read endpoints: %w", err)
	}
	if s.seats, err = newSeats(s.maps.Seats, &s.mu, addressKey.seat, endpoint.seated, known); err != nil {
		return err
	}
	prefixes, err := contents[prefixKey, prefix](s.maps.Prefixes)
	if err != nil {
		return fmt.Errorf("read prefixes: %w", err)
	}
	s.rows, err = newSeats(s.maps.Rows, &s.mu, firstRow, row.seated, map[uint64]row{rowKey: newRow(prefixes)})
	return err
}

// configure sets what is fixed in the programs of a vmac, and names the maps after their layout.
func configure(spec *ebpf.CollectionSpec, mac [6]byte) error {
	for name, m := range spec.Maps {
		if name[0] != '.' { // .rodata
			m.Name = fmt.Sprintf("%s_%d", name, layout)
		}
	}
	config := struct { // as in config.h
		MAC      [6]byte
		_        uint16
		Gateway4 [16]byte
		Gateway6 [16]byte
	}{MAC: mac, Gateway4: Gateway4.As16(), Gateway6: Gateway6.As16()}
	if err := spec.Variables[programVarConfig].Set(config); err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	return nil
}

// hooks are where the programs of a vmac go.
func hooks(cfg Config, programs programPrograms) []hook {
	return []hook{
		{programProgSteer, programs.Steer, cfg.VMAC, ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS},
		{programProgGuard, programs.Guard, cfg.Parent, ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS},
	}
}

// attachHooks attaches both programs in the same mode, and ends what an earlier Attach did in the other one.
func attachHooks(p pins.Dir, cfg Config, hooks []hook) (mode string, err error) {
	if !cfg.Clsact {
		err = each(hooks, func(h hook) error { return attachTCX(p, h) })
		if err == nil {
			return modeTCX, each(hooks, func(h hook) error { return detachClsact(h.ifindex, cfg.Name) })
		}
		if !errors.Is(err, link.ErrNotSupported) {
			return "", err
		}
	}
	// Links of an earlier Attach are not pinned in the next directory, and retire with the current one.
	return modeClsact, each(hooks, func(h hook) error { return attachClsact(h, cfg.Name) })
}

func each(hooks []hook, do func(hook) error) error {
	for _, h := range hooks {
		if err := do(h); err != nil {
			return err
		}
	}
	return nil
}

// byName are the maps that are pinned: those that outlive the programs, and seats, for others to see. What belongs to sightings is not: a new
// agent wants to hear all of them.
func (s *Steer) byName() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		programMapEndpoints: s.maps.Endpoints,
		programMapMacs:      s.maps.Macs,
		programMapPrefixes:  s.maps.Prefixes,
		programMapCounters:  s.maps.Counters,
		programMapSeats:     s.maps.Seats,
	}
}

// Attached says whether all is as Attach left it: these programs at their hooks, and the pins. No event tells when someone
// changes that. It acts in the network namespace of the calling thread.
func (s *Steer) Attached() (bool, error) {
	ok, err := s.attached()
	if err != nil {
		return false, fmt.Errorf("look for service path of %s: %w", s.cfg.Name, err)
	}
	return ok, nil
}

func (s *Steer) attached() (bool, error) {
	for name, m := range s.byName() {
		if ok, err := s.pins.HoldsMap(name, m); !ok || err != nil {
			return false, err
		}
	}
	for _, h := range hooks(s.cfg, programPrograms{}) {
		look := s.attachedTCX
		if s.mode == modeClsact {
			look = s.attachedClsact
		}
		if ok, err := look(h); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// Mode is "tcx" or "clsact".
func (s *Steer) Mode() string { return s.mode }

// Close releases the descriptors, and ends ReadSighting. All stays attached and pinned.
func (s *Steer) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seats.closed, s.rows.closed = true, true
	return errors.Join(s.reader.Close(), s.maps.Close())
}

// Remove detaches and unpins, and closes.
func (s *Steer) Remove() error {
	err := Remove(s.cfg.PinDir, s.cfg.Name)
	return errors.Join(err, s.Close())
}

// Remove detaches and unpins what was attached for the vmac of that name, which need not exist any more. It acts in the
// network namespace of the calling thread. That nothing is left of it is no error. Every entry of pinDir is a name, also
// one that a killed Attach left.
func Remove(pinDir, name string) error {
	p, err := pins.Of(pinDir, name)
	if err != nil {
		return err
	}
	if err := errors.Join(p.Remove(links...), detachClsactAnywhere(name)); err != nil {
		return fmt.Errorf("remove service path of %s: %w", name, err)
	}
	return nil
}
