package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Decisions that are errors. Each comes wrapped in words that name the thing, the value and the remedy.
var (
	// ErrNoPool: no pool can serve the interface.
	ErrNoPool = errors.New("no pool")
	// ErrOutside: an address asked for is in none of the pools that can serve the interface.
	ErrOutside = errors.New("address outside the pools")
	// ErrExhausted: the pools that can serve the interface have no free address.
	ErrExhausted = errors.New("no free address")
	// ErrTaken: an address asked for has another holder.
	ErrTaken = errors.New("address taken")
	// ErrHeld: the address of the interface's identity has an earlier holder, of which nothing proves that it is gone. It ends by itself.
	ErrHeld = errors.New("address still held")
)

// Want is one ordered list of pools, of which the first that can serve it does.
type Want struct {
	// Patterns name pools, in order; path.Match wildcards stand for all matching pools in order of their names.
	// Nil: all pools marked default; of a netspace's pod, all of the netspace's that are no workload's.
	Patterns []string
	// Family of the address wanted. "": one of each family that the pool has.
	Family Family
}

// Target is the pod's interface, as far as affinity goes.
type Target struct {
	NodeName, Namespace, Pod               string
	NodeLabels, NamespaceLabels, PodLabels labels.Set

	// Owners are the pod's controllers, as far as they are known, the topmost among them.
	Owners []v1alpha1.PoolOwner
	// Netspace of the pod; "": none.
	Netspace string
	// NetspaceDeleting: the netspace gives nothing new.
	NetspaceDeleting bool
	// Parent link of the interface.
	Parent Parent

	// Held has the addresses that the interface holds already (its sandbox is made anew), and their pools. Their pools come
	// first, and serve it even if they would refuse it today: editing or disabling a pool moves no lease.
	Held map[netip.Addr]string
	// Kept has the addresses that are kept for the pod's identity, and their pools, which come next, if they serve it.
	Kept map[netip.Addr]string
}

// holds says whether the interface holds an address of the pool, of family f unless that is "".
func (t Target) holds(p *Pool, f Family) bool { return holds(t.Held, p, f) }

func holds(held map[netip.Addr]string, p *Pool, f Family) bool {
	for a, pool := range held {
		if pool == p.Name && (f == "" || f == FamilyOf(a)) {
			return true
		}
	}
	return false
}

// Pick is one address to be claimed.
type Pick struct {
	Family Family
	// Address asked for; the zero Addr leaves the choice to Space.Next.
	Address netip.Addr
	// OneOf are addresses of which any will do; nil: any of the pool.
	OneOf []netip.Addr
}

// Allows says whether a is of the family, and one of those asked for if any are.
func (p Pick) Allows(a netip.Addr) bool {
	return FamilyOf(a) == p.Family && (p.OneOf == nil || slices.Contains(p.OneOf, a))
}

// Option is one way to serve a Want: all its picks from one pool, or nothing.
type Option struct {
	Pool  *Pool
	Picks []Pick
	// Family and Asked are what is wanted of a delegate pool, which has no picks: its plugin chooses, and its result is measured by
	// them. Family "": whatever it gives.
	Family Family
	Asked  Asked
	// Refused: the pool gives the target nothing new, for this reason; what it holds it keeps.
	Refused string
}

// Asked are addresses that a person asked for by name.
type Asked struct {
	// All of them are wanted.
	All []netip.Addr
	// OneOf them is wanted, of each family that there are any of.
	OneOf []netip.Addr
}

// Plan says, for each want, the options in order. skipped names literal pools that do not exist while others of their list can
// serve. The errors are ErrNoPool and ErrOutside.
func Plan(pools []*Pool, wants []Want, asked Asked, t Target) (plan [][]Option, skipped []string, err error) {
	unmet := slices.Concat(asked.All, asked.OneOf)
	for _, w := range wants {
		if err := t.homeless(pools, w); err != nil {
			return nil, nil, err
		}
		serving, refused, unknown := serving(pools, w, t)
		if len(serving) == 0 {
			return nil, nil, fmt.Errorf("%w of %s serves this interface on node %q: %s", ErrNoPool, w.of(t), t.NodeName, strings.Join(refused, "; "))
		}
		skipped = append(skipped, unknown...)

		var options []Option
		mine := Asked{of(w.Family, asked.All), of(w.Family, asked.OneOf)} // a matter of this want
		for _, p := range serving {
			if o, ok := option(p, w.Family, mine, t); ok {
				options = append(options, o)
			}
		}
		slices.SortStableFunc(options, func(a, b Option) int { return t.rank(a.Pool, w.Family) - t.rank(b.Pool, w.Family) })
		both := slices.Concat(mine.All, mine.OneOf)
		if len(options) == 0 {
			return nil, nil, fmt.Errorf("%w: %s asked for, but not given out by %s; ask for %s, or name its pool",
				ErrOutside, join(both), names(serving), insideOf(serving))
		}
		unmet = slices.DeleteFunc(unmet, func(a netip.Addr) bool { return slices.Contains(both, a) })
		plan = append(plan, options)
	}
	if len(unmet) > 0 {
		return nil, nil, fmt.Errorf("%w: %s asked for, but no pool of that family is; name one by the annotation berth.dev/ippool",
			ErrOutside, join(unmet))
	}
	return plan, skipped, nil
}

// homeless is an error if the interface holds an address of a pool that is no more, though the want asks for it. Without the pool
// nobody knows the address's subnet and routes, and another address would take a running pod's away.
func (t Target) homeless(pools []*Pool, w Want) error {
	for a, name := range t.Held {
		if w.Family != "" && w.Family != FamilyOf(a) || !w.asksFor(name) ||
			slices.ContainsFunc(pools, func(p *Pool) bool { return p.Name == name }) {
			continue
		}
		return fmt.Errorf("%w: the interface has %s of pool %q, which does not exist; create the pool again, or delete the pod",
			ErrNoPool, a, name)
	}
	return nil
}

// asksFor says whether a pool of that name is among the want's. Of the default ones what is held is, too.
func (w Want) asksFor(pool string) bool {
	return w.Patterns == nil || slices.ContainsFunc(w.Patterns, func(pattern string) bool {
		ok, _ := path.Match(pattern, pool)
		return ok
	})
}

// Settled says whether all that a plan comes to first is held by the interface or kept for it, as far as t has it, so that nothing new
// is claimed.
func (t Target) Settled(plan [][]Option) bool {
	for _, options := range plan {
		o := options[0]
		if o.Pool.Delegate != nil && t.rank(o.Pool, o.Family) == 2 {
			return false
		}
		for _, pick := range o.Picks {
			if !pick.Address.IsValid() && !pick.among(t.Held, o.Pool) && !pick.among(t.Kept, o.Pool) {
				return false
			}
		}
	}
	return true
}

// among says whether one of these addresses, which have their pools, is of the pool and would do.
func (p Pick) among(held map[netip.Addr]string, pool *Pool) bool {
	for a, name := range held {
		if name == pool.Name && p.Allows(a) {
			return true
		}
	}
	return false
}

// rank of a pool: first what the target holds, then what is kept for it, then the others.
func (t Target) rank(p *Pool, f Family) int {
	switch {
	case t.holds(p, f):
		return 0
	case holds(t.Kept, p, f):
		return 1
	}
	return 2
}

// option of p: the addresses asked for, and a free choice for each family that nothing was asked of. What a delegate pool has, its
// plugin knows, which is asked.
func option(p *Pool, f Family, asked Asked, t Target) (Option, bool) {
	o := Option{Pool: p, Refused: p.refuses(f, t)}
	if p.Delegate != nil {
		o.Family, o.Asked = f, asked
		return o, true
	}
	families := p.families(t)
	if f != "" {
		families = []Family{f}
	}
	asked, ok := p.together(asked)
	if !ok {
		return o, false
	}
	for _, f := range families {
		if o.Refused != "" && !t.holds(p, f) {
			continue
		}
		all, oneOf := of(f, asked.All), of(f, asked.OneOf)
		for _, a := range all {
			o.Picks = append(o.Picks, Pick{Family: f, Address: a})
		}
		if len(all) > 0 {
			continue
		}
		pick := Pick{Family: f}
		for _, a := range oneOf {
			if p.Contains(a) || t.Held[a] == p.Name {
				pick.OneOf = append(pick.OneOf, a)
			}
		}
		if len(oneOf) > 0 && pick.OneOf == nil {
			return o, false
		}
		o.Picks = append(o.Picks, pick)
	}
	for _, a := range asked.All {
		if !p.Contains(a) && t.Held[a] != p.Name {
			return o, false
		}
	}
	return o, true
}

// of a family; the empty one stands for all.
func of(f Family, as []netip.Addr) (out []netip.Addr) {
	for _, a := range as {
		if f == "" || FamilyOf(a) == f {
			out = append(out, a)
		}
	}
	return out
}

// insideOf says which addresses may be asked for.
func insideOf(pools []*Pool) string {
	for _, p := range pools {
		if p.paired {
			return "an address inside (with its partner, or alone: the pool is paired)"
		}
	}
	return "an address inside"
}

// serving splits the pools of a want into those that can serve the target, in order, and the reasons of the others.
func serving(pools []*Pool, w Want, t Target) (out []*Pool, refused, unknown []string) {
	for _, p := range expand(pools, w, t, &unknown) {
		if why := p.refuses(w.Family, t); why != "" && !t.holds(p, w.Family) {
			refused = append(refused, fmt.Sprintf("pool %q %s", p.Name, why))
		} else {
			out = append(out, p)
		}
	}
	refused = append(refused, unknown...)
	if len(refused) == 0 && len(out) == 0 && t.Netspace != "" {
		refused = append(refused, fmt.Sprintf("netspace %q has no pool for it; see the netspace's condition Ready", t.Netspace))
	} else if len(refused) == 0 && len(out) == 0 {
		refused = append(refused, `no pool is marked default; name one by the annotation berth.dev/ippool, or set "default: true" on a pool`)
	}
	return out, refused, unknown
}

// expand the patterns of a want, each pool once.
func expand(pools []*Pool, w Want, t Target, unknown *[]string) (out []*Pool) {
	pools = slices.Clone(pools)
	slices.SortFunc(pools, func(a, b *Pool) int { return strings.Compare(a.Name, b.Name) })
	if w.Patterns == nil {
		for _, p := range pools {
			if p.unnamed(t) && p.mayHave(w.Family) || t.holds(p, w.Family) {
				out = append(out, p)
			}
		}
		return out
	}
	for _, pattern := range w.Patterns {
		found := false
		for _, p := range pools {
			if ok, _ := path.Match(pattern, p.Name); ok {
				found = true
				if !slices.Contains(out, p) {
					out = append(out, p)
				}
			}
		}
		switch {
		case found:
		case strings.ContainsAny(pattern, `*?[\`):
			*unknown = append(*unknown, fmt.Sprintf("no pool matches %q; correct it, or create one that does", pattern))
		default:
			*unknown = append(*unknown, fmt.Sprintf("pool %q does not exist; correct the name, or create it", pattern))
		}
	}
	return out
}

// refuses says why the pool does not serve the target; "" if it does.
func (p *Pool) refuses(f Family, t Target) string {
	switch {
	case p.notFor(t) != "":
		return p.notFor(t)
	case p.Refusal != "":
		return p.Refusal
	case !p.mayHave(f):
		return fmt.Sprintf("has no %s addresses", f)
	case f != "" && p.paired:
		return fmt.Sprintf("pairs its addresses, and gives no %s address alone; name it for both families", f)
	case p.Delegate == nil && len(p.Families()) == 0:
		return "gives out no address: everything in ips is excluded"
	case !p.nodes.Matches(t.NodeLabels):
		return fmt.Sprintf("does not serve node %q (nodeAffinity %s)", t.NodeName, p.nodes)
	case !p.namespaces.Matches(t.NamespaceLabels):
		return fmt.Sprintf("does not serve namespace %q (namespaceAffinity %s)", t.Namespace, p.namespaces)
	case !p.pods.Matches(t.PodLabels):
		return fmt.Sprintf("does not serve pod %q (podAffinity %s)", t.Namespace+"/"+t.Pod, p.pods)
	}
	return ""
}

// ServesNode says whether pods of a node with these labels may get an address of the pool.
func (p *Pool) ServesNode(l labels.Set) bool { return p.nodes.Matches(l) }

// ServingNode lists the pools that patterns name, or those marked default if there are none, which may give addresses to some pod of
// a node with these labels.
func ServingNode(pools []*Pool, patterns []string, node labels.Set) []*Pool {
	out := expand(pools, Want{Patterns: patterns}, Target{}, new([]string))
	return slices.DeleteFunc(out, func(p *Pool) bool { return p.Refusal != "" || !p.ServesNode(node) })
}

// of names the want's pools for messages.
func (w Want) of(t Target) string {
	s := "the default pools"
	switch {
	case w.Patterns != nil:
		s = "pools " + strings.Join(w.Patterns, ", ")
	case t.Netspace != "":
		s = fmt.Sprintf("the pools of netspace %q", t.Netspace)
	}
	if w.Family != "" {
		s += " (" + string(w.Family) + ")"
	}
	return s
}

func names(pools []*Pool) string {
	s := make([]string, len(pools))
	for i, p := range pools {
		s[i] = fmt.Sprintf("pool %q", p.Name)
	}
	return strings.Join(s, ", ")
}

func join(as []netip.Addr) string {
	s := make([]string, len(as))
	for i, a := range as {
		s[i] = a.String()
	}
	return strings.Join(s, ", ")
}

// DefaultWants are the wants of an interface that names no pool: one address of each family that some default pool can serve
// it with, be it from one dual-stack pool or from a pool for each family. Where one of them pairs its addresses, those with both
// families are wanted instead, since a pair comes from one pool; but an interface that holds an address of another pool keeps it. A delegate pool makes no want, since nobody knows its families, but
// serves those that others make.
func DefaultWants(pools []*Pool, t Target) []Want {
	both, _, _ := serving(pools, Want{}, t)
	if slices.ContainsFunc(both, (*Pool).Paired) && !slices.ContainsFunc(both, func(p *Pool) bool { return t.holds(p, "") && !p.Paired() }) {
		w := Want{}
		for _, p := range both {
			if len(p.families(t)) == len(Families) {
				w.Patterns = append(w.Patterns, p.Name)
			}
		}
		return []Want{w}
	}
	var out []Want
	for _, f := range Families {
		w := Want{Family: f}
		ok, _, _ := serving(pools, w, t)
		if slices.ContainsFunc(ok, func(p *Pool) bool { return p.Delegate == nil }) {
			out = append(out, w)
		}
	}
	if len(out) == 0 {
		return []Want{{}} // its plan says why none can serve
	}
	return out
}
