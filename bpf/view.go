package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/bpf/pins"
)

// View reads what is pinned and attached of one vmac, whoever attached it, and changes nothing.
type View struct {
	cfg  Config
	maps programMaps
}

// Open is a View of what an agent has pinned for the vmac cfg.Name. Without pins the error is fs.ErrNotExist. MAC and Clsact of
// cfg are of no account.
func Open(cfg Config) (_ *View, err error) {
	if _, err := pins.Of(cfg.PinDir, cfg.Name); err != nil {
		return nil, err
	}
	v := &View{cfg: cfg}
	for name, m := range map[string]**ebpf.Map{
		programMapEndpoints: &v.maps.Endpoints, programMapMacs: &v.maps.Macs,
		programMapPrefixes: &v.maps.Prefixes, programMapCounters: &v.maps.Counters,
	} {
		*m, err = ebpf.LoadPinnedMap(filepath.Join(cfg.PinDir, cfg.Name, name), &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("service path of %s: pinned map %s: %w", cfg.Name, name, err), v.Close())
		}
	}
	// Agents of earlier versions have none.
	v.maps.Seats, err = ebpf.LoadPinnedMap(filepath.Join(cfg.PinDir, cfg.Name, programMapSeats), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("service path of %s: pinned map %s: %w", cfg.Name, programMapSeats, err), v.Close())
	}
	return v, nil
}

// Close releases the descriptors.
func (v *View) Close() error { return v.maps.Close() }

// Endpoints are those that the programs know, in no order: by their seats, or if they have none by the hash map.
func (v *View) Endpoints() ([]Endpoint, error) {
	known, err := contents[addressKey, endpoint](v.maps.Endpoints)
	if err != nil {
		return nil, fmt.Errorf("read endpoints: %w", err)
	}
	if v.maps.Seats != nil {
		seats, err := contents[uint32, seat[addressKey, endpoint]](v.maps.Seats)
		if err != nil {
			return nil, fmt.Errorf("read seats: %w", err)
		}
		for _, s := range seats {
			if s.Value.Flags&flagSeated != 0 {
				known[s.Key] = s.Value
			}
		}
	}
	return asEndpoints(known), nil
}

// Prefixes are those that the programs steer.
func (v *View) Prefixes() (map[netip.Prefix]Class, error) { return (&Steer{maps: v.maps}).Prefixes() }

// Programs are those that a vmac needs, by name.
func Programs() []string { return slices.Clone(links) }

// ErrDetached is that a program is not where it should be.
var ErrDetached = errors.New("not attached")

// Attached says by which mode a program of Programs is at its hook and uses the pinned maps; ErrDetached with what is wrong if it is
// not. It acts in the network namespace of the calling thread.
func (v *View) Attached(program string) (mode string, err error) {
	var at hook
	for _, h := range hooks(v.cfg, programPrograms{}) {
		if h.name == program {
			at = h
		}
	}
	if at.name == "" {
		return "", fmt.Errorf("no program %q", program)
	}
	id, mode, err := v.find(at)
	if err != nil {
		return "", fmt.Errorf("program %s of %s: %w", program, v.cfg.Name, err)
	}
	if err := v.uses(id); err != nil {
		return "", fmt.Errorf("program %s of %s: %w", program, v.cfg.Name, err)
	}
	return mode, nil
}

// find the program at the hook: by the pinned link, or without one by the filter's name.
func (v *View) find(h hook) (ebpf.ProgramID, string, error) {
	l, err := link.LoadPinnedLink(filepath.Join(v.cfg.PinDir, v.cfg.Name, h.name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		id, err := v.findFilter(h)
		return id, modeClsact, err
	}
	if err != nil {
		return 0, "", fmt.Errorf("pinned link: %w", err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return 0, "", fmt.Errorf("pinned link: %w", err)
	}
	if !h.has(info) {
		return 0, "", fmt.Errorf("%w: its link is pinned, but not at link %d", ErrDetached, h.ifindex)
	}
	return info.Program, modeTCX, nil
}

func (v *View) findFilter(h hook) (ebpf.ProgramID, error) {
	device := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: h.ifindex}}
	filters, err := dump(func() ([]netlink.Filter, error) { return netlink.FilterList(device, h.clsact) })
	if err != nil && !gone(err) {
		return 0, fmt.Errorf("list filters of link %d: %w", h.ifindex, err)
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Name == filterName(h.name, v.cfg.Name) {
			return ebpf.ProgramID(b.Id), nil
		}
	}
	return 0, fmt.Errorf("%w: no link is pinned, and link %d has no filter %s", ErrDetached, h.ifindex, filterName(h.name, v.cfg.Name))
}

// uses: a program may be an earlier one, with maps that nobody fills any more.
func (v *View) uses(id ebpf.ProgramID) error {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return err
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return err
	}
	used, known := info.MapIDs()
	if !known {
		return nil
	}
	pinned, err := v.maps.Macs.Info() // both programs use it
	if err != nil {
		return err
	}
	if id, known := pinned.ID(); known && !slices.Contains(used, id) {
		return fmt.Errorf("%w: what is attached uses other maps than those that are pinned", ErrDetached)
	}
	return nil
}
