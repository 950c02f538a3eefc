package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/service"
)

// attachedPrograms are those at the cgroup itself.
func attachedPrograms(t testing.TB) (n int) {
	t.Helper()
	dir, err := os.Open(testCgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, at := range hooks {
		result, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: at})
		if err != nil {
			t.Fatal(err)
		}
		n += len(result.Programs)
	}
	return n
}

func TestAttachAndRemove(t *testing.T) {
	l := newLab(t)
	if n := attachedPrograms(t); n != len(hooks) {
		t.Errorf("%d programs, want %d", n, len(hooks))
	}
	links := func() map[string]link.ID {
		ids := map[string]link.ID{}
		for name := range hooks {
			pinned, err := link.LoadPinnedLink(filepath.Join(l.cfg.PinDir, "sock", name), nil)
			l.must(err)
			info, err := pinned.Info()
			pinned.Close()
			l.must(err)
			ids[name] = info.ID
		}
		return ids
	}
	before := links()
	l.restart()
	if diff := cmp.Diff(before, links()); diff != "" {
		t.Errorf("a restart makes other links:\n%s", diff)
	}
	if n := attachedPrograms(t); n != len(hooks) {
		t.Errorf("%d programs after a restart, want %d", n, len(hooks))
	}
	var got []string
	l.must(filepath.WalkDir(l.cfg.PinDir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() || strings.HasSuffix(path, "~") {
			got = append(got, strings.TrimPrefix(path, l.cfg.PinDir+"/sock/"))
		}
		return err
	}))
	want := slices.Sorted(func(yield func(string) bool) {
		for name := range hooks {
			yield(name)
		}
		for name := range byName(l.p.maps) {
			yield(name)
		}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pins (-want +got):\n%s", diff)
	}
	l.must(Remove(l.cfg.PinDir))
	if n := attachedPrograms(t); n != 0 {
		t.Errorf("%d programs after Remove", n)
	}
	if entries, _ := os.ReadDir(l.cfg.PinDir); len(entries) != 0 {
		t.Errorf("pins after Remove: %v", entries)
	}
	l.must(Remove(l.cfg.PinDir))
}

func TestAttached(t *testing.T) {
	for name, breakIt := range map[string]func(l *lab){
		"nothing":       func(*lab) {},
		"link unpinned": func(l *lab) { l.must(os.Remove(filepath.Join(l.cfg.PinDir, "sock", "connect4"))) },
		"map unpinned":  func(l *lab) { l.must(os.Remove(filepath.Join(l.cfg.PinDir, "sock", "slots"))) },
		"detached": func(l *lab) {
			pinned, err := link.LoadPinnedLink(filepath.Join(l.cfg.PinDir, "sock", "sendmsg6"), nil)
			l.must(err)
			defer pinned.Close()
			l.must(pinned.Detach())
		},
		"another agent": func(l *lab) {
			other, err := Attach(l.cfg)
			l.must(err)
			l.must(other.Close())
		},
		"all pins": func(l *lab) { l.must(os.RemoveAll(l.cfg.PinDir)) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			breakIt(l)
			if ok, err := l.p.Attached(); ok != (name == "nothing") || err != nil {
				t.Errorf("attached: %v, %v", ok, err)
			}
			l.restart()
			if ok, err := l.p.Attached(); !ok || err != nil {
				t.Errorf("after a new Attach: %v, %v", ok, err)
			}
			n := 0 // the kernel detaches links that nothing holds any more a moment later
			if !eventually(func() bool { n = attachedPrograms(t); return n == len(hooks) }) {
				t.Errorf("%d programs, want %d", n, len(hooks))
			}
		})
	}
}

func TestAttachFails(t *testing.T) {
	bpffs := mountBPF(t)
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{PinDir: bpffs, Cgroup: "/proc"}, "socket translation at cgroup /proc: /proc is no cgroup2 file system"},
		{Config{PinDir: bpffs, Cgroup: "/nowhere"}, "file system of /nowhere"},
		{Config{PinDir: t.TempDir(), Cgroup: testCgroup}, "is on no BPF file system: mount one"},
	} {
		if _, err := Attach(tc.cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %s", tc.cfg, err, tc.want)
		}
		if n := attachedPrograms(t); n != 0 {
			t.Errorf("%+v: %d programs are left", tc.cfg, n)
		}
	}
}

func TestSupported(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if err := Supported(testCgroup); err != nil {
		t.Errorf("supported: %v", err)
	}
	if n := attachedPrograms(t); n != 0 {
		t.Errorf("the probe left %d programs", n)
	}
	if err := Supported("/proc"); !errors.Is(err, ErrNotSupported) || !strings.Contains(err.Error(), "/proc is no cgroup2 file system") {
		t.Errorf("on /proc: %v", err)
	}
}

func TestFindCgroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	root := filepath.Dir(testCgroup)
	for _, dirs := range [][]string{nil, {root}, {"/nowhere", root}, {testCgroup, root}} {
		if got, err := FindCgroup(dirs...); got != root || err != nil {
			t.Errorf("%v: %s, %v; want %s", dirs, got, err, root)
		}
	}
	// A mount of its own is the same hierarchy, and does for Attach.
	own, err := FindCgroup(testCgroup)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := cgroupID(own)
	if b, _ := cgroupID(root); a != b || a == 0 {
		t.Errorf("own mount %s has root %d, want %d", own, a, b)
	}
	if err := Supported(filepath.Join(own, filepath.Base(testCgroup))); err != nil {
		t.Error(err)
	}
}

// limit is half of what the verifier takes; a program that comes near would be refused by a kernel that counts otherwise.
const limit = 500_000

func TestInstructions(t *testing.T) {
	l := newLab(t)
	for name, id := range l.p.programs {
		program, err := ebpf.NewProgramFromID(id)
		l.must(err)
		info, err := program.Info()
		program.Close()
		l.must(err)
		n, ok := info.VerifiedInstructions()
		t.Logf("%-12s %5d instructions processed", name, n)
		if !ok || n == 0 || n > limit {
			t.Errorf("%s: %d instructions, known: %v; %d at most", name, n, ok, limit)
		}
	}
}

// many are n Services with five backends each.
func many(n int) []service.Service {
	services := make([]service.Service, n)
	for i := range services {
		vip := netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)})
		p := service.Port{Frontends: frontends(vip, 80, service.TCP)}
		for j := range 5 {
			at := netip.AddrFrom4([4]byte{10, 128 + byte(i>>12), byte(i >> 4), byte(i<<4 + j)})
			p.Backends = append(p.Backends, service.Backend{Address: at, Port: 8080, Network: inNet})
		}
		services[i] = service.Service{Name: fmt.Sprintf("default/s%d", i), Ports: []service.Port{p}}
	}
	return services
}

// memory of the maps as the kernel accounts it, in bytes.
func (l *lab) memory() (total uint64, each string) {
	l.Helper()
	names := byName(l.p.maps)
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range names {
			yield(name)
		}
	}) {
		info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", names[name].FD()))
		l.must(err)
		m := regexp.MustCompile(`memlock:\s+(\d+)`).FindSubmatch(info)
		if m == nil {
			l.Fatalf("no memlock in %s", info)
		}
		n, err := strconv.ParseUint(string(m[1]), 10, 64)
		l.must(err)
		total += n
		each += fmt.Sprintf("\n\t%-12s %6d KiB", name, n>>10)
	}
	return total, each
}

func TestMemory(t *testing.T) {
	l := newLab(t)
	empty, _ := l.memory()
	l.sync(many(10_000)...)
	l.wantEntries(10_000, 10_000, 50_000, 50_000)
	total, each := l.memory()
	t.Logf("without Services %.1f MiB; with 10,000 and 50,000 endpoints %.1f MiB:%s", float64(empty)/(1<<20), float64(total)/(1<<20), each)
	if total > 32<<20 {
		t.Errorf("%d bytes, 32 MiB at most", total)
	}
}
