package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"

	"github.com/berthdev/berth/agent/journal"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/bpf"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store"
	"github.com/berthdev/berth/nad"
)

var gateway6 = bpf.Gateway6.String()

func TestCNIError(t *testing.T) {
	deep := func(err error) error {
		return fmt.Errorf("interface net1: %w", errors.Join(fmt.Errorf("pool: %w", err), errors.New("undo: x")))
	}
	for _, tc := range []struct {
		err  error
		want uint
	}{
		{badConfig{errors.New("x")}, types.ErrInvalidNetworkConfig},
		{badRequest{errors.New("x")}, delegate.CodeBadRequest},
		{ipam.ErrOutside, delegate.CodeBadRequest},
		{notBound{errors.New("x")}, delegate.CodeNotBound},
		{ipam.ErrNoPool, delegate.CodeNoPool},
		{ipam.ErrExhausted, delegate.CodeExhausted},
		{ipam.ErrTaken, delegate.CodeAddressTaken},
		{errNotReady, types.ErrTryAgainLater},
		{store.ErrUnavailable, types.ErrTryAgainLater},
		{context.DeadlineExceeded, types.ErrTryAgainLater},
		{context.Canceled, types.ErrTryAgainLater},
		{all([]error{ipam.ErrNoPool, ipam.ErrExhausted}), delegate.CodeExhausted},
		{errors.New("x"), types.ErrInternal},
	} {
		for _, err := range []error{tc.err, deep(tc.err)} {
			if got := cniError(err, false); got.Code != tc.want || got.Msg != err.Error() {
				t.Errorf("%v: %+v, want code %d", err, got, tc.want)
			}
			if got := cniError(err, true); got.Code != delegate.CodeNotAvailable {
				t.Errorf("STATUS, %v: %+v", err, got)
			}
		}
	}
}

func TestAll(t *testing.T) {
	x, y := errors.New("x % y"), errors.New("z")
	if err := all([]error{x, y}); err.Error() != "x % y; z" || !errors.Is(err, x) || !errors.Is(err, y) {
		t.Error(err)
	}
}

// One interface of one sandbox: one at a time. Others go on meanwhile.
// A write whose goroutine ends without an answer is not done, whatever the others say.
func TestSideBySide(t *testing.T) {
	a := &Agent{log: slog.New(slog.DiscardHandler)}
	fine := func(int) error { return nil }
	for n := range 4 {
		if err := a.sideBySide(n, fine); err != nil {
			t.Errorf("%d writes: %v", n, err)
		}
	}
	broken := errors.New("broken")
	if err := a.sideBySide(3, func(i int) error { return []error{nil, broken, nil}[i] }); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
	ended := func(i int) error {
		if i == 0 {
			runtime.Goexit()
		}
		return nil
	}
	if err := a.sideBySide(2, ended); !errors.Is(err, errUnfinished) {
		t.Errorf("%v, want %v", err, errUnfinished)
	}
	if err := a.sideBySide(1, func(int) error { panic("oh") }); err == nil || !strings.Contains(err.Error(), "panic") {
		t.Errorf("%v, want the panic", err)
	}
}

// What a pod's ADD claims anew was free: should it fail, no later one takes the address back from a release that waits for the API.
func TestClaimedAnewIsNotTakenBack(t *testing.T) {
	j, err := journal.Open(t.Context(), filepath.Join(t.TempDir(), "journal"), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	h := v1alpha1.LeaseHolder{UID: "u", ContainerID: "s1", Interface: "net1"}
	l := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: "net.10.0.0.1"}, Spec: v1alpha1.IPLeaseSpec{Address: "10.0.0.1", Holder: &h}}
	j.Put(&journal.Entry{Holder: h, Leases: []*v1alpha1.IPLease{l}, Result: []byte("{}")})
	if _, err := j.Release("s1", "net1", []*v1alpha1.IPLease{l}, false); err != nil {
		t.Fatal(err)
	}
	if j.Known("s2", "net1", "u") == nil {
		t.Fatal("a release of which the API has not heard cannot be taken back")
	}
	tx := &transaction{Agent: &Agent{journal: j}, kept: map[string]bool{}}
	tx.note(&store.Taken{IPLease: l})
	if j.Known("s2", "net1", "u") != nil {
		t.Error("the pod's next sandbox would be given an address that was free meanwhile")
	}
}

func TestKeyLock(t *testing.T) {
	var k keyLock
	unlockOther := k.lock("other", "net1")
	var wg sync.WaitGroup
	inside, n := 0, 0
	for range 50 {
		wg.Go(func() {
			defer k.lock("s1", "net1")()
			inside++
			if inside != 1 {
				t.Error("two at a time")
			}
			n++
			inside--
		})
	}
	wg.Wait()
	unlockOther()
	if n != 50 || len(k.held) != 0 {
		t.Errorf("%d of 50; left: %v", n, k.held)
	}
}

func TestSuspects(t *testing.T) {
	s, t0 := newSuspects(), time.Unix(1000, 0)
	for _, step := range []struct {
		lease, sandbox string
		after          time.Duration
		want           bool
	}{
		{"a", "s1", 0, false},
		{"a", "s1", apart - 1, false},
		{"b", "s1", apart, false},
		{"a", "s1", apart, true},
		{"a", "s1", 2 * apart, true},  // not cleared: still so
		{"a", "s2", 2 * apart, false}, // another sandbox: anew
		{"a", "s2", 3*apart - 1, false},
		{"a", "s2", 3 * apart, true},
	} {
		if got := s.twice(step.lease, step.sandbox, t0.Add(step.after)); got != step.want {
			t.Errorf("%+v: %t", step, got)
		}
	}
	s.clear("a")
	if s.twice("a", "s2", t0.Add(9*apart)) {
		t.Error("cleared, and yet")
	}
}

func TestPrefixes(t *testing.T) {
	var log strings.Builder
	got := prefixes(slog.New(slog.NewTextHandler(&log, nil)), "10.96.0.0/16", " fd00::/108 ", "", "10.0.0.5/8", "x/y")
	want := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00::/108"), netip.MustParsePrefix("10.0.0.0/8")}
	if !slices.Equal(got, want) || !strings.Contains(log.String(), "value=x/y") {
		t.Errorf("%v\n%s", got, log.String())
	}
	if got := sorted(append(want, want[0])); !slices.Equal(got, []netip.Prefix{want[2], want[0], want[1]}) {
		t.Errorf("sorted: %v", got)
	}
}

func TestParentOf(t *testing.T) {
	const mac = "02:00:00:00:00:01"
	for _, tc := range []struct {
		conf delegate.Config
		mac  string
		want string
	}{
		{delegate.Config{Type: "macvlan", Parent: "eth0"}, mac, "eth0"},
		{delegate.Config{Type: "macvlan", Parent: "eth0", Mode: "bridge"}, mac, "eth0"},
		{delegate.Config{Type: "macvlan", Parent: "eth0", Mode: "private"}, mac, ""},
		{delegate.Config{Type: "macvlan", Parent: "eth0", LinkInContainer: true}, mac, ""},
		{delegate.Config{Type: "macvlan", Parent: "eth0"}, "", ""},
		{delegate.Config{Type: "bridge", Parent: "eth0"}, mac, ""},
		{delegate.Config{Type: "ipvlan", Parent: "eth0"}, mac, ""},
	} {
		if got, err := parentOf(&tc.conf, tc.mac); err != nil || got != tc.want {
			t.Errorf("%+v: %q, %v; want %q", tc.conf, got, err, tc.want)
		}
	}
}

func TestEndpoints(t *testing.T) {
	lease := func(addr, parent, mac string) *v1alpha1.IPLease {
		return &v1alpha1.IPLease{Spec: v1alpha1.IPLeaseSpec{Address: addr, Phase: v1alpha1.LeaseBound,
			Holder: &v1alpha1.LeaseHolder{Node: "here", Parent: parent, MAC: mac}}}
	}
	migrating := lease("10.6.0.12", "eth0", "02:00:00:00:00:02")
	migrating.Spec.Holder.Node, migrating.Spec.Next = "there", &v1alpha1.LeaseHolder{Node: "here", Parent: "eth1", MAC: "02:00:00:00:00:03"}
	a := &Agent{cfg: Config{NodeName: "here"}}
	if got := a.endpoints(migrating); len(got) != 1 || got[0].Parent != "eth1" || got[0].MAC.String() != "02:00:00:00:00:03" {
		t.Errorf("of two holders not this node's: %v", got)
	}
	got := a.endpoints(lease("10.6.0.7", "eth0", "02:00:00:00:00:01"), lease("10.6.0.8", "", "02:00:00:00:00:01"), lease("10.6.0.9", "eth0", ""),
		lease("x", "eth0", "02:00:00:00:00:01"), lease("10.6.0.10", "eth0", "y"), &v1alpha1.IPLease{Spec: v1alpha1.IPLeaseSpec{Address: "10.6.0.11"}})
	if len(got) != 1 || got[0].Parent != "eth0" || got[0].Address != netip.MustParseAddr("10.6.0.7") || got[0].MAC.String() != "02:00:00:00:00:01" {
		t.Errorf("%v", got)
	}
}

func TestWantsOf(t *testing.T) {
	for _, tc := range []struct {
		ask  nad.Ask
		want []ipam.Want
	}{
		{nad.Ask{}, nil},
		{nad.Ask{Any: []string{"a"}}, []ipam.Want{{Patterns: []string{"a"}}}},
		{nad.Ask{IPv6: []string{"b"}, IPv4: []string{"a"}}, []ipam.Want{{Patterns: []string{"a"}, Family: ipam.IPv4}, {Patterns: []string{"b"}, Family: ipam.IPv6}}},
		{nad.Ask{IPv6: []string{"b"}}, []ipam.Want{{Patterns: []string{"b"}, Family: ipam.IPv6}}},
	} {
		if diff := cmp.Diff(tc.want, wantsOf(tc.ask)); diff != "" {
			t.Errorf("%+v (-want +got)\n%s", tc.ask, diff)
		}
	}
}

func TestSteers(t *testing.T) {
	for _, tc := range []struct {
		pool, ask string
		isDefault bool
		want      bool
	}{
		{"Auto", "", true, true}, {"Auto", "", false, false},
		{"Always", "", false, true}, {"Never", "", true, false},
		{"Never", "Always", false, true}, {"Always", "Never", true, false}, {"Always", "Auto", false, false},
	} {
		tr := &transaction{pools: []*ipam.Pool{{Steering: v1alpha1.Steering(tc.pool)}}}
		if got := tr.steers(nad.Ask{Steering: tc.ask, Default: tc.isDefault}); got != tc.want {
			t.Errorf("%+v: %t", tc, got)
		}
	}
}

// A note that is too long for the API is cut between letters.
func TestEventNote(t *testing.T) {
	rec := events.NewFakeRecorder(1)
	a := &Agent{events: rec}
	a.event(nil, "Nobody", "x")
	a.event(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}, "Long", strings.Repeat("ä", maxNote))
	got := strings.TrimPrefix(<-rec.Events, "Warning Long ")
	if len(got) > maxNote || !utf8.ValidString(got) || !strings.HasSuffix(got, "ä...") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

func TestIsPod(t *testing.T) {
	static := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "h"}}}
	for uid, want := range map[string]bool{"": true, "u": true, "h": true, "other": false} {
		if got := isPod(static, uid); got != want {
			t.Errorf("%q: %t", uid, got)
		}
	}
	if isPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}, "h") {
		t.Error("a pod without annotations is h")
	}
}

// A node's own conditions are compared before they are written, so they are to be known.
func TestTrimNode(t *testing.T) {
	n := &corev1.Node{}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady}, {Type: ServicePathCondition}, {Type: SourceGuardCondition}}
	n.Status.Addresses = []corev1.NodeAddress{{Address: "10.6.0.11"}}
	if _, err := trim(n); err != nil {
		t.Fatal(err)
	}
	if c := n.Status.Conditions; len(c) != 2 || c[0].Type != ServicePathCondition || c[1].Type != SourceGuardCondition || n.Status.Addresses != nil {
		t.Errorf("left: %+v", n.Status)
	}
}
