//go:build apiserver

package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/berthdev/berth/delegate"
)

// A DEL waits for the disk, not for the API. Its duplicate finds nothing to do.
func TestDelIsAheadOfTheAPI(t *testing.T) {
	r := newJournalRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	p := r.pod("web", "berth.dev/ippool=$a")
	at := r.add(p, "s1", "net1")
	apiPatience = time.Minute
	release := r.faults.Hold("PUT")
	defer release()
	r.delAhead(p, "s1", "net1")
	r.wantBound(at + " web/net1/s1")
	if on := r.path.list(); len(on) > 0 {
		t.Errorf("answered, and on the path: %v", on)
	}
	res, err := r.call(t.Context(), delegate.PathCheck, request(p, "s1", "net1", macvlan))
	checkError(t, res, err, 105)
	if got := r.journal.Releases(); len(got) != 1 || !got[0].Sent {
		t.Errorf("the journal has %v, want one release, sent", got)
	}
	release()
	r.settled()
	r.wantBound()
	r.del(p, "s1", "net1")
}

// An agent that is stopped tells the API first of those whose DEL it has answered.
func TestStoppedAgentTellsFirst(t *testing.T) {
	r := newJournalRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	p := r.pod("web", "berth.dev/ippool=$a")
	r.add(p, "s1", "net1")
	apiPatience = time.Minute
	release := r.faults.Hold("PUT")
	defer release()
	r.delAhead(p, "s1", "net1")
	stopped := make(chan struct{})
	go func() {
		r.stop()
		close(stopped)
	}()
	select {
	case <-stopped:
		t.Error("the agent has ended, and the API has not heard of a release")
	case <-time.After(300 * time.Millisecond):
	}
	release()
	<-stopped
	r.wantBound()
}

// The pod's next sandbox may come before the API is told that the last one is gone: it has the same address, whoever is first.
func TestNextSandboxAhead(t *testing.T) {
	r := newJournalRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	p := r.pod("web", "berth.dev/ippool=$a")
	at := r.add(p, "s0", "net1")
	for i := range 30 {
		r.delAhead(p, fmt.Sprint("s", i), "net1")
		if next := r.add(p, fmt.Sprint("s", i+1), "net1"); next != at {
			t.Fatalf("sandbox %d has %s, and had %s before", i+1, next, at)
		}
	}
	r.settled()
	r.eventuallyBound(at + " web/net1/s30")
}
