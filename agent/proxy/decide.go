//go:build linux

package proxy

// Decision is whether this node's Services are ours to serve for what comes in by vmacs. It changes its mind slowly: a look may fall
// into a restart.
//
//	state     | found somebody        | found nobody
//	undecided | → theirs              | a table of ours is there: → ours; else after 2 looks → ours
//	theirs    | stays                 | after 3 looks in a row → ours
//	ours      | after 2 looks → theirs | stays
//
// In the meantime both may serve, which does no harm: our table comes first, and translates to the same backends. A look that
// fails counts for nothing.
type Decision struct {
	state State
	run   int // looks in a row that spoke against the state
}

// State of a Decision.
type State int

// States.
const (
	Undecided State = iota
	Theirs
	Ours
)

// Look takes in what was found, and whether a table of ours was left by an earlier agent.
func (d *Decision) Look(found Found, left bool) State {
	against := map[State]bool{Undecided: found == Nobody, Theirs: found == Nobody, Ours: found != Nobody}[d.state]
	if d.run++; !against {
		d.run = 0
	}
	switch {
	case d.state == Undecided && found != Nobody, d.state == Ours && d.run >= 2:
		d.state, d.run = Theirs, 0
	case d.state == Undecided && (left || d.run >= 2), d.state == Theirs && d.run >= 3:
		d.state, d.run = Ours, 0
	}
	return d.state
}

// Left says whether this node has a table of ours.
func Left() (bool, error) {
	s, err := readOnce()
	return err == nil && len(s.base) > 0, err
}
