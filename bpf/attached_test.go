package bpf

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/tests/netns"
)

func (l *lab) wantStillAttached(s *Steer, want bool) {
	l.Helper()
	l.node.Do(func() {
		if got, err := s.Attached(); got != want || err != nil {
			l.Errorf("attached: %v, %v, want %v", got, err, want)
		}
	})
}

// What takes a program off, or its pins, is seen, and a new Attach mends it.
func TestAttached(t *testing.T) {
	unpin := func(names ...string) func(l *lab) {
		return func(l *lab) {
			for _, name := range names {
				l.must(os.Remove(filepath.Join(l.cfg.PinDir, l.cfg.Name, name)))
			}
		}
	}
	detach := func(name string) func(l *lab) {
		return func(l *lab) {
			pinned, err := link.LoadPinnedLink(filepath.Join(l.cfg.PinDir, l.cfg.Name, name), nil)
			l.must(err)
			l.must(pinned.Detach())
			l.must(pinned.Close())
		}
	}
	// change changes one program's filter.
	change := func(name string, how func(f *netlink.BpfFilter) error) func(l *lab) {
		return func(l *lab) {
			for _, h := range hooks(l.cfg, programPrograms{}) {
				if h.name != name {
					continue
				}
				filters, err := netlink.FilterList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: h.ifindex}}, h.clsact)
				l.must(err)
				for _, f := range filters {
					l.must(how(f.(*netlink.BpfFilter)))
				}
			}
		}
	}
	remove := func(f *netlink.BpfFilter) error { return netlink.FilterDel(f) }
	move := func(f *netlink.BpfFilter) error {
		program, err := ebpf.NewProgramFromID(ebpf.ProgramID(f.Id))
		if err != nil {
			return err
		}
		defer program.Close()
		other := *f
		other.Handle, other.Priority, other.Name, other.Fd = 1, 1, "theirs", program.FD()
		if err := netlink.FilterAdd(&other); err != nil {
			return err
		}
		return netlink.FilterDel(f)
	}
	both := map[string]func(l *lab){
		"all pins removed": func(l *lab) { l.must(os.RemoveAll(l.cfg.PinDir)) },
		"another agent":    func(l *lab) { l.reattach() },
		"vmac replaced": func(l *lab) {
			l.must(netlink.LinkDel(l.link(l.cfg.Name)))
			l.addVMAC()
		},
	}
	for _, name := range []string{programMapEndpoints, programMapMacs, programMapPrefixes, programMapCounters, programMapSeats} {
		both[name+" unpinned"] = unpin(name)
	}
	both["foreign map"] = func(l *lab) {
		unpin(programMapEndpoints)(l)
		spec, err := loadProgram()
		l.must(err)
		m, err := ebpf.NewMap(spec.Maps[programMapEndpoints])
		l.must(err)
		defer m.Close()
		l.must(m.Pin(filepath.Join(l.cfg.PinDir, l.cfg.Name, programMapEndpoints)))
	}
	only := map[string]map[string]func(l *lab){
		modeTCX: {
			"steer detached": detach(programProgSteer),
			"guard detached": detach(programProgGuard),
			"steer unpinned": unpin(programProgSteer),
			"guard unpinned": unpin(programProgGuard),
		},
		modeClsact: {
			"steer deleted": change(programProgSteer, remove),
			"guard deleted": change(programProgGuard, remove),
			"guard moved":   change(programProgGuard, move),
			"clsact deleted": func(l *lab) {
				qdiscs, err := netlink.QdiscList(l.link(l.cfg.Name))
				l.must(err)
				for _, q := range qdiscs {
					if q.Type() == "clsact" {
						l.must(netlink.QdiscDel(q))
					}
				}
			},
		},
	}
	for _, mode := range modes {
		for _, breakages := range []map[string]func(l *lab){both, only[mode]} {
			for name, breakIt := range breakages {
				t.Run(mode+"/"+name, func(t *testing.T) {
					if mode == modeTCX {
						netns.NeedTCX(t)
					}
					l := newLab(t)
					l.cfg.Clsact = mode == modeClsact
					s := l.attach()
					l.wantStillAttached(s, true)
					l.must(s.SyncEndpoints(nil))
					l.wantStillAttached(s, true)
					l.node.Do(func() { breakIt(l) })
					l.wantStillAttached(s, false)
					again := l.reattach()
					l.wantStillAttached(again, true)
					l.wantStillAttached(s, false)
				})
			}
		}
	}
}

// A vmac that is gone is no error.
func TestAttachedWithoutDevice(t *testing.T) {
	eachMode(t, func(l *lab) {
		s := l.attach()
		l.node.Do(func() { l.must(netlink.LinkDel(l.link(l.cfg.Name))) })
		l.wantStillAttached(s, false)
	})
}
