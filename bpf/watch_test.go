package bpf

import (
	"bufio"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (l *lab) openWatch(f WatchFilter, links ...string) *Watch {
	l.Helper()
	if f.PerSecond == 0 {
		f.PerSecond = 1000
	}
	w, err := OpenWatch(l.cfg.PinDir, f)
	l.must(err)
	l.Cleanup(func() { _ = w.Close() })
	for _, name := range links {
		ns, ofPod := l.node, false
		if name == "eth0" {
			ns, ofPod = l.pod, true
		}
		ns.Do(func() { l.must(w.Link(l.link(name).Attrs().Index, ofPod)) })
	}
	return w
}

// until reads up to the first packet for which last says so.
func (l *lab) until(w *Watch, last func(SeenPacket) bool) (seen []SeenPacket) {
	l.Helper()
	end := time.Now().Add(20 * time.Second)
	for {
		p, err := w.Read(end)
		if err != nil {
			l.Fatalf("%v; seen %+v", err, seen)
		}
		seen = append(seen, p)
		if last(p) {
			return seen
		}
	}
}

func (l *lab) watching() (state watching) {
	l.Helper()
	spec, err := loadWatch()
	l.must(err)
	all, err := sharedMaps(l.cfg.PinDir, spec)
	l.must(err)
	for name, m := range all {
		if name == watchMapWatching {
			l.must(m.Lookup(uint32(0), &state))
		}
		m.Close()
	}
	return state
}

// A round trip of the pod with the node, and a packet that is dropped, at all places that they come by.
func TestWatch(t *testing.T) {
	eachMode(t, func(l *lab) {
		s := l.attach()
		defer s.Close()
		w := l.openWatch(WatchFilter{MACs: [][6]byte{pod1}, Addresses: []netip.Addr{pod4, pod6}}, "eth0", l.cfg.Name)
		if _, err := OpenWatch(l.cfg.PinDir, WatchFilter{}); !errors.Is(err, ErrWatched) {
			t.Errorf("a second one: %v, want %v", err, ErrWatched)
		}
		for _, a := range []netip.Addr{node4, node6} {
			l.must(roundTrip(l.echo(a)))
			seen := l.until(w, func(p SeenPacket) bool { return p.At == PodReceives && p.SrcPort == 7 && p.Src == a })
			var way []Sight
			for _, p := range seen {
				if p.Protocol != 17 {
					continue
				}
				way = append(way, p.At)
				if p.Reason != "" || p.Length != int(14+8+5+map[bool]int{true: 20, false: 40}[a.Is4()]) || p.SrcMAC != pod1 && p.DstMAC != pod1 {
					t.Errorf("%+v", p)
				}
			}
			want := []Sight{PodSends, NodeReceives, NodeSends, PodReceives}
			if len(way) != len(want) || way[0] != want[0] || way[1] != want[1] || way[2] != want[2] || way[3] != want[3] {
				t.Errorf("the way of a datagram to %s and back: %v, want %v", a, way, want)
			}
		}
		l.send(l.pod, "eth0", ipv4(vmac, pod1, pod4.String(), "192.0.2.9"))
		l.until(w, func(p SeenPacket) bool {
			return p.At == SteerDrops && p.Reason == "drop_not_steered" && p.Dst == addr("192.0.2.9")
		})
		l.send(l.pod, "eth0", whoHas(pod1, pod4.String(), Gateway4.String()))
		l.until(w, func(p SeenPacket) bool { return p.At == GuardDrops && p.Reason == "guard_arp" && p.Dst == Gateway4 })

		l.must(w.Close())
		if state := l.watching(); state != (watching{}) {
			t.Errorf("left: %+v", state)
		}
	})
}

// Only what is asked for is told, and no more than so much.
func TestWatchFilters(t *testing.T) {
	l := newLab(t)
	s := l.attach()
	defer s.Close()
	udp := func(dst string, port byte) []byte {
		return ipv4(vmac, pod1, pod4.String(), dst, 0x10, 0x10, 0, port, 0, 8, 0, 0)
	}
	w := l.openWatch(WatchFilter{MACs: [][6]byte{pod1}, Peers: []WatchPeer{{netip.MustParseAddrPort("192.0.2.9:53"), 17}}}, l.cfg.Name)
	l.send(l.pod, "eth0", udp("192.0.2.9", 54), udp("192.0.2.8", 53), udp("192.0.2.9", 53))
	dropped := func(p SeenPacket) bool { return p.At == SteerDrops && p.EtherType == unix.ETH_P_IP } // a pod solicits routers, too
	for _, p := range l.until(w, dropped) {
		if p.EtherType == unix.ETH_P_IP && (p.DstPort != 53 || p.Dst != addr("192.0.2.9")) {
			t.Errorf("not asked for: %+v", p)
		}
	}
	l.must(w.Close())

	w = l.openWatch(WatchFilter{Addresses: []netip.Addr{addr("10.1.0.99")}}, l.cfg.Name)
	l.send(l.pod, "eth0", udp("192.0.2.9", 53), ipv4(vmac, pod1, "10.1.0.99", "192.0.2.9"))
	for _, p := range l.until(w, dropped) {
		if p.Src != addr("10.1.0.99") {
			t.Errorf("of another: %+v", p)
		}
	}
	l.must(w.Close())

	w = l.openWatch(WatchFilter{MACs: [][6]byte{pod1}, PerSecond: 2})
	flood := make([][]byte, 10)
	for i := range flood {
		flood[i] = udp("192.0.2.9", 53)
	}
	l.send(l.pod, "eth0", flood...)
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if lost, err := w.Lost(); err != nil || lost.OverBudget > 0 {
			l.must(err)
			break
		}
		if time.Now().After(end) {
			t.Fatal("ten at once, and two are allowed in a second: none is lost")
		}
	}
}

// What the source guard drops is known by the pod's namespace, whatever address and MAC it bears.
func TestWatchSource(t *testing.T) {
	eachMode(t, func(l *lab) {
		g := newGuarded(l)
		l.pod.Do(func() { l.must(g.Guard(g.at)) })
		w := l.openWatch(WatchFilter{Cookie: g.at.Cookie})
		l.send(l.pod, "eth0", ipv4(vmac, alien, "10.1.0.99", "192.0.2.9"))
		for _, p := range l.until(w, func(p SeenPacket) bool { return p.At == SourceDrops }) {
			if p.Reason != "source_mac" || p.Src != addr("10.1.0.99") || p.SrcMAC != alien {
				t.Errorf("%+v", p)
			}
		}
	})
}

const watchIn = "BERTH_TEST_WATCH"

// TestWatchKilled: of who watches and is killed, nothing is left but a time, after which nothing is told.
func TestWatchKilled(t *testing.T) {
	if dir := os.Getenv(watchIn); dir != "" { // the one that is killed
		w, err := OpenWatch(dir, WatchFilter{MACs: [][6]byte{pod1}, PerSecond: 1000})
		if err == nil {
			index, _ := strconv.Atoi(os.Getenv(watchIn + "_LINK"))
			err = w.Link(index, false)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("watching\n")
		select {}
	}
	l := newLab(t)
	s := l.attach()
	defer s.Close()
	child := exec.Command(os.Args[0], "-test.run=^TestWatchKilled$")
	child.Env = append(os.Environ(), watchIn+"="+l.cfg.PinDir, watchIn+"_LINK="+strconv.Itoa(l.cfg.VMAC))
	out, err := child.StdoutPipe()
	l.must(err)
	l.node.Do(func() { l.must(child.Start()) })
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "watching\n" {
		t.Errorf("%q, %v", line, err)
	}
	if l.watching().Until == 0 {
		t.Error("the child does not watch")
	}
	l.must(child.Process.Kill())
	_ = child.Wait()
	for end := time.Now().Add(4 * watchPatience); l.watching().Until != 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it goes on")
		}
		l.send(l.pod, "eth0", ipv4(vmac, pod1, pod4.String(), "192.0.2.9"))
	}
	begin := time.Now()
	w := l.openWatch(WatchFilter{MACs: [][6]byte{pod1}}) // the lock went with it
	l.send(l.pod, "eth0", ipv4(vmac, pod1, pod4.String(), "192.0.2.9"))
	for _, p := range l.until(w, func(p SeenPacket) bool { return p.At == SteerDrops && p.EtherType == unix.ETH_P_IP }) {
		if p.Time.Before(begin) {
			t.Errorf("what is from before is told: %+v", p)
		}
	}
}
