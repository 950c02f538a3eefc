package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

// ExamineSource says what is wrong with the guard of an interface that is to send as want: nothing if the list is empty. It changes
// nothing, and acts in the network namespace of the calling thread, which has to be that of the place. Without pins the error is
// fs.ErrNotExist.
func ExamineSource(pinDir string, at Place, want Source) (faults []string, err error) {
	g := &SourceGuard{dir: filepath.Join(pinDir, fmt.Sprint(sourcePrefix, sourceLayout))}
	for name, m := range map[string]**ebpf.Map{sourceMapIdentities: &g.maps.Identities, sourceMapFurther: &g.maps.Further, sourceMapPrograms: &g.maps.Programs} {
		if *m, err = ebpf.LoadPinnedMap(filepath.Join(g.dir, name), &ebpf.LoadPinOptions{ReadOnly: true}); err != nil {
			return nil, errors.Join(fmt.Errorf("source guard: pinned map %s: %w", name, err), g.maps.Close())
		}
	}
	defer func() { err = errors.Join(err, g.maps.Close()) }()
	// Agents of earlier versions have none.
	g.maps.Seats, err = ebpf.LoadPinnedMap(filepath.Join(g.dir, sourceMapSeats), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("source guard: pinned map %s: %w", sourceMapSeats, err)
	}
	attached, _, err := g.Link(at)
	if err == nil && !attached {
		attached, err = hasFilter(at.Index, netlink.HANDLE_MIN_EGRESS, filterName(sourceProgSource, sourceFilter))
	}
	if err != nil {
		return nil, fmt.Errorf("source guard: %w", err)
	}
	if !attached {
		faults = append(faults, "no program of the source guard is at its egress")
	}
	var program uint32
	if err := g.maps.Programs.Lookup(uint32(0), &program); errors.Is(err, ebpf.ErrKeyNotExist) {
		faults = append(faults, "the node has no program of the source guard: all passes")
	} else if err != nil {
		return nil, fmt.Errorf("source guard: look up the program: %w", err)
	}
	known, err := g.examineIdentity(at, want)
	if err != nil {
		return nil, err
	}
	faults = append(faults, known...)
	if fenced, err := ExamineFence(pinDir, at.Cookie); err == nil && !fenced {
		faults = append(faults, "its namespace is not within the fence: it can go around the guard")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return faults, nil
}

// ExamineFence says whether a namespace is within the fence. Where no fence stands the error is fs.ErrNotExist.
func ExamineFence(pinDir string, cookie uint64) (bool, error) {
	dir := filepath.Join(pinDir, fmt.Sprint(sourcePrefix, sourceLayout), fenceDir)
	for name := range programsOf(&fencePrograms{}) {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false, fmt.Errorf("fence: pinned link: %w", err)
		}
	}
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, fenceMapFenced), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return false, fmt.Errorf("fence: pinned map: %w", err)
	}
	defer m.Close()
	var n fencedNamespace
	err = m.Lookup(cookie, &n)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, fmt.Errorf("fence: look up namespace: %w", err)
	}
	return err == nil, nil
}

// judgedAs is what an interface may send as by its seat, or if it has none by the hash map.
func (g *SourceGuard) judgedAs(at Place, known identity) (identity, error) {
	if g.maps.Seats == nil {
		return known, nil
	}
	k := at.key()
	for _, n := range []uint32{k.seat(), k.seat() ^ 1} {
		var s seat[placeKey, identity]
		if err := g.maps.Seats.Lookup(n, &s); err != nil {
			return known, fmt.Errorf("source guard: look up seat %d: %w", n, err)
		}
		if s.Key == k && s.Value.Flags&flagSeated != 0 {
			s.Value.Flags &^= flagSeated
			return s.Value, nil
		}
	}
	return known, nil
}

// examineIdentity compares what the program knows.
func (g *SourceGuard) examineIdentity(at Place, want Source) (faults []string, err error) {
	id, further, err := at.entries(want)
	if err != nil {
		return nil, err
	}
	var known knownIdentity
	if err := g.maps.Identities.Lookup(at.key(), &known); errors.Is(err, ebpf.ErrKeyNotExist) {
		return []string{"its program knows nothing of it, and drops all that it sends"}, nil
	} else if err != nil {
		return nil, fmt.Errorf("source guard: look up %v: %w", at, err)
	}
	have, err := g.judgedAs(at, known.Identity)
	if err != nil {
		return nil, err
	}
	if have != id {
		faults = append(faults, fmt.Sprintf("its program lets it send as MAC %x, not %x, or with other addresses than its leases", have.MAC, id.MAC))
	}
	for _, k := range further {
		var n uint32
		if err := g.maps.Further.Lookup(k, &n); errors.Is(err, ebpf.ErrKeyNotExist) || err == nil && n != k.Len {
			faults = append(faults, "its program does not know all of its addresses and allowed prefixes")
			break
		} else if err != nil {
			return nil, fmt.Errorf("source guard: look up a prefix of %v: %w", at, err)
		}
	}
	return faults, nil
}
