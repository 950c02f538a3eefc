package sock

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/berthdev/berth/bpf/pins"
)

// layout is the version of the maps' keys and values, and part of the maps' names. Change it with any of them that keeps its size,
// or when counters change places: Attach then starts with new, empty maps, and all goes to the node until Sync.
const layout = 1

// pinName is the directory of the pins in Config.PinDir.
const pinName = "sock"

// Config of the programs.
type Config struct {
	PinDir string // on a BPF file system, e.g. /sys/fs/bpf/berth; the pins go to PinDir/sock
	Cgroup string // directory of the cgroup whose sockets pass the programs, with all below it; see FindCgroup
}

// Programs are the attached programs of a cgroup. Its methods may be called concurrently.
type Programs struct {
	View
	cfg      Config
	cgroup   uint64 // its number
	pins     pins.Dir
	programs map[string]ebpf.ProgramID // by the hook's name
	grace    grace
	wait     func() error // that of grace

	mu     sync.Mutex          // held to change maps; guards the following
	wanted map[string][]port   // of the Services by name
	claims claims              // of wanted
	rows   table               // what the maps have
	at     map[endpoint]uint32 // which row a frontend leads to
	stale  bool                // rows is not known to be true
	synced bool                // wanted has all
}

// hooks are the socket calls with a program, by the name of program and link.
var hooks = map[string]ebpf.AttachType{
	sockProgConnect4: ebpf.AttachCGroupInet4Connect, sockProgConnect6: ebpf.AttachCGroupInet6Connect,
	sockProgSendmsg4: ebpf.AttachCGroupUDP4Sendmsg, sockProgSendmsg6: ebpf.AttachCGroupUDP6Sendmsg,
	sockProgRecvmsg4: ebpf.AttachCGroupUDP4Recvmsg, sockProgRecvmsg6: ebpf.AttachCGroupUDP6Recvmsg,
	sockProgGetpeername4: ebpf.AttachCgroupInet4GetPeername, sockProgGetpeername6: ebpf.AttachCgroupInet6GetPeername,
}

// links are the names of hooks in the order in which they are detached. Attached in the opposite one, so that no call is translated
// whose answer is not.
var links = []string{
	sockProgConnect4, sockProgConnect6, sockProgSendmsg4, sockProgSendmsg6,
	sockProgRecvmsg4, sockProgRecvmsg6, sockProgGetpeername4, sockProgGetpeername6,
}

// Attach loads the programs, with the pinned maps of an earlier Attach where their layout is the same, pins them and attaches them.
// Earlier programs work until the new ones do. Sync has to follow, before any other change of Services.
func Attach(cfg Config) (*Programs, error) {
	p, err := attach(cfg)
	if err != nil {
		return nil, fmt.Errorf("socket translation at cgroup %s: %w", cfg.Cgroup, err)
	}
	return p, nil
}

func attach(cfg Config) (_ *Programs, err error) {
	var undo []func() error
	defer func() {
		if err != nil {
			for _, f := range slices.Backward(undo) {
				err = errors.Join(err, f())
			}
		}
	}()

	p := &Programs{
		cfg: cfg, programs: make(map[string]ebpf.ProgramID),
		wanted: make(map[string][]port), claims: make(claims), rows: make(table), at: make(map[endpoint]uint32), stale: true,
	}
	if p.cgroup, err = cgroupID(cfg.Cgroup); err != nil {
		return nil, err
	}
	if p.pins, err = pins.Of(cfg.PinDir, pinName); err != nil {
		return nil, err
	}
	if err := p.pins.Begin(); err != nil {
		return nil, err
	}
	undo = append(undo, p.pins.Abort)
	if p.grace, err = newGrace(); err != nil {
		return nil, err
	}
	undo = append(undo, p.grace.Close)
	p.wait = p.grace.wait

	objects, err := load(p.pins)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, objects.sockPrograms.Close()) }() // links hold them
	p.maps = objects.sockMaps
	undo = append(undo, p.maps.Close)
	for name, m := range byName(p.maps) {
		if err := p.pins.PinMap(name, m); err != nil {
			return nil, err
		}
	}
	programs := map[string]*ebpf.Program{
		sockProgConnect4: objects.Connect4, sockProgConnect6: objects.Connect6,
		sockProgSendmsg4: objects.Sendmsg4, sockProgSendmsg6: objects.Sendmsg6,
		sockProgRecvmsg4: objects.Recvmsg4, sockProgRecvmsg6: objects.Recvmsg6,
		sockProgGetpeername4: objects.Getpeername4, sockProgGetpeername6: objects.Getpeername6,
	}
	for _, name := range slices.Backward(links) {
		program := programs[name]
		info, err := program.Info()
		if err != nil {
			return nil, fmt.Errorf("program %s: %w", name, err)
		}
		p.programs[name], _ = info.ID()
		err = p.pins.Link(name, program, p.fits(name), func() (link.Link, error) { return attachTo(cfg.Cgroup, name, program) })
		if err != nil {
			return nil, err
		}
	}
	return p, p.pins.Commit(links...)
}

// load loads programs and maps into the kernel.
func load(p pins.Dir) (*sockObjects, error) {
	spec, err := loadSock()
	if err != nil {
		return nil, err
	}
	for name, m := range spec.Maps {
		m.Name = fmt.Sprintf("%.12s_%d", name, layout) // the kernel keeps 15 characters
	}
	reused, err := p.Reusable(spec.Maps)
	if err != nil {
		return nil, err
	}
	defer pins.CloseMaps(reused) // the objects have descriptors of their own

	objects := new(sockObjects)
	if err := spec.LoadAndAssign(objects, &ebpf.CollectionOptions{MapReplacements: reused}); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	return objects, nil
}

// attachTo makes a link, never the older kind of attachment, which the kernel does not update in place.
func attachTo(cgroup, name string, program *ebpf.Program) (link.Link, error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(dir.Fd()), Program: program, Attach: hooks[name]})
	if err != nil {
		return nil, fmt.Errorf("attach %s: %w", name, err)
	}
	return l, nil
}

// fits says whether a link is at the hook in the cgroup. Its cgroup is 0 once it is detached or its cgroup is gone.
func (p *Programs) fits(name string) func(*link.Info) bool {
	return func(info *link.Info) bool {
		at := info.Cgroup()
		return at != nil && at.CgroupId == p.cgroup && ebpf.AttachType(at.AttachType) == hooks[name]
	}
}

// cgroupID is the number of the cgroup with the directory: that of its inode.
func cgroupID(dir string) (uint64, error) {
	if err := onCgroup2(dir); err != nil {
		return 0, err
	}
	var stat syscall.Stat_t
	if err := syscall.Stat(dir, &stat); err != nil {
		return 0, fmt.Errorf("cgroup %s: %w", dir, err)
	}
	return stat.Ino, nil
}

// byName are the maps as they are pinned.
func byName(m sockMaps) map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		sockMapAffinities: m.Affinities, sockMapConnections: m.Connections, sockMapCounters: m.Counters, sockMapFlows: m.Flows,
		sockMapFrontends: m.Frontends, sockMapMembers: m.Members, sockMapNodes: m.Nodes, sockMapOrigins: m.Origins,
		sockMapPods: m.Pods, sockMapServices: m.Services, sockMapSlots: m.Slots,
	}
}

// Attached says whether all is as Attach left it: these programs at the cgroup, and the pins. No event tells when someone changes that.
func (p *Programs) Attached() (bool, error) {
	for name, m := range byName(p.maps) {
		if ok, err := p.pins.HoldsMap(name, m); !ok || err != nil {
			return false, err
		}
	}
	for name := range hooks {
		if ok, err := p.pins.HoldsLink(name, p.programs[name], p.fits(name)); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// Close releases the descriptors. All stays attached and pinned.
func (p *Programs) Close() error { return errors.Join(p.maps.Close(), p.grace.Close()) }

// Remove detaches and unpins what is attached. Connections stay with their backends. That nothing is left of it is no error.
func Remove(pinDir string) error {
	d, err := pins.Of(pinDir, pinName)
	if err != nil {
		return err
	}
	if err := d.Remove(links...); err != nil {
		return fmt.Errorf("remove socket translation: %w", err)
	}
	return nil
}
