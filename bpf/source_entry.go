package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/bpf/pins"
)

// sourceFilter is in the place of a vmac's name in the names of filters.
const sourceFilter = "source"

// entry is the program at the egress of one interface. It says which one that is, and goes on to the program of all, which could not
// tell: an ifindex is one of many namespaces', and frames without a socket have no namespace that a program could ask for. So the
// program of all can be replaced at once, and that of an interface costs little to load.
//
// Without the program of all, when somebody has removed the pins, it lets pass.
func (g *SourceGuard) entry(at Place) (*ebpf.Program, error) {
	const cb = 48 // offset in __sk_buff
	leave := func(word int16, value uint32) asm.Instructions {
		return asm.Instructions{
			asm.LoadImm(asm.R2, int64(value), asm.DWord),
			asm.StoreMem(asm.R1, cb+4*word, asm.R2, asm.Word),
		}
	}
	var code asm.Instructions
	code = append(code, leave(0, uint32(at.Cookie))...)
	code = append(code, leave(1, uint32(at.Cookie>>32))...)
	code = append(code, leave(2, uint32(at.Index))...)
	code = append(code,
		asm.LoadMapPtr(asm.R2, g.maps.Programs.FD()),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, -1), // TCX_NEXT
		asm.Return())
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "source_entry", Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Instructions: code})
	if err != nil {
		return nil, fmt.Errorf("load entry: %w", err)
	}
	return program, nil
}

func (g *SourceGuard) hook(at Place, program *ebpf.Program) hook {
	return hook{sourceProgSource, program, at.Index, ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS}
}

// Guard attaches an interface fast, by clsact if it has to: tcx has the kernel wait for all CPUs (synchronize_rcu), ten milliseconds
// or so, which the start of a pod need not wait for. Settle does the rest. Both act in the network namespace of the calling
// thread, which has to be that of the place.
func (g *SourceGuard) Guard(at Place) error {
	if attached, _, err := g.Link(at); attached || err != nil {
		return err
	}
	program, err := g.entry(at)
	if err != nil {
		return fmt.Errorf("source guard: %w", err)
	}
	defer program.Close()
	if err := attachClsact(g.hook(at, program), sourceFilter); err != nil {
		return fmt.Errorf("source guard: %w", err)
	}
	return nil
}

// Settle attaches an interface for good, where it is not: by a tcx link, which nobody in the pod can take off, and where the kernel has
// none by clsact, which who may change the pod's links can delete. It says whether there was something to do, and in which mode
// the interface is.
func (g *SourceGuard) Settle(at Place) (done bool, mode string, err error) {
	done, mode, err = g.settle(at)
	if err != nil {
		err = fmt.Errorf("source guard: %w", err)
	}
	return done, mode, err
}

func (g *SourceGuard) settle(at Place) (done bool, mode string, err error) {
	if attached, _, err := g.Link(at); attached || err != nil {
		return false, modeTCX, err
	}
	program, err := g.entry(at)
	if err != nil {
		return false, "", err
	}
	defer program.Close()
	h := g.hook(at, program)
	if !g.clsact {
		l, err := link.AttachTCX(link.TCXOptions{Interface: at.Index, Program: program, Attach: h.tcx, Anchor: link.Head()})
		if err == nil {
			defer l.Close()
			if err := os.Remove(g.pin(at)); err != nil && !errors.Is(err, fs.ErrNotExist) { // one that somebody has detached
				return false, "", fmt.Errorf("unpin link: %w", err)
			}
			if err := l.Pin(g.pin(at)); err != nil {
				return false, "", fmt.Errorf("pin link: %w", err)
			}
			return true, modeTCX, detachClsact(at.Index, sourceFilter)
		}
		if !errors.Is(err, link.ErrNotSupported) {
			return false, "", fmt.Errorf("attach to link %d: %w", at.Index, err)
		}
	}
	if ok, err := hasFilter(at.Index, h.clsact, filterName(h.name, sourceFilter)); ok || err != nil {
		return false, modeClsact, err
	}
	return true, modeClsact, attachClsact(h, sourceFilter)
}

// Link says whether the interface has its tcx link, or has one that was severed: the interface is gone, or somebody has detached it.
// Neither: there is no tcx link. It acts in any namespace.
func (g *SourceGuard) Link(at Place) (attached, severed bool, err error) {
	l, info, err := pins.OpenLink(g.pin(at))
	if l == nil || err != nil {
		return false, false, err
	}
	defer l.Close()
	tcx := info.TCX()
	attached = tcx != nil && tcx.Ifindex != 0
	return attached, !attached, nil
}

// Release takes the guard off an interface, if it is there.
func (g *SourceGuard) Release(at Place) error {
	err := errors.Join(pins.Detach(g.pin(at)), detachClsact(at.Index, sourceFilter), g.Forget(at))
	if err != nil {
		return fmt.Errorf("source guard: %w", err)
	}
	return nil
}

// Forget an interface that is gone.
func (g *SourceGuard) Forget(at Place) error {
	if err := os.Remove(g.pin(at)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpin link: %w", err)
	}
	return g.Delete(at)
}

// hasFilter says whether a link has a filter of that name.
func hasFilter(ifindex int, parent uint32, name string) (bool, error) {
	device := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	filters, err := dump(func() ([]netlink.Filter, error) { return netlink.FilterList(device, parent) })
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list filters of link %d: %w", ifindex, err)
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Name == name {
			return true, nil
		}
	}
	return false, nil
}
