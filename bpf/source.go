package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/berthdev/berth/bpf/pins"
)

// Place is an interface of a network namespace.
type Place struct {
	Cookie uint64 // of the namespace: SO_NETNS_COOKIE
	Index  int    // of the interface there
}

// Source is what an interface may send as: its MAC, with any of the addresses and prefixes, or with a link-local IPv6 address.
// The zero Source may not send at all.
type Source struct {
	MAC       [6]byte
	Addresses []netip.Addr
	Prefixes  []netip.Prefix
	DHCP      bool // it may also ask a DHCP server for an address
}

const (
	// sourceLayout is the version of the maps of the source guard, and part of the name of their directory. Who changes it has to
	// attach all interfaces to the new program before the directory of the old one goes.
	sourceLayout = 1
	sourcePrefix = "guards"
)

// SourceGuard is the source guard of a node: one program, and what each guarded interface may send as. Its methods may be called
// concurrently.
type SourceGuard struct {
	dir    string
	clsact bool
	maps   sourceMaps

	fence    *fence // nil: none
	unfenced error  // why

	mu      sync.Mutex             // held to change the maps
	further map[Place][]furtherKey // content of the map
	seats   *seats[placeKey, identity]
}

// placeKey, identity, knownIdentity and furtherKey are as in source.h.
type (
	placeKey struct {
		Cookie     uint64
		Index, Pad uint32
	}
	identity struct {
		MAC   [6]byte
		Flags uint16
		IPv4  [2][4]byte
		IPv6  [2][16]byte
	}
	knownIdentity struct {
		Identity identity
		Refused  uint64
	}
	furtherKey struct {
		Len, Index uint32
		Cookie     uint64
		Address    [16]byte
	}
)

const (
	flagDHCP    = 1 // beside flagSeated
	flagFurther = 2
	placeBits   = 96
)

// OpenSourceGuard loads the program, with the pinned maps of an earlier run, and pins. Interfaces that are guarded already are
// so by the new program from then on. clsact: attach as on a kernel without tcx.
func OpenSourceGuard(pinDir string, clsact bool) (*SourceGuard, error) {
	g := &SourceGuard{dir: filepath.Join(pinDir, fmt.Sprint(sourcePrefix, sourceLayout)), clsact: clsact, further: map[Place][]furtherKey{}}
	if err := g.open(); err != nil {
		return nil, fmt.Errorf("source guard: %w", err)
	}
	return g, nil
}

func (g *SourceGuard) open() (err error) {
	if err := pins.OnBPFFS(g.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(g.dir, 0o700); err != nil {
		return fmt.Errorf("make pins: %w", err)
	}
	spec, err := loadSource()
	if err != nil {
		return err
	}
	reused, err := pinned(g.dir, spec)
	defer pins.CloseMaps(reused) // the objects have descriptors of their own
	if err != nil {
		return err
	}
	if err := withWatch(filepath.Dir(g.dir), spec, reused); err != nil {
		return err
	}
	var objects sourceObjects
	if err := loadSourceWith(spec, &objects, reused); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	g.maps = objects.sourceMaps
	defer func() {
		err = errors.Join(err, objects.sourcePrograms.Close())
		if err != nil {
			err = errors.Join(err, g.maps.Close())
		}
	}()
	have, err := contents[placeKey, knownIdentity](g.maps.Identities)
	if err != nil {
		return fmt.Errorf("read interfaces: %w", err)
	}
	pods, identities := map[uint64]bool{}, map[placeKey]identity{}
	for at, v := range have {
		pods[at.Cookie] = true
		identities[at] = v.Identity
	}
	if g.seats, err = newSeats(g.maps.Seats, &g.mu, placeKey.seat, identity.seated, identities); err != nil {
		return err
	}
	if err := g.maps.Programs.Put(uint32(0), objects.Source); err != nil {
		return fmt.Errorf("change program: %w", err)
	}
	// Of the program, not of the node: the one before has others.
	if err := os.Remove(filepath.Join(g.dir, sourceMapSeats)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin map %s: %w", sourceMapSeats, err)
	}
	for name, m := range map[string]*ebpf.Map{sourceMapIdentities: g.maps.Identities, sourceMapFurther: g.maps.Further,
		sourceMapRefusals: g.maps.Refusals, sourceMapPrograms: g.maps.Programs, sourceMapSeats: g.maps.Seats} {
		if reused[name] != nil {
			continue
		}
		if err := m.Pin(filepath.Join(g.dir, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	further, err := contents[furtherKey, uint32](g.maps.Further)
	if err != nil {
		return fmt.Errorf("read prefixes: %w", err)
	}
	for k := range further {
		at := Place{k.Cookie, int(k.Index)}
		g.further[at] = append(g.further[at], k)
	}
	g.fence, g.unfenced = openFence(g.dir, pods)
	return nil
}

// loadSourceWith the maps of an earlier run. Where the kernel does not say what its structures are like, or does not let programs read
// them, the program does without (late.h).
func loadSourceWith(spec *ebpf.CollectionSpec, objects *sourceObjects, reused map[string]*ebpf.Map) error {
	options := ebpf.CollectionOptions{MapReplacements: reused}
	err := spec.LoadAndAssign(objects, &options)
	if err == nil {
		return nil
	}
	var other error
	if options.Programs.KernelTypes, other = noTypes(); other == nil {
		other = spec.LoadAndAssign(objects, &options)
	}
	if other != nil {
		return errors.Join(err, other)
	}
	return nil
}

// noTypes are those of a kernel that tells of none.
func noTypes() (*btf.Spec, error) {
	none, err := btf.NewBuilder(nil, nil)
	if err != nil {
		return nil, err
	}
	return none.Spec()
}

// pinned are the maps of an earlier run, of those that the spec has and that outlive their program.
func pinned(dir string, spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	reused := map[string]*ebpf.Map{}
	for name := range spec.Maps {
		if name == sourceMapSeats {
			continue
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return reused, fmt.Errorf("pinned map %s: %w", name, err)
		}
		reused[name] = m
	}
	return reused, nil
}

// Close releases the descriptors. All stays attached and pinned.
func (g *SourceGuard) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seats.closed = true
	if g.fence == nil {
		return g.maps.Close()
	}
	return errors.Join(g.maps.Close(), g.fence.close())
}

// Unfenced is why pods can go around the guard on this node; nil if a fence keeps them from it.
func (g *SourceGuard) Unfenced() error { return g.unfenced }

func (p Place) key() placeKey { return placeKey{Cookie: p.Cookie, Index: uint32(p.Index)} }

func (k placeKey) seat() uint32 { return firstSeat(uint64(k.Index), k.Cookie) }

func (id identity) seated() identity {
	id.Flags |= flagSeated
	return id
}

// Seat has the program find faster what it knows of an interface since the last call. It waits for the kernel, some ten milliseconds.
func (g *SourceGuard) Seat() error {
	if err := g.seats.settle(); err != nil {
		return fmt.Errorf("source guard: %w", err)
	}
	return nil
}

// Put says what an interface may send as. It costs some microseconds, and no frame is judged by half of it.
func (g *SourceGuard) Put(at Place, s Source) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	id, further, err := at.entries(s)
	if err != nil {
		return fmt.Errorf("source guard: %w", err)
	}
	if g.fence != nil {
		if err := g.fence.put(at.Cookie); err != nil {
			return fmt.Errorf("source guard: %w", err)
		}
	}
	for _, k := range further {
		if err := g.maps.Further.Put(k, k.Len); err != nil {
			return fmt.Errorf("source guard: put prefix: %w", err)
		}
	}
	refused, err := g.refused(at)
	if err != nil {
		return err
	}
	err = g.seats.put(at.key(), id, func() error { return g.maps.Identities.Put(at.key(), knownIdentity{id, refused}) })
	if err != nil {
		return fmt.Errorf("source guard: put %v: %w", at, err)
	}
	return g.keepFurther(at, further)
}

// keepFurther deletes what is not wanted any more.
func (g *SourceGuard) keepFurther(at Place, want []furtherKey) error {
	keep := map[furtherKey]bool{}
	for _, k := range want {
		keep[k] = true
	}
	for _, k := range g.further[at] {
		if keep[k] {
			continue
		}
		if err := g.maps.Further.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("source guard: delete prefix: %w", err)
		}
	}
	g.further[at] = want
	if len(want) == 0 {
		delete(g.further, at)
	}
	return nil
}

// entries of the maps for a source: the first addresses of each family are found fast.
func (p Place) entries(s Source) (id identity, further []furtherKey, err error) {
	id = identity{MAC: s.MAC}
	if s.DHCP {
		id.Flags |= flagDHCP
	}
	n4, n6 := 0, 0
	rest := s.Prefixes
	for _, a := range s.Addresses {
		switch a = a.Unmap(); {
		case a.Is4() && n4 < len(id.IPv4):
			id.IPv4[n4] = a.As4()
			n4++
		case a.Is6() && n6 < len(id.IPv6):
			id.IPv6[n6] = a.As16()
			n6++
		default:
			rest = append(rest[:len(rest):len(rest)], netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, prefix := range rest {
		k, err := key(prefix)
		if err != nil {
			return id, nil, err
		}
		id.Flags |= flagFurther
		further = append(further, furtherKey{placeBits + k.Len, uint32(p.Index), p.Cookie, k.Address})
	}
	return id, further, nil
}

// Delete forgets an interface that is detached or gone. It is no error for one that is not known.
func (g *SourceGuard) Delete(at Place) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.seats.delete(at.key(), func() error { return g.maps.Identities.Delete(at.key()) })
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("source guard: delete %v: %w", at, err)
	}
	return errors.Join(g.keepFurther(at, nil), g.unfence(at.Cookie))
}

// unfence a namespace that has no guarded interface any more.
func (g *SourceGuard) unfence(cookie uint64) error {
	if g.fence == nil {
		return nil
	}
	places, err := g.Places()
	if err != nil || slices.ContainsFunc(places, func(p Place) bool { return p.Cookie == cookie }) {
		return err
	}
	return g.fence.drop(cookie)
}

// Places are all interfaces of which something is known, in no order.
func (g *SourceGuard) Places() ([]Place, error) {
	have, err := contents[placeKey, knownIdentity](g.maps.Identities)
	if err != nil {
		return nil, fmt.Errorf("source guard: read interfaces: %w", err)
	}
	var out []Place
	for k := range have {
		out = append(out, Place{k.Cookie, int(k.Index)})
	}
	return out, nil
}

// Refused is how many frames of an interface were dropped; 0 if it is not known.
func (g *SourceGuard) Refused(at Place) (uint64, error) { return g.refused(at) }

func (g *SourceGuard) refused(at Place) (uint64, error) {
	var have knownIdentity
	if err := g.maps.Identities.Lookup(at.key(), &have); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("source guard: look up %v: %w", at, err)
	}
	return have.Refused, nil
}

// Denied is how many calls of the pod with that namespace the fence has denied.
func (g *SourceGuard) Denied(cookie uint64) (uint64, error) {
	if g.fence == nil {
		return 0, nil
	}
	return g.fence.denied(cookie)
}

// Denials are the calls that the fence has denied, by reason; none where there is no fence.
func (g *SourceGuard) Denials() (map[string]uint64, error) {
	if g.fence == nil {
		return nil, nil
	}
	return g.fence.denials()
}

// pin is the path of an interface's link.
func (g *SourceGuard) pin(at Place) string {
	return filepath.Join(g.dir, fmt.Sprintf("%d-%d", at.Cookie, at.Index))
}

// RemoveSourceGuard takes the source guard off all interfaces of the node, and its pins away, of whatever version. Filters of clsact
// mode stay in their namespaces, and let pass.
func RemoveSourceGuard(pinDir string) error {
	entries, err := os.ReadDir(pinDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var errs []error
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), sourcePrefix) {
			continue
		}
		dir := filepath.Join(pinDir, e.Name())
		links, err := os.ReadDir(dir)
		errs = append(errs, err)
		for _, l := range links {
			if strings.Contains(l.Name(), "-") { // of the names, only links have that
				errs = append(errs, pins.Detach(filepath.Join(dir, l.Name())))
			}
		}
		errs = append(errs, os.RemoveAll(dir))
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("remove the source guard: %w", err)
	}
	return nil
}
