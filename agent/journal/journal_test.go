package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
)

var quiet = slog.New(slog.DiscardHandler)

func mustOpen(t testing.TB, file string) *Journal {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	j, err := Open(ctx, file, time.Now, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.Close)
	return j
}

// inFile is what the file says, by a journal that is closed again.
func inFile(t testing.TB, file string) []string {
	t.Helper()
	j := mustOpen(t, file)
	defer j.Close()
	return list(j)
}

func newFile(t testing.TB) string { return filepath.Join(t.TempDir(), "lib", "journal.db") }

func holder(pod, sandbox string) v1alpha1.LeaseHolder {
	return v1alpha1.LeaseHolder{Namespace: "ns", Pod: pod, UID: types.UID("uid-" + pod), Node: "n", ContainerID: sandbox, Interface: "net1",
		Parent: "eth0", MAC: "02:00:00:00:00:01"}
}

// entry of a sandbox of the pod with addresses.
func entry(pod, sandbox string, addresses ...string) *Entry {
	e := &Entry{Holder: holder(pod, sandbox), NetNS: "/run/netns/" + sandbox, Result: json.RawMessage(`{"cniVersion":"1.1.0"}`)}
	for _, a := range addresses {
		h := e.Holder
		e.Leases = append(e.Leases, &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: "net." + a, ResourceVersion: "7"},
			Spec: v1alpha1.IPLeaseSpec{Network: "net", Address: a, Phase: v1alpha1.LeaseBound, Holder: &h}})
	}
	return e
}

// list what a journal says: "sandbox: addresses", with marks of what is not in step.
func list(j *Journal) []string {
	line := func(e *Entry) string {
		s := e.Holder.ContainerID + ":"
		for _, l := range e.Leases {
			s += " " + l.Spec.Address
		}
		if e.Rebind() {
			s += " rebind"
		}
		if len(e.Result) == 0 {
			s += " noresult"
		}
		return s
	}
	out := []string{}
	for _, e := range j.Entries() {
		out = append(out, line(e))
	}
	for _, r := range j.Releases() {
		s := "released " + line(&r.Entry)
		if r.Sent {
			s += " sent"
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// expect what the journal says, now and from the file.
func expect(t *testing.T, j *Journal, want ...string) *Journal {
	t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, list(j)); diff != "" {
		t.Errorf("in memory (-want +got)\n%s", diff)
	}
	j.Close()
	n := mustOpen(t, j.file)
	if diff := cmp.Diff(want, list(n)); diff != "" {
		t.Errorf("in the file (-want +got)\n%s", diff)
	}
	if aside, _ := filepath.Glob(j.file + ".corrupt-*"); len(aside) > 0 {
		t.Errorf("set aside: %v", aside)
	}
	return n
}

// put an entry, into the file, too.
func put(j *Journal, e *Entry) error { return j.durably(func(s *state) { s.put(e) }) }

func TestLife(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	j := mustOpen(t, newFile(t))
	one := entry("a", "s1", "10.0.0.1", "fd00::1")
	must(put(j, one))
	must(put(j, entry("b", "s9", "10.0.0.9")))
	j = expect(t, j, "s1: 10.0.0.1 fd00::1", "s9: 10.0.0.9")
	if diff := cmp.Diff(one, j.Interface("s1", "net1")); diff != "" {
		t.Errorf("not as it was put (-want +got)\n%s", diff)
	}

	// A newer sandbox of the pod has its addresses, and has to say so.
	got, err := j.Adopt(holder("a", "s2"), "/run/netns/s2")
	must(err)
	if got == nil || got.NetNS != "/run/netns/s2" || string(got.Result) != `{"cniVersion":"1.1.0"}` {
		t.Fatalf("adopted %+v", got)
	}
	j = expect(t, j, "s2: 10.0.0.1 fd00::1 rebind", "s9: 10.0.0.9")

	// A late DEL of the old sandbox, told of the leases by the API, gets none of them.
	r, err := j.Release("s1", "net1", one.Leases, true)
	must(err)
	if r != nil {
		t.Errorf("the old sandbox gives up %v", r.Leases)
	}
	// The API answers for one, then for the other.
	for _, l := range got.Leases {
		n := l.DeepCopy()
		n.Spec.Holder = &got.Holder
		j.Bound("s2", "net1", n)
	}
	j = expect(t, j, "s2: 10.0.0.1 fd00::1", "s9: 10.0.0.9")

	// A DEL that the API has not heard of may be taken back by the next sandbox.
	r, err = j.Release("s2", "net1", j.Interface("s2", "net1").Leases, true)
	must(err)
	j = expect(t, j, "released s2: 10.0.0.1 fd00::1 sent", "s9: 10.0.0.9")
	if e, _ := j.Adopt(holder("a", "s3"), ""); e != nil {
		t.Errorf("a release that the API may have carried out is taken back: %v", e)
	}
	j.Unsent(r.ID)
	if e, _ := j.Adopt(holder("c", "s3"), ""); e != nil {
		t.Errorf("another pod adopts %v", e)
	}
	if e, err := j.Adopt(holder("a", "s3"), "/run/netns/s3"); e == nil || err != nil {
		t.Fatalf("adopted %v, %v", e, err)
	}
	if r, err := j.Send(r.ID); r != nil || err != nil {
		t.Errorf("a release that was taken back is sent: %v, %v", r, err)
	}
	j = expect(t, j, "s3: 10.0.0.1 fd00::1 rebind", "s9: 10.0.0.9")

	// A lease that was lost leaves an entry that answers no ADD.
	j.Lost("s3", "net1", "net.fd00::1")
	j = expect(t, j, "s3: 10.0.0.1 rebind noresult", "s9: 10.0.0.9")
	if e, _ := j.Adopt(holder("a", "s3"), ""); e != nil {
		t.Errorf("adopted without result: %v", e)
	}

	// Given up in part, acknowledged in part.
	must(put(j, entry("a", "s3", "10.0.0.1", "10.0.0.2", "10.0.0.3")))
	r, err = j.Release("s3", "net1", entry("a", "s3", "10.0.0.2", "10.0.0.3").Leases, false)
	must(err)
	j.Freed(r.ID, "net.10.0.0.3")
	j = expect(t, j, "released s3: 10.0.0.2 noresult", "s3: 10.0.0.1 noresult", "s9: 10.0.0.9")
	if e, _ := j.Adopt(holder("a", "s4"), ""); e != nil {
		t.Errorf("a part is adopted: %v", e)
	}
	// The same sandbox gets what it gave up a moment ago: the release is void.
	must(put(j, entry("a", "s3", "10.0.0.2")))
	expect(t, j, "s3: 10.0.0.2", "s9: 10.0.0.9")
}

// A second DEL, of which the API has not heard, takes nothing back of the first, of which it may have.
func TestReleasedTwice(t *testing.T) {
	s := newState()
	leases := entry("a", "s1", "10.0.0.1").Leases
	s.set(entry("a", "s1", "10.0.0.1"))
	s.release("s1", "net1", leases, true, time.Time{})
	s.set(entry("a", "s1", "10.0.0.1"))
	s.release("s1", "net1", leases, false, time.Time{})
	if e := s.adopt(holder("a", "s2"), ""); e != nil {
		t.Errorf("adopted %v, which may be another's by now", e)
	}
}

// Of what waits to be told nothing is taken back once a lease of it was free: another release of it was acknowledged, or somebody has
// claimed it. It is told all the same.
func TestFreeMeanwhile(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(s *state, second *Release)
		back bool
	}{
		{"two DELs, of which the API has not heard", func(*state, *Release) {}, true},
		{"the second is acknowledged", func(s *state, second *Release) { s.freed(second.ID, "net.10.0.0.1") }, false},
		{"claimed", func(s *state, _ *Release) { s.wasFree("net.10.0.0.1") }, false},
	} {
		s := newState()
		one := entry("a", "s1", "10.0.0.1", "fd00::1")
		s.set(one)
		first := s.release("s1", "net1", one.Leases, false, time.Time{})
		tt.do(s, s.release("s1", "net1", one.Leases[:1], false, time.Time{}))
		if r := s.releases[first.ID]; r == nil || len(r.Leases) != 2 {
			t.Errorf("%s: still to be told: %v", tt.name, r)
		}
		if e := s.adopt(holder("a", "s2"), ""); (e != nil) != tt.back {
			t.Errorf("%s: the next sandbox adopts %v", tt.name, e)
		}
	}
}

func TestPutVoidsEarlier(t *testing.T) {
	j := mustOpen(t, newFile(t))
	for _, e := range []*Entry{entry("a", "s1", "10.0.0.1", "10.0.0.2"), entry("a", "s2", "10.0.0.2"), entry("b", "s3", "10.0.0.3")} {
		if err := put(j, e); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, j, "s1: 10.0.0.1 noresult", "s2: 10.0.0.2", "s3: 10.0.0.3")
}

func TestPrefixes(t *testing.T) {
	j := mustOpen(t, newFile(t))
	j.SetNode(KeyPrefixes, json.RawMessage(`{"Services":["10.96.0.0/16"]}`))
	j.Close()
	if got := string(mustOpen(t, j.file).Node(KeyPrefixes)); got != `{"Services":["10.96.0.0/16"]}` {
		t.Errorf("%q", got)
	}
}

// A journal without a file says nothing and keeps nothing.
func TestNone(t *testing.T) {
	j := mustOpen(t, "")
	if err := put(j, entry("a", "s1", "10.0.0.1")); err != nil {
		t.Error(err)
	}
	e, err := j.Adopt(holder("a", "s1"), "")
	if e != nil || err != nil || j.Known("s1", "net1", "uid-a") != nil || len(j.Entries()) > 0 {
		t.Errorf("%v, %v", e, err)
	}
	if r, err := j.Release("s1", "net1", entry("a", "s1", "10.0.0.1").Leases, true); r != nil || err != nil {
		t.Errorf("%v, %v", r, err)
	}
	j.Lost("s1", "net1", "x")
	j.Close()
}

// What is asked of a closed journal is an error and hangs nobody.
func TestClosed(t *testing.T) {
	j := mustOpen(t, newFile(t))
	j.Close()
	for range 2 * cap(j.wanted) {
		if err := put(j, entry("a", "s1", "10.0.0.1")); !errors.Is(err, ErrNotWritten) {
			t.Fatalf("%v, want ErrNotWritten", err)
		}
	}
}

// Concurrent changes share transactions, and all are in the file when they say so.
func TestShared(t *testing.T) {
	j := mustOpen(t, newFile(t))
	const n = 300
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := put(j, entry(fmt.Sprint("p", i), fmt.Sprint("s", i), fmt.Sprintf("10.0.%d.%d", i/250, i%250))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	stats := j.db.Stats()
	if tx := stats.TxStats.GetWrite(); tx > 10*n {
		t.Errorf("%d page writes for %d entries", tx, n)
	}
	j.Close()
	if got := len(mustOpen(t, j.file).Entries()); got != n {
		t.Errorf("%d entries in the file, of %d", got, n)
	}
}

// While one agent has the journal, the next waits, and gets it when the first is gone, even if that has set the file aside.
func TestLocked(t *testing.T) {
	file := newFile(t)
	first := mustOpen(t, file)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, file, time.Now, quiet); !errors.Is(err, ErrLocked) {
		t.Fatalf("%v, want ErrLocked", err)
	}
	opened := make(chan *Journal)
	go func() {
		j, err := Open(context.Background(), file, time.Now, quiet)
		if err != nil {
			t.Error(err)
		}
		opened <- j
	}()
	if _, err := setAside(file); err != nil {
		t.Fatal(err)
	}
	first.Close()
	j := <-opened
	defer j.Close()
	if err := put(j, entry("a", "s1", "10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the second writes to a file that is set aside: %v", err)
	}
}

// A file that cannot be written is set aside, another begun with all that is known, and the change is in it.
func TestUnwritable(t *testing.T) {
	file := newFile(t)
	j := mustOpen(t, file)
	if err := put(j, entry("a", "s1", "10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	j.db.Close() // behind its back
	if err := put(j, entry("b", "s2", "10.0.0.2")); err != nil {
		t.Fatal(err)
	}
	j.Close()
	if aside, _ := filepath.Glob(file + ".corrupt-*"); len(aside) != 1 {
		t.Errorf("set aside: %v", aside)
	}
	if diff := cmp.Diff([]string{"s1: 10.0.0.1", "s2: 10.0.0.2"}, inFile(t, file)); diff != "" {
		t.Error(diff)
	}

	// Nor can another be begun: the change is an error, but known, and is written once that is possible, though nothing else changes.
	defer func(d time.Duration) { again = d }(again)
	again = 100 * time.Millisecond
	k := mustOpen(t, file)
	dir := filepath.Dir(file)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	k.db.Close()
	if err := put(k, entry("c", "s3", "10.0.0.3")); !errors.Is(err, ErrNotWritten) {
		t.Errorf("%v, want ErrNotWritten", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatal("no file, a minute after it could be written")
		}
	}
	k.Close()
	if got := strings.Join(inFile(t, file), ", "); got != "s1: 10.0.0.1, s2: 10.0.0.2, s3: 10.0.0.3" {
		t.Error(got)
	}
}

// A file that cannot even be opened when the agent starts, as on a full or read-only disk, is no worse: nothing is kept until it can be,
// and what it said before is true no longer.
func TestUnwritableAtStart(t *testing.T) {
	defer func(d time.Duration) { again = d }(again)
	again = 100 * time.Millisecond
	file := newFile(t)
	old := mustOpen(t, file)
	if err := put(old, entry("a", "s1", "10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	old.Close()
	dir := filepath.Dir(file)
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // in the way of the directory
		t.Fatal(err)
	}
	j := mustOpen(t, file)
	if !j.Keeps() {
		t.Error("it keeps nothing, for good")
	}
	if err := put(j, entry("b", "s2", "10.0.0.2")); !errors.Is(err, ErrNotWritten) {
		t.Errorf("%v, want ErrNotWritten", err)
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); put(j, entry("b", "s2", "10.0.0.2")) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatal("not written, a minute after it could be")
		}
	}
	j.Close()
	if diff := cmp.Diff([]string{"s2: 10.0.0.2"}, inFile(t, file)); diff != "" {
		t.Error(diff)
	}
}

// The file is cut short by somebody else while it is mapped: a write that meets the hole is an error of the journal, not the end of
// the agent.
func TestCutShortWhileOpen(t *testing.T) {
	file := newFile(t)
	j := mustOpen(t, file)
	if err := put(j, entry("a", "s1", "10.0.0.1")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	if err := put(j, entry("b", "s2", "10.0.0.2")); err != nil {
		t.Fatal(err)
	}
	j.Close()
	if got := strings.Join(inFile(t, file), ", "); got != "s1: 10.0.0.1, s2: 10.0.0.2" {
		t.Error(got)
	}
}

func BenchmarkPut(b *testing.B) {
	j := mustOpen(b, newFile(b))
	for i := 0; b.Loop(); i++ {
		if err := put(j, entry(fmt.Sprint("p", i%200), fmt.Sprint("s", i%200), fmt.Sprintf("10.0.0.%d", i%200))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPutParallel(b *testing.B) {
	j := mustOpen(b, newFile(b))
	b.SetParallelism(30)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if err := put(j, entry(fmt.Sprint("p", i%200), fmt.Sprint("s", i%200), fmt.Sprintf("10.0.0.%d", i%200))); err != nil {
				b.Error(err)
			}
		}
	})
}
