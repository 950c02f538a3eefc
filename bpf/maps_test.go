package bpf

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// macsOf is the content of the macs map.
func macsOf(t *testing.T, s *Steer) []mac {
	t.Helper()
	have, err := contents[mac, uint32](s.maps.Macs)
	if err != nil {
		t.Fatal(err)
	}
	var out []mac
	for m := range have {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b mac) int { return slices.Compare(a[:], b[:]) })
	return out
}

func endpointsOf(t *testing.T, s *Steer) []Endpoint {
	t.Helper()
	out, err := s.Endpoints()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(out, func(a, b Endpoint) int { return a.Address.Compare(b.Address) })
	return out
}

func sameEndpoints(t *testing.T, s *Steer, want ...Endpoint) {
	t.Helper()
	diff := gocmp.Diff(want, endpointsOf(t, s), cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty())
	if diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
}

func sameMACs(t *testing.T, s *Steer, want ...mac) {
	t.Helper()
	if diff := gocmp.Diff(want, macsOf(t, s), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("MACs (-want +got):\n%s", diff)
	}
}

func TestEndpoints(t *testing.T) {
	var (
		s   = newBench(t, nil, nil).Steer
		a4  = Endpoint{addr("10.1.0.11"), pod1}
		a6  = Endpoint{addr("2001:db8:1::11"), pod1}
		b4  = Endpoint{addr("10.1.0.12"), pod2}
		a4b = Endpoint{addr("10.1.0.11"), pod2}
	)
	steps := []struct {
		name      string
		do        func() error
		endpoints []Endpoint
		macs      []mac
	}{
		{"nothing to begin with", func() error { return nil }, nil, nil},
		{"put", func() error { return s.PutEndpoint(a4) }, []Endpoint{a4}, []mac{pod1}},
		{"put again", func() error { return s.PutEndpoint(a4) }, []Endpoint{a4}, []mac{pod1}},
		{"second address", func() error { return s.PutEndpoint(a6) }, []Endpoint{a4, a6}, []mac{pod1}},
		{"other pod", func() error { return s.PutEndpoint(b4) }, []Endpoint{a4, b4, a6}, []mac{pod1, pod2}},
		{"first address goes", func() error { return s.DeleteEndpoint(a4.Address) }, []Endpoint{b4, a6}, []mac{pod1, pod2}},
		{"last address goes", func() error { return s.DeleteEndpoint(a6.Address) }, []Endpoint{b4}, []mac{pod2}},
		{"unknown address goes", func() error { return s.DeleteEndpoint(a6.Address) }, []Endpoint{b4}, []mac{pod2}},
		{"put once more", func() error { return s.PutEndpoint(a4) }, []Endpoint{a4, b4}, []mac{pod1, pod2}},
		{"another MAC", func() error { return s.PutEndpoint(a4b) }, []Endpoint{a4b, b4}, []mac{pod2}},
		{"mapped is the same", func() error { return s.PutEndpoint(Endpoint{addr("::ffff:10.1.0.11"), pod1}) }, []Endpoint{a4, b4}, []mac{pod1, pod2}},
		{"sync", func() error { return s.SyncEndpoints([]Endpoint{a6, a4b, a4b}) }, []Endpoint{a4b, a6}, []mac{pod1, pod2}},
		{"sync of the same", func() error { return s.SyncEndpoints([]Endpoint{a4b, a6}) }, []Endpoint{a4b, a6}, []mac{pod1, pod2}},
		{"a MAC too many", func() error { return s.putMAC(alien) }, []Endpoint{a4b, a6}, []mac{pod1, pod2, alien}},
		{"sync repairs", func() error { return s.SyncEndpoints([]Endpoint{a4b, a6}) }, []Endpoint{a4b, a6}, []mac{pod1, pod2}},
		{"a MAC too few", func() error { return s.maps.Macs.Delete(pod2) }, []Endpoint{a4b, a6}, []mac{pod1}},
		{"sync repairs that too", func() error { return s.SyncEndpoints([]Endpoint{a4b, a6}) }, []Endpoint{a4b, a6}, []mac{pod1, pod2}},
		{"sync of nothing", func() error { return s.SyncEndpoints(nil) }, nil, nil},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		sameEndpoints(t, s, step.endpoints...)
		sameMACs(t, s, step.macs...)
		if t.Failed() {
			t.Fatalf("after %q", step.name)
		}
	}
}

func TestEndpointErrors(t *testing.T) {
	s := newBench(t, nil, nil).Steer
	good := Endpoint{addr("10.1.0.12"), pod2}
	if err := s.SyncEndpoints([]Endpoint{good}); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"put without address":    s.PutEndpoint(Endpoint{MAC: pod1}),
		"sync without address":   s.SyncEndpoints([]Endpoint{{MAC: pod1}}),
		"delete without address": s.DeleteEndpoint(netip.Addr{}),
		"two MACs":               s.SyncEndpoints([]Endpoint{{addr("10.1.0.11"), pod1}, {addr("10.1.0.11"), pod2}}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// Refused as a whole.
	sameEndpoints(t, s, good)
	sameMACs(t, s, pod2)
}

func TestSyncPrefixes(t *testing.T) {
	s := newBench(t, nil, nil).Steer
	p := netip.MustParsePrefix
	for _, want := range []map[netip.Prefix]Class{
		{},
		knownPrefixes,
		{p("10.96.0.0/12"): ClassService, p("10.244.0.0/16"): ClassUser},
		{p("0.0.0.0/0"): ClassUser, p("::/0"): ClassUser, p("::/96"): ClassPod, p("192.168.1.5/32"): ClassNode},
		{},
	} {
		if err := s.SyncPrefixes(want); err != nil {
			t.Fatal(err)
		}
		got, err := s.Prefixes()
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if err := s.SyncPrefixes(map[netip.Prefix]Class{p("10.96.1.2/12"): ClassService}); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Prefixes(); got[p("10.96.0.0/12")] != ClassService {
		t.Errorf("bits beyond the prefix were kept: %v", got)
	}
	for name, bad := range map[string]map[netip.Prefix]Class{
		"no prefix":   {netip.Prefix{}: ClassUser},
		"two classes": {p("10.96.0.0/12"): ClassService, p("10.96.0.1/12"): ClassUser},
	} {
		if err := s.SyncPrefixes(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// What stays is never absent, so a pod with traffic does not see the agent restart.
func TestSyncKeepsWhatStays(t *testing.T) {
	b := newBench(t, knownEndpoints, knownPrefixes)
	done := make(chan error)
	go func() {
		for i := range 300 {
			endpoints, prefixes := knownEndpoints, knownPrefixes
			if i%2 == 0 {
				endpoints = endpoints[:1]
				prefixes = map[netip.Prefix]Class{netip.MustParsePrefix("10.96.0.0/12"): ClassService}
			}
			if err := cmp.Or(b.SyncEndpoints(endpoints), b.SyncPrefixes(prefixes)); err != nil {
				done <- err
				return
			}
		}
		close(done)
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
			verdict, _, err := b.programPrograms.Steer.Benchmark(service4, 1000, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := b.Counters(); err != nil || got["drop_spoofed_address"]+got["drop_not_steered"] > 0 {
				t.Fatalf("verdict %d, counters %v, error %v", verdict, got, err)
			}
		}
	}
}

func TestReasons(t *testing.T) {
	names := Reasons()
	if len(names) != int(programReasonREASONS)-1 {
		t.Errorf("%d names for %d reasons", len(names), programReasonREASONS-1)
	}
	counters, err := newBench(t, nil, nil).Counters()
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		if name == "" {
			t.Errorf("reason %d has no name", i+1)
		}
		if _, ok := counters[name]; !ok {
			t.Errorf("Counters does not have %q", name)
		}
	}
	slices.Sort(names)
	if got := slices.Compact(names); len(got) != len(counters) {
		t.Errorf("%d names for %d counters", len(got), len(counters))
	}
}

func TestClass(t *testing.T) {
	var got []string
	for c := range Class(6) {
		got = append(got, c.String())
	}
	if want := "Class(0) service pod node user Class(5)"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
