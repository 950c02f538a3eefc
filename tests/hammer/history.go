package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Kind of an event.
type Kind string

// The kinds of events. What a sandbox has on the wire is told by Given, Dropped and Vanished alone; Read, Listed, Changed and Settled
// are the API server's word, which has to fit.
const (
	Asked    Kind = "ADD"        // of an interface of a sandbox begins
	Given    Kind = "ADD ok"     // the plugin has its answer: from here on the interface uses Leases
	Refused  Kind = "ADD failed" // or nobody heard the answer: nothing is used
	Dropped  Kind = "DEL"        // begins: from here on the interface uses nothing
	Deleted  Kind = "DEL ok"     //
	Left     Kind = "DEL failed" //
	Vanished Kind = "end"        // of a sandbox without a DEL: its node lost power, or the DEL never came
	Read     Kind = "read"       // of one lease, asked for after the event Since
	Listed   Kind = "list"       // of all leases, asked for after the event Since
	Changed  Kind = "watch"      // one lease
	Settled  Kind = "settled"    // as Listed, when nothing is under way: nothing may be bound but what is used
	Fault    Kind = "fault"      // in Note
	Owned    Kind = "block"      // who owns Leases has changed, see Note
	Lists    Kind = "pool"       // Leases came to the list of a carved pool, or left it, see Note
	Object   Kind = "object"     // a pod, node, pool or StatefulSet was made, changed or deleted, see Note
)

// Interface of a pod's sandbox.
type Interface struct {
	UID     types.UID // of the pod
	Sandbox string
	Name    string
}

// Lease as the API server has it; Phase "" is none.
type Lease struct {
	Name    string
	Version uint64 // resource version, 0 if not known
	Phase   v1alpha1.LeasePhase
	Holder  Interface
	Kept    bool // has an identity
}

// Event of a run.
type Event struct {
	Seq    int
	At     time.Duration // since the start of the run
	Kind   Kind
	Node   string
	Pod    string
	Of     Interface
	Leases []string // Given: their names
	Keeper string   // Given: the identity that keeps them beyond the pod; "": none
	Seen   []Lease
	Since  int
	Note   string
}

func (e Event) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%7d %9.3fs %-10s", e.Seq, e.At.Seconds(), e.Kind)
	if e.Pod != "" {
		fmt.Fprintf(&b, " pod %s (%.8s)", e.Pod, e.Of.UID)
	}
	if e.Of.Sandbox != "" {
		fmt.Fprintf(&b, " %s/%s", e.Of.Sandbox, e.Of.Name)
	}
	if e.Node != "" {
		fmt.Fprintf(&b, " on %s", e.Node)
	}
	if len(e.Leases) > 0 {
		fmt.Fprintf(&b, " %s", strings.Join(e.Leases, " "))
	}
	if len(e.Seen) == 1 {
		fmt.Fprintf(&b, " %s", e.Seen[0])
	} else if len(e.Seen) > 1 {
		fmt.Fprintf(&b, " %d leases", len(e.Seen))
	}
	if e.Note != "" {
		fmt.Fprintf(&b, ": %s", e.Note)
	}
	return b.String()
}

func (l Lease) String() string {
	if l.Phase == "" {
		return fmt.Sprintf("%s@%d absent", l.Name, l.Version)
	}
	return fmt.Sprintf("%s@%d %s, holder %.8s %s/%s", l.Name, l.Version, l.Phase, l.Holder.UID, l.Holder.Sandbox, l.Holder.Name)
}

// history of a run, checked as it is written, so that a run ends at its first violation.
type history struct {
	start    time.Time
	violated chan struct{} // closed at the first violation

	mu         sync.Mutex
	events     []Event
	check      *checker
	violations []violation
	counts     map[string]int
}

// violation of an invariant, and what it is about.
type violation struct {
	event Event
	text  string
}

func newHistory() *history {
	return &history{start: time.Now(), violated: make(chan struct{}), check: newChecker(), counts: map[string]int{}}
}

// add an event; the answer is its number.
func (h *history) add(e Event) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.Seq, e.At = len(h.events), time.Since(h.start)
	if len(h.violations) > 0 {
		return e.Seq // the run ends; what it tidies up is nobody's affair
	}
	h.events = append(h.events, e)
	h.counts[string(e.Kind)]++
	for _, text := range h.check.see(e) {
		if len(h.violations) == 0 {
			close(h.violated)
		}
		h.violations = append(h.violations, violation{e, text})
	}
	return e.Seq
}

// violate tells of what the events do not show.
func (h *history) violate(e Event, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.Seq, e.At = len(h.events), time.Since(h.start)
	if len(h.violations) == 0 {
		close(h.violated)
	}
	h.violations = append(h.violations, violation{e, text})
}

func (h *history) count(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[what]++
}

// last is the number of the latest event.
func (h *history) last() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.events) - 1
}

// of the lease: the events that name it, and those of the interfaces that ever used it, up to limit of the latest.
func (h *history) of(lease string, limit int) []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	users := map[Interface]bool{}
	about := func(e Event) bool {
		return slices.Contains(e.Leases, lease) || slices.ContainsFunc(e.Seen, func(l Lease) bool { return l.Name == lease })
	}
	for _, e := range h.events {
		if about(e) && e.Of.Sandbox != "" {
			users[e.Of] = true
		}
	}
	var out []Event
	for _, e := range h.events {
		switch {
		case e.Kind == Listed || e.Kind == Settled:
			for _, l := range e.Seen {
				if l.Name == lease {
					e.Seen = []Lease{l}
					out = append(out, e)
				}
			}
		case about(e), users[e.Of], e.Kind == Fault, e.Kind == Object && strings.Contains(e.Note, "node"):
			out = append(out, e)
		}
	}
	return out[max(0, len(out)-limit):]
}
