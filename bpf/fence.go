package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/berthdev/berth/bpf/pins"
)

// fenceDir is in the directory of the source guard. The links of all programs are there while the fence stands, and no other file but
// its maps.
const fenceDir = "fence"

// fence keeps guarded pods from the calls by which frames would go around the guard. In a network namespace that has a guarded
// interface, and in all that are made from within such a one:
//
//	call                                                       answer   counted as
//	setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS)                EPERM    fence_bypass
//	bind of an AF_XDP socket                                   EPERM    fence_xdp
//	a request to rtnetlink to make a macvlan or macvtap link   EPERM    fence_macvlan
//	a request to rtnetlink that cannot be read to its end      EPERM    fence_unreadable
//	a network namespace, when 65536 are within                 SIGKILL  fence_full
//
// The programs are at functions of the kernel, for all of the node: they need BTF and BPF trampolines (CONFIG_DEBUG_INFO_BTF,
// CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS), and the functions of CONFIG_SECURITY_NETWORK, whose result programs may change without
// the BPF LSM being on (kernel/bpf/verifier.c, check_attach_modify_return). Where any of that lacks there is no fence at all.
//
// The kernel leaves out a program of this kind on a CPU where it is running already, that is, where the kernel preempted a task in it;
// kernels with PREEMPT_NONE and PREEMPT_VOLUNTARY do not. Such a call passes, and counts as fence_missed.
type fence struct {
	dir      string
	maps     fenceMaps
	programs fencePrograms
}

// fencedNamespace is as in fence.h.
type fencedNamespace struct{ Pod, Denied uint64 }

var loadFenceSpec = loadFence // tests change it

// openFence puts the fence up around pods' namespaces, with what an earlier run has left. That stands until it is done, and if it fails.
func openFence(guards string, pods map[uint64]bool) (*fence, error) {
	f := &fence{dir: filepath.Join(guards, fenceDir)}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make pins: %w", err)
	}
	spec, err := loadFenceSpec()
	if err != nil {
		return nil, err
	}
	reused, err := pinned(f.dir, spec)
	defer pins.CloseMaps(reused)
	if err != nil {
		return nil, err
	}
	var objects fenceObjects
	if err := spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{MapReplacements: reused}); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	f.maps, f.programs = objects.fenceMaps, objects.fencePrograms
	if err = f.sync(pods); err == nil {
		err = f.attach(reused)
	}
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// close the descriptors. The fence stays.
func (f *fence) close() error { return errors.Join(f.maps.Close(), f.programs.Close()) }

// attach all programs or none. A kernel does not change the program of such a link: the new ones stand beside the old ones, with the
// same maps, until their pins change places.
func (f *fence) attach(reused map[string]*ebpf.Map) error {
	links := map[string]link.Link{}
	defer func() {
		for _, l := range links {
			l.Close()
		}
	}()
	for name, program := range programsOf(&f.programs) {
		l, err := link.AttachTracing(link.TracingOptions{Program: program})
		if err != nil {
			return fmt.Errorf("attach %s: %w", name, err)
		}
		links[name] = l
	}
	for name, m := range map[string]*ebpf.Map{fenceMapFenced: f.maps.Fenced, fenceMapDenials: f.maps.Denials} {
		if reused[name] != nil {
			continue
		}
		if err := m.Pin(filepath.Join(f.dir, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	for name, l := range links {
		next := filepath.Join(f.dir, name+"~")
		if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was killed
			return fmt.Errorf("unpin link: %w", err)
		}
		if err := l.Pin(next); err != nil {
			return fmt.Errorf("pin link %s: %w", name, err)
		}
		if err := os.Rename(next, filepath.Join(f.dir, name)); err != nil {
			return fmt.Errorf("change pins: %w", err)
		}
	}
	return nil
}

func programsOf(p *fencePrograms) map[string]*ebpf.Program {
	return map[string]*ebpf.Program{
		fenceProgFenceSetsockopt: p.FenceSetsockopt,
		fenceProgFenceBind:       p.FenceBind,
		fenceProgFenceNetlink:    p.FenceNetlink,
		fenceProgFenceInherit:    p.FenceInherit,
		fenceProgFenceRelease:    p.FenceRelease,
	}
}

// sync with the namespaces that have guarded interfaces. What was made within others goes when it is released.
func (f *fence) sync(pods map[uint64]bool) error {
	have, err := contents[uint64, fencedNamespace](f.maps.Fenced)
	if err != nil {
		return fmt.Errorf("read namespaces: %w", err)
	}
	for cookie := range pods {
		if err := f.put(cookie); err != nil {
			return err
		}
	}
	for cookie, n := range have {
		if n.Pod == cookie && !pods[cookie] {
			if err := f.drop(cookie); err != nil {
				return err
			}
		}
	}
	return nil
}

// put a pod's namespace within.
func (f *fence) put(cookie uint64) error {
	err := f.maps.Fenced.Update(cookie, fencedNamespace{Pod: cookie}, ebpf.UpdateNoExist)
	if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("fence: put namespace: %w", err)
	}
	return nil
}

// drop a pod's namespace.
func (f *fence) drop(cookie uint64) error {
	if err := f.maps.Fenced.Delete(cookie); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("fence: drop namespace: %w", err)
	}
	return nil
}

// denied is how many calls of a pod, and of namespaces made within, were.
func (f *fence) denied(cookie uint64) (uint64, error) {
	var n fencedNamespace
	err := f.maps.Fenced.Lookup(cookie, &n)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("fence: look up namespace: %w", err)
	}
	return n.Denied, nil
}

// denials names the counters for people; docs and metrics use these names. Their order is that of fence.h.
var denials = [fenceDenialDENIALS]string{
	fenceDenialFENCE_BYPASS:     "fence_bypass",
	fenceDenialFENCE_XDP:        "fence_xdp",
	fenceDenialFENCE_MACVLAN:    "fence_macvlan",
	fenceDenialFENCE_UNREADABLE: "fence_unreadable",
	fenceDenialFENCE_FULL:       "fence_full",
}

// denials are the calls that were denied by reason, summed over CPUs, and those that were missed since this process began.
func (f *fence) denials() (map[string]uint64, error) {
	sums := make(map[string]uint64, len(denials))
	var cpus []uint64
	for i, name := range denials {
		if err := f.maps.Denials.Lookup(uint32(i), &cpus); err != nil {
			return nil, fmt.Errorf("counter %s: %w", name, err)
		}
		sums[name] = 0
		for _, n := range cpus {
			sums[name] += n
		}
	}
	sums[fenceMissed] = 0
	for name, program := range programsOf(&f.programs) {
		stats, err := program.Stats()
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", name, err)
		}
		sums[fenceMissed] += stats.RecursionMisses
	}
	return sums, nil
}

const fenceMissed = "fence_missed"

// Denials are the names of all counters of the fence, in order.
func Denials() []string { return append(append([]string(nil), denials[:]...), fenceMissed) }
