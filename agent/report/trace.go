package report

import (
	"fmt"
	"io"
	"strings"
)

// Trace is the way of a new connection of a pod to one address and port, as far as it can be read.
type Trace struct {
	Node  string `json:"node"`
	Pod   string `json:"pod"` // namespace/name
	To    string `json:"to"`  // address:port/protocol
	Steps []Step `json:"steps"`
	Ends  string `json:"ends"` // where it ends, in a sentence
}

// Step is one place on the way, in order: interfaces, route, socket, vmac, node, source.
type Step struct {
	Name  string   `json:"name"`
	State State    `json:"state"`
	Says  []string `json:"says"` // first what happens, then why
}

// State of a step.
type State string

const (
	Passes  State = "passes"  // the connection goes on
	Ends    State = "ends"    // it does not come further, be it that it has arrived, is refused, or is lost
	Skipped State = "skipped" // it does not come by here
	Unknown State = "unknown" // cannot be read
)

// WriteText writes numbered steps.
func (t Trace) WriteText(w io.Writer) {
	fmt.Fprintf(w, "%s → %s, on node %s\n", t.Pod, t.To, t.Node)
	for i, s := range t.Steps {
		first, rest := "", []string(nil)
		if len(s.Says) > 0 {
			first, rest = s.Says[0], s.Says[1:]
		}
		fmt.Fprintf(w, "%2d. %-10s %-8s %s\n", i+1, s.Name, s.State, first)
		for _, line := range rest {
			fmt.Fprintf(w, "%s%s\n", strings.Repeat(" ", 24), line)
		}
	}
	fmt.Fprintf(w, " ⇒  %s\n", t.Ends)
}
