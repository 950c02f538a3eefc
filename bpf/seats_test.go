package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
)

// readers of an array of seats as its rules allow them: one that has seen a seat taken may look at it until a grace period that has begun
// later is over.
type readers struct {
	*testing.T
	*seats[uint64, uint64]
	lock  sync.Mutex
	truth map[uint64]uint64 // the hash map
	read  map[uint32]reading
	now   int
	meet  func() // in a grace period
}

type reading struct {
	seat[uint64, uint64]
	last int // when it was seen to be taken
}

// crowd is room for eight keys, four pairs of seats.
func crowd(t *testing.T) *readers {
	array, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { array.Close() })
	r := &readers{T: t, truth: map[uint64]uint64{1: 10, 2: 20, 5: 50, 9: 90}, read: map[uint32]reading{}, meet: func() {}}
	r.seats, err = newSeats(array, &r.lock, func(k uint64) uint32 { return uint32(k%4)*2 + uint32(k/4%2) }, func(v uint64) uint64 { return v | flagSeated },
		maps.Clone(r.truth))
	if err != nil {
		t.Fatal(err)
	}
	r.grace = func() error {
		begin := r.now
		r.look()
		r.meet()
		r.look()
		maps.DeleteFunc(r.read, func(_ uint32, in reading) bool { return in.last <= begin })
		return nil
	}
	r.look()
	return r
}

// look as all that may be reading.
func (r *readers) look() {
	r.Helper()
	r.now++
	for n := range uint32(8) {
		var s seat[uint64, uint64]
		if err := r.array.Lookup(n, &s); err != nil {
			r.Fatal(err)
		}
		taken := s.Value&flagSeated != 0
		s.Value &^= flagSeated
		if was, ok := r.read[n]; ok && was.seat != s {
			r.Fatalf("seat %d changed from %v to %v before those who read it were gone", n, was.seat, s)
		}
		if v, ok := r.truth[s.Key]; taken && (!ok || v != s.Value) {
			r.Fatalf("seat %d says %v, the hash map %v", n, s, v)
		}
		if taken {
			r.read[n] = reading{s, r.now}
		}
	}
}

// changes of the hash map.
func (r *readers) change(k, v uint64) {
	write := func(f func()) func() error {
		return func() error { r.look(); f(); r.look(); return nil }
	}
	r.lock.Lock()
	defer r.lock.Unlock()
	defer r.look()
	var err error
	switch rand.IntN(8) {
	case 0:
		want := map[uint64]uint64{k: v, k + 1: v}
		for _, old := range slices.Sorted(maps.Keys(r.truth)) {
			if rand.IntN(4) > 0 && old != k && old != k+1 {
				want[old] = r.truth[old]
			}
		}
		err = r.sync(want, write(func() { r.truth = maps.Clone(want) }))
	case 1, 2, 3:
		err = r.delete(k, write(func() { delete(r.truth, k) }))
	default:
		err = r.put(k, v, write(func() { r.truth[k] = v }))
	}
	if err != nil {
		r.Fatal(err)
	}
}

// Whatever changes, and whenever: who reads a seat sees what the hash map says, whole.
func TestSeats(t *testing.T) {
	r := crowd(t)
	random := func() { r.change(rand.Uint64N(16), rand.Uint64N(3)) }
	r.meet = func() {
		for range rand.IntN(4) {
			random()
		}
	}
	for range 3000 {
		for range rand.IntN(4) {
			random()
		}
		if err := r.settle(); err != nil {
			t.Fatal(err)
		}
		r.look()
	}
	r.meet = func() {}
	if err := r.settle(); err != nil {
		t.Fatal(err)
	}
	r.look()
	rivals, seated := map[uint64]int{}, map[uint64]int{}
	for k := range r.truth {
		rivals[k%4]++
		if n, ok := r.find(k); ok && r.at[n].state == seatTaken {
			seated[k%4]++
		}
	}
	for pair, n := range rivals {
		if seated[pair] != min(n, 2) {
			t.Errorf("%d of %d keys have one of the seats %d and %d", seated[pair], n, 2*pair, 2*pair+1)
		}
	}
}

// What the hash map does not take is not in a seat.
func TestSeatsOfFailedChange(t *testing.T) {
	r := crowd(t)
	failed := errors.New("failed")
	fail := func() error { return failed }
	for name, err := range map[string]error{
		"put":    r.put(1, 11, fail),
		"delete": r.delete(2, fail),
		"sync":   r.sync(map[uint64]uint64{5: 51, 9: 90}, fail),
	} {
		if !errors.Is(err, failed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.settle(); err != nil {
		t.Fatal(err)
	}
	r.look()
	for _, k := range []uint64{1, 2, 5} {
		if n, ok := r.find(k); ok {
			t.Errorf("%d has seat %d", k, n)
		}
	}
	if _, ok := r.find(9); !ok {
		t.Error("9, which did not change, has no seat")
	}
	r.grace = fail
	if err := r.put(1, 11, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := r.settle(); !errors.Is(err, failed) {
		t.Errorf("settle: %v", err)
	}
	r.closed = true
	if err := r.settle(); err != nil {
		t.Errorf("settle after the end: %v", err)
	}
}

func verdict(t *testing.T, program *ebpf.Program, packet []byte) uint32 {
	t.Helper()
	got, err := program.Run(&ebpf.RunOptions{Data: packet, DataOut: make([]byte, len(packet)+256)})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// The programs find the seats that are filled for them, and what has none.
func TestSeatsOfEndpoints(t *testing.T) {
	var endpoints []Endpoint
	for i := range uint32(700) {
		a4, a6 := addr("10.1.0.0").As4(), addr("2001:db8:1::").As16()
		binary.BigEndian.PutUint32(a4[:], binary.BigEndian.Uint32(a4[:])+i)
		binary.BigEndian.PutUint32(a6[8:], i*0x10001)
		m := mac{2, 4: byte(i >> 8), 5: byte(i)}
		endpoints = append(endpoints, Endpoint{netip.AddrFrom4(a4), m}, Endpoint{netip.AddrFrom16(a6), m})
	}
	b := newBench(t, endpoints, knownPrefixes)
	if len(b.seats.at) > 0 {
		t.Errorf("%d are seated before Seat", len(b.seats.at))
	}
	if err := b.Seat(); err != nil {
		t.Fatal(err)
	}
	second := 0
	for _, e := range endpoints {
		key, _, err := e.entry()
		if err != nil {
			t.Fatal(err)
		}
		n, seated := b.seats.find(key)
		if seated && n != key.seat() {
			second++
		}
		packet := ipv4(vmac, e.MAC, e.Address.String(), "10.96.0.1")
		if e.Address.Is6() {
			packet = ipv6(vmac, e.MAC, e.Address.String(), "fd00:96::1", 17, 64)
		}
		if got := verdict(t, b.programPrograms.Steer, packet); got != next {
			t.Fatalf("%s: verdict %d", e.Address, got)
		}
		if err := b.maps.Endpoints.Delete(key); err != nil {
			t.Fatal(err)
		}
		if got := verdict(t, b.programPrograms.Steer, packet); (got == next) != seated {
			t.Fatalf("%s, out of the hash map: verdict %d, seated: %v", e.Address, got, seated)
		}
	}
	if taken := len(b.seats.at); taken < len(endpoints)*3/4 || taken == len(endpoints) || second < 100 {
		t.Errorf("of %d endpoints %d are seated, %d in their second seat", len(endpoints), taken, second)
	}
}

func TestSeatsOfInterfaces(t *testing.T) {
	b := newSourceBench(t)
	seated := map[Place]bool{}
	for i := range 600 { // three of each namespace, of two CPUs' cookies
		at := Place{Cookie: 1 + uint64(i/6) + uint64(i%2)<<12, Index: 2 + i/2%3}
		if err := b.Put(at, hereSource); err != nil {
			t.Fatal(err)
		}
		seated[at] = false
	}
	if err := b.Seat(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for at := range seated {
		if _, seated[at] = b.seats.find(at.key()); seated[at] {
			n++
		}
		if err := b.maps.Identities.Delete(at.key()); err != nil {
			t.Fatal(err)
		}
		entry, err := b.entry(at)
		if err != nil {
			t.Fatal(err)
		}
		got := verdict(t, entry, service4)
		entry.Close()
		if (got == next) != seated[at] {
			t.Fatalf("%v, out of the hash map: verdict %d, seated: %v", at, got, seated[at])
		}
	}
	if t.Logf("%d of %d interfaces are seated", n, len(seated)); n < len(seated)*9/10 {
		t.Error("too few")
	}
}

// A frame with the MAC of what an interface was and the address of what it is never passes, and what it may send as all the time always does.
func TestSourceNeverMixed(t *testing.T) {
	b := newSourceBench(t)
	a1, a2, both := addr("10.1.0.11"), addr("10.1.0.12"), addr("2001:db8:1::11")
	put := func(i int) error {
		return b.Put(here, Source{MAC: [...]mac{pod1, pod2}[i%2], Addresses: []netip.Addr{[...]netip.Addr{a1, a2}[i%2], both}})
	}
	keep := func(i int) error {
		return b.Put(neighbour, Source{MAC: pod1, Addresses: []netip.Addr{a1, addr(fmt.Sprintf("10.1.1.%d", i%2))}})
	}
	if err := errors.Join(put(0), keep(0)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var done sync.WaitGroup
	defer done.Wait()
	defer close(stop)
	done.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			// Elements of a hash map are used again at once. So between any two changes of it all readers come to an end, by Seat.
			if err := errors.Join(put(i), b.Seat(), keep(i), b.Seat()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	refused := func() (n uint64) {
		counted, err := b.Counters()
		if err != nil {
			t.Fatal(err)
		}
		for _, frames := range counted {
			n += frames
		}
		return n
	}
	const repeat = 20_000
	for range 60 {
		for _, tt := range []struct {
			at     Place
			packet []byte
			want   uint64
		}{
			{here, ipv4(alien, pod1, a2.String(), "8.8.8.8"), repeat},
			{here, ipv4(alien, pod2, a1.String(), "8.8.8.8"), repeat},
			{neighbour, service4, 0},
		} {
			before := refused()
			_, err := b.entries[tt.at].Run(&ebpf.RunOptions{Data: tt.packet, DataOut: make([]byte, 256), Repeat: repeat,
				Reset: func() { before = refused() }}) // a signal has interrupted it, and it begins anew
			if err != nil {
				t.Fatal(err)
			}
			if got := refused() - before; got != tt.want {
				t.Fatalf("%d of %d frames of %v were refused, want %d", got, repeat, tt.at, tt.want)
			}
		}
	}
	if n, err := b.Refused(neighbour); n > 0 || err != nil {
		t.Errorf("%d frames of what does not change were refused (%v)", n, err)
	}
}

// A new agent's programs find everything in seats from their first packet on, and by seats that the old one has left no more.
func TestSeatsOfNextAgent(t *testing.T) {
	b := newSourceBench(t)
	if err := errors.Join(b.Seat(), b.Put(here, Source{MAC: pod2, Addresses: hereSource.Addresses})); err != nil {
		t.Fatal(err)
	}
	again, err := OpenSourceGuard(filepath.Dir(b.dir), false)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.maps.Identities.Delete(here.key()); err != nil {
		t.Fatal(err)
	}
	for from, reason := range map[mac]string{pod1: "source_mac", pod2: ""} {
		got := b.run(t, here, ipv4(alien, from, "10.1.0.11", "8.8.8.8"))
		if (got.Verdict == next) != (reason == "") || got.Counted[reason] != uint64(len(got.Counted)) {
			t.Errorf("from %x: %v", from, got)
		}
	}
	if err := again.Delete(here); err != nil {
		t.Fatal(err)
	}
	if got := b.run(t, here, service4); got.Counted["source_unknown"] != 1 {
		t.Errorf("deleted: %v", got)
	}

	l := newLab(t)
	s := l.attach()
	l.must(errors.Join(s.SyncEndpoints(knownEndpoints), s.Seat(), s.Close()))
	s = l.reattach()
	if len(s.seats.at) != len(knownEndpoints) {
		t.Errorf("%d of %d endpoints are seated", len(s.seats.at), len(knownEndpoints))
	}
}

// Who looks from outside sees what the programs go by.
func TestSeatsAreSeen(t *testing.T) {
	b := newSourceBench(t)
	examine := func(want ...string) {
		t.Helper()
		got, err := b.examineIdentity(here, hereSource)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if err := b.Seat(); err != nil {
		t.Fatal(err)
	}
	examine()
	n, _ := b.seats.find(here.key())
	wrong, _, err := here.entries(Source{MAC: pod2, Addresses: hereSource.Addresses})
	if err := errors.Join(err, b.maps.Seats.Put(n, seat[placeKey, identity]{here.key(), wrong.seated()})); err != nil {
		t.Fatal(err)
	}
	examine("its program lets it send as MAC 020000000102, not 020000000101, or with other addresses than its leases")
	if err := b.maps.Seats.Put(n, seat[placeKey, identity]{here.key(), wrong}); err != nil {
		t.Fatal(err)
	}
	examine() // nobody goes by that

	v := &View{maps: newBench(t, knownEndpoints, nil).maps}
	key, value, err := Endpoint{addr("10.1.0.99"), pod1}.entry()
	if err := errors.Join(err, v.maps.Seats.Put(key.seat(), seat[addressKey, endpoint]{key, value.seated()})); err != nil {
		t.Fatal(err)
	}
	got, err := v.Endpoints()
	if err != nil || len(got) != len(knownEndpoints)+1 || !slices.Contains(got, Endpoint{addr("10.1.0.99"), pod1}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestSeatsLayout(t *testing.T) {
	for name, load := range map[string]func() (*ebpf.CollectionSpec, error){"program": loadProgram, "source": loadSource} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		if got := spec.Maps["seats"].MaxEntries; got != 1<<seatsBits {
			t.Errorf("%s: %d seats, not %d", name, got, 1<<seatsBits)
		}
	}
}
