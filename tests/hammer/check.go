package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
)

// checker finds, in the events of a run in their order, what must never be:
//
//	Given    a lease that an interface of another pod uses: two holders at one instant
//	Given    other leases than the same interface of the same pod was given before, unless it was told to give them up since
//	Given    other leases than the same identity was given before, whatever was given up
//	Read     a lease used before it was asked for, and until it was answered, that is not bound to its user's pod: a success was not durable
//	Listed   the same, for all leases
//	Changed  the same, for a version later than one that was bound to the user: freed or given away under a live interface
//	Changed  a lease bound to another pod without having been free between, unless it is kept for an identity that both have
//	Settled  as Listed, and a lease bound to an interface that does not use it: nothing is freed but by hand
//
// A lease may name an earlier sandbox of the pod for a while: without the API, agents answer a new one from their journal.
//
// Its word is sound however late events are written: an interface counts as a user from after its answer, until before its DEL is sent.
type checker struct {
	uses  map[string]map[Interface]*use // by lease
	asked map[Interface]int             // the first ADD
	given map[podInterface]*grant
	kept  map[string][]string // leases of identities
	known map[string]Lease    // by the watch, since the last list
}

// use of a lease by an interface.
type use struct {
	since   int
	version uint64 // of the lease, at which it was seen bound to this very user; 0 as long as it was not
}

type podInterface struct {
	uid  types.UID
	name string
}

// grant is what an interface of a pod was last given, and must be given again when its sandbox is made anew.
type grant struct {
	asked  int
	leases []string
}

func newChecker() *checker {
	return &checker{uses: map[string]map[Interface]*use{}, asked: map[Interface]int{}, given: map[podInterface]*grant{}, kept: map[string][]string{}, known: map[string]Lease{}}
}

// see the next event, and say what it violates.
func (c *checker) see(e Event) (violations []string) {
	switch e.Kind {
	case Asked:
		if _, ok := c.asked[e.Of]; !ok {
			c.asked[e.Of] = e.Seq
		}
	case Given:
		return c.give(e)
	case Dropped, Vanished:
		c.end(e)
	case Read:
		for _, l := range e.Seen {
			violations = append(violations, c.read(l, e.Since)...)
		}
	case Listed, Settled:
		return c.list(e)
	case Changed:
		for _, l := range e.Seen {
			violations = append(violations, c.change(l)...)
		}
	}
	return violations
}

func (c *checker) give(e Event) (violations []string) {
	for _, name := range e.Leases {
		for other := range c.uses[name] {
			if other.UID != e.Of.UID || other.Name != e.Of.Name {
				violations = append(violations, fmt.Sprintf("two holders: lease %s is given to %s, and %s uses it", name, e.Of, other))
			}
		}
	}
	key := podInterface{e.Of.UID, e.Of.Name}
	leases := slices.Sorted(slices.Values(e.Leases))
	if g := c.given[key]; g != nil && !slices.Equal(g.leases, leases) {
		violations = append(violations, fmt.Sprintf("another address: %s is given %v, the pod's interface had %v and did not give it up", e.Of, leases, g.leases))
	}
	c.given[key] = &grant{c.asked[e.Of], leases}
	if e.Keeper != "" {
		if k := c.kept[e.Keeper]; k != nil && !slices.Equal(k, leases) {
			violations = append(violations, fmt.Sprintf("not kept for %s: %s is given %v, it had %v", e.Keeper, e.Of, leases, k))
		}
		c.kept[e.Keeper] = leases
	}
	for _, name := range leases {
		if c.uses[name] == nil {
			c.uses[name] = map[Interface]*use{}
		}
		if c.uses[name][e.Of] == nil {
			c.uses[name][e.Of] = &use{since: e.Seq}
		}
	}
	return violations
}

func (c *checker) end(e Event) {
	for name, users := range c.uses {
		if delete(users, e.Of); len(users) == 0 {
			delete(c.uses, name)
		}
	}
	key := podInterface{e.Of.UID, e.Of.Name}
	// A late DEL of an older sandbox is none of the newer one's. Without a DEL the pod keeps its address.
	if g := c.given[key]; g != nil && e.Kind == Dropped && c.asked[e.Of] >= g.asked {
		delete(c.given, key)
	}
}

// read of a lease asked for after the event since.
func (c *checker) read(l Lease, since int) (violations []string) {
	for user, u := range c.uses[l.Name] {
		switch {
		case l.boundTo(user):
			if l.Holder == user {
				u.version = max(u.version, l.Version)
			}
		case u.since <= since:
			violations = append(violations, fmt.Sprintf("not durable: %s uses lease %s, which is %s", user, l.Name, l))
		}
	}
	return violations
}

func (c *checker) list(e Event) (violations []string) {
	c.known = map[string]Lease{}
	for _, l := range e.Seen {
		c.known[l.Name] = l
		violations = append(violations, c.read(l, e.Since)...)
		if e.Kind == Settled && l.Phase == v1alpha1.LeaseBound && c.uses[l.Name][l.Holder] == nil {
			violations = append(violations, fmt.Sprintf("not freed: lease %s, which nobody uses any more", l))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.uses)) {
		if _, ok := c.known[name]; !ok {
			violations = append(violations, c.read(Lease{Name: name}, e.Since)...)
		}
	}
	return violations
}

func (c *checker) change(l Lease) (violations []string) {
	before, ok := c.known[l.Name]
	if ok && l.Version <= before.Version {
		return nil // older than the list
	}
	c.known[l.Name] = l
	if ok && before.bound() && l.bound() && before.Holder.UID != l.Holder.UID && !(before.Kept && l.Kept) {
		violations = append(violations, fmt.Sprintf("taken over: lease %s, which was %s", l, before))
	}
	for user, u := range c.uses[l.Name] {
		switch {
		case l.boundTo(user):
			if l.Holder == user {
				u.version = max(u.version, l.Version)
			}
		case u.version != 0 && l.Version > u.version:
			violations = append(violations, fmt.Sprintf("not kept: %s uses lease %s, which is %s", user, l.Name, l))
		}
	}
	return violations
}

// unsettled says what a list has bound that nobody uses.
func (c *checker) unsettled(seen []Lease) (out []Lease) {
	for _, l := range seen {
		if l.bound() && c.uses[l.Name][l.Holder] == nil {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b Lease) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func (l Lease) bound() bool { return l.Phase == v1alpha1.LeaseBound }

// boundTo the interface of the pod, by whichever of its sandboxes.
func (l Lease) boundTo(i Interface) bool {
	return l.bound() && l.Holder.UID == i.UID && l.Holder.Name == i.Name
}

func (i Interface) String() string { return fmt.Sprintf("%s/%s of pod %.8s", i.Sandbox, i.Name, i.UID) }
