//go:build linux

package path

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// Tenants are whose addresses are whose, as far as the node keeps them apart.
type Tenants struct {
	// Ranges of addresses by tenant: those of its pools, wherever their pods are.
	Ranges map[string][]Range `json:"ranges,omitempty"`
	// Of a parent link: the tenants that have pods of this node on it.
	Of map[string][]string `json:"of,omitempty"`
}

// Range of addresses of one family, both ends included.
type Range struct {
	First, Last netip.Addr
}

// Add a range of a tenant's.
func (t *Tenants) Add(tenant string, r Range) {
	if t.Ranges == nil {
		t.Ranges = map[string][]Range{}
	}
	t.Ranges[tenant] = append(t.Ranges[tenant], r)
}

// SetTenants says whom to keep apart. Run, or the next Attach or Sync, carries it out.
func (p *Path) SetTenants(t Tenants) {
	p.mu.Lock()
	p.tenants, p.changed = t, true
	p.mu.Unlock()
	p.wake()
}

// isolation is the content of the table inet berth-tenants. On the wire tenants are apart by their VLANs; what has come to the host by a
// vmac must not bring them together, directly or through a Service:
//
//	from      | to, after the Service's translation            | is
//	any vmac  | an address of no tenant                        | passed
//	any vmac  | a tenant that has pods on that vmac's parent   | passed, unless it would leave by the vmac of another's parent
//	any vmac  | any other tenant, on whichever node            | dropped
//
// Answers pass: what began where it may, ends there. Tenants that share a parent share its wire, and are not kept apart here either.
type isolation struct {
	vmacs  []string
	all    []Range            // of all tenants; sorted, apart from each other
	own    map[string][]Range // by vmac: of the tenants on it
	apart  [][2]string        // vmacs in and out: on the second is a tenant that is not on the first
	digest string             // of all this
}

// desiredIsolation is the content of the table; without vmacs or tenants there is none.
func desiredIsolation(t Tenants, vmacs iter.Seq[*vmac]) isolation {
	var want isolation
	var all []Range
	for _, ranges := range t.Ranges {
		all = append(all, ranges...)
	}
	if len(all) == 0 {
		return want
	}
	parents := map[string]string{}
	for v := range vmacs {
		parents[v.name] = v.parent
		want.vmacs = append(want.vmacs, v.name)
	}
	if len(want.vmacs) == 0 {
		return want
	}
	slices.Sort(want.vmacs)
	want.all, want.own = merged(all), map[string][]Range{}
	for _, in := range want.vmacs {
		on := t.Of[parents[in]]
		var own []Range
		for _, tenant := range on {
			own = append(own, t.Ranges[tenant]...)
		}
		if own = merged(own); len(own) > 0 {
			want.own[in] = own
		}
		for _, out := range want.vmacs {
			stranger := func(tenant string) bool { return !slices.Contains(on, tenant) }
			if in != out && slices.ContainsFunc(t.Of[parents[out]], stranger) {
				want.apart = append(want.apart, [2]string{in, out})
			}
		}
	}
	data, err := json.Marshal([]any{want.vmacs, want.all, want.own, want.apart})
	if err != nil {
		panic(err) // of strings and addresses only
	}
	want.digest = fmt.Sprintf("%x", sha256.Sum256(data))[:16]
	return want
}

// drops says what the table does, told in words.
func (w isolation) drops(in, out string, to netip.Addr) bool {
	within := func(ranges []Range) bool {
		return slices.ContainsFunc(ranges, func(r Range) bool { return !to.Less(r.First) && !r.Last.Less(to) })
	}
	return within(w.all) && (!within(w.own[in]) || slices.Contains(w.apart, [2]string{in, out}))
}

// merged ranges: sorted, and none touches another.
func merged(in []Range) (out []Range) {
	in = slices.Clone(in)
	slices.SortFunc(in, func(a, b Range) int { return a.First.Compare(b.First) })
	for _, r := range in {
		if n := len(out); n > 0 && out[n-1].First.Is4() == r.First.Is4() && (!out[n-1].Last.Next().IsValid() || !out[n-1].Last.Next().Less(r.First)) {
			if out[n-1].Last.Less(r.Last) {
				out[n-1].Last = r.Last
			}
			continue
		}
		out = append(out, r)
	}
	return out
}

func tenantsTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: "berth-tenants"}
}

// tenantsChain sees what leaves as it is after the Service's translation, IPVS' too, and before that of the source.
func tenantsChain(t *nftables.Table) *nftables.Chain {
	return &nftables.Chain{Table: t, Name: "postrouting", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityMangle}
}

// isolate makes the table as wanted, in one transaction, and only if it differs.
func isolate(want isolation) (changed bool, err error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("nftables: %w", err)
	}
	rules, there, err := readTenants(conn)
	if err != nil {
		return false, fmt.Errorf("nftables: read table inet berth-tenants: %w", err)
	}
	if there == (len(want.vmacs) > 0) && slices.Equal(comments(rules), want.comments()) {
		return false, nil
	}
	t := conn.AddTable(tenantsTable()) // so that the deletion never fails
	conn.DelTable(t)
	if len(want.vmacs) > 0 {
		if err := want.addTo(conn); err != nil {
			return false, fmt.Errorf("nftables: table inet berth-tenants: %w", err)
		}
	}
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("nftables: replace table inet berth-tenants: %w", err)
	}
	return true, nil
}

func readTenants(conn *nftables.Conn) (rules []*nftables.Rule, there bool, err error) {
	t := tenantsTable()
	if _, err := conn.ListTableOfFamily(t.Name, t.Family); errors.Is(err, unix.ENOENT) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	rules, err = conn.GetRules(t, tenantsChain(t))
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return rules, true, err
}

func comments(rules []*nftables.Rule) (out []string) {
	for _, r := range rules {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		out = append(out, comment)
	}
	return out
}

func (w isolation) comments() (out []string) {
	for _, r := range w.rules(tenantSets{}) {
		out = append(out, r.comment)
	}
	return out
}

// tenantSets are the named sets of the table.
type tenantSets struct {
	vmacs, apart *nftables.Set
	all          map[bool]*nftables.Set // by Is4
	own          map[string]map[bool]*nftables.Set
}

// rules of the chain. Their comments say that the sets' content is what it should be.
func (w isolation) rules(s tenantSets) []rule {
	if len(w.vmacs) == 0 {
		return nil
	}
	var rules []rule
	add := func(comment string, exprs ...[]expr.Any) {
		rules = append(rules, rule{"berth/" + rulesVersion + " " + w.digest + " " + comment, slices.Concat(exprs...)})
	}
	accept := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	add("only what came by a vmac", []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, lookup(s.vmacs, true)}, accept)
	add("answers pass", []expr.Any{
		&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{1}}, // IP_CT_DIR_REPLY (linux/netfilter/nf_conntrack_tuple_common.h)
	}, accept)
	families := []bool{true, false}
	for _, v := range w.vmacs {
		for _, is4 := range families {
			if anyRange(w.own[v], is4) {
				add(fmt.Sprintf("from %s to its own tenants, %s", v, familyName(is4)), incoming(v), to(s.own[v][is4], is4), []expr.Any{
					&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 8}, // 32-bit registers from 8 on: a name is four
					&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 12},
					&expr.Lookup{SourceRegister: 8, SetName: nameOf(s.apart), SetID: idOf(s.apart), Invert: true},
				}, accept)
			}
		}
	}
	for _, v := range w.vmacs {
		for _, is4 := range families {
			if anyRange(w.all, is4) {
				add(droppedComment(v, is4), incoming(v), to(s.all[is4], is4), []expr.Any{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}})
			}
		}
	}
	return rules
}

func droppedComment(vmac string, is4 bool) string {
	return fmt.Sprintf("from %s to other tenants, %s", vmac, familyName(is4))
}

func familyName(is4 bool) string {
	if is4 {
		return "IPv4"
	}
	return "IPv6"
}

func anyRange(all []Range, is4 bool) bool {
	return slices.ContainsFunc(all, func(r Range) bool { return r.First.Is4() == is4 })
}

func incoming(vmac string) []expr.Any {
	return equal(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, linkElement(vmac)...)
}

// to an address of the set.
func to(set *nftables.Set, is4 bool) []expr.Any {
	any := netip.IPv6Unspecified()
	if is4 {
		any = netip.IPv4Unspecified()
	}
	load, family := familyOf(any)
	return slices.Concat(equal(load, family), []expr.Any{loadDestination(family), lookup(set, false)})
}

func lookup(set *nftables.Set, invert bool) *expr.Lookup {
	return &expr.Lookup{SourceRegister: 1, SetName: nameOf(set), SetID: idOf(set), Invert: invert}
}

func nameOf(s *nftables.Set) string {
	if s == nil {
		return "" // only the comments are wanted
	}
	return s.Name
}

func idOf(s *nftables.Set) uint32 {
	if s == nil {
		return 0
	}
	return s.ID
}

var typePair = nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName)

func (w isolation) addTo(conn *nftables.Conn) error {
	t := conn.AddTable(tenantsTable())
	s := tenantSets{vmacs: vmacSet(t), all: map[bool]*nftables.Set{}, own: map[string]map[bool]*nftables.Set{}}
	var names, pairs []nftables.SetElement
	for _, v := range w.vmacs {
		names = append(names, nftables.SetElement{Key: linkElement(v)})
	}
	for _, p := range w.apart {
		pairs = append(pairs, nftables.SetElement{Key: append(linkElement(p[0]), linkElement(p[1])...)})
	}
	s.apart = &nftables.Set{Table: t, Name: "apart", KeyType: typePair, Concatenation: true, KeyByteOrder: binaryutil.NativeEndian}
	if err := errors.Join(conn.AddSet(s.vmacs, names), conn.AddSet(s.apart, pairs)); err != nil {
		return err
	}
	addRanges := func(name string, is4 bool, ranges []Range) (*nftables.Set, error) {
		set := &nftables.Set{Table: t, Name: name + "4", KeyType: nftables.TypeIPAddr, Interval: true}
		if !is4 {
			set.Name, set.KeyType = name+"6", nftables.TypeIP6Addr
		}
		return set, conn.AddSet(set, intervals(ranges, is4))
	}
	for _, is4 := range []bool{true, false} {
		var err error
		if s.all[is4], err = addRanges("tenants", is4, w.all); err != nil {
			return err
		}
		for v, ranges := range w.own {
			if s.own[v] == nil {
				s.own[v] = map[bool]*nftables.Set{}
			}
			if s.own[v][is4], err = addRanges("own-"+v+"-", is4, ranges); err != nil {
				return err
			}
		}
	}
	chain := conn.AddChain(tenantsChain(t))
	for _, r := range w.rules(s) {
		conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: r.exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment)})
	}
	return nil
}

// intervals of a set: where each range begins, and the first address behind it.
func intervals(ranges []Range, is4 bool) (out []nftables.SetElement) {
	for _, r := range ranges {
		if r.First.Is4() != is4 {
			continue
		}
		out = append(out, nftables.SetElement{Key: r.First.AsSlice()})
		if end := r.Last.Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return out
}

// KeptApart counts what was dropped between tenants since the table was made, in packets, by vmac.
func (p *Path) KeptApart() (map[string]uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	rules, _, err := readTenants(conn)
	if err != nil {
		return nil, fmt.Errorf("nftables: read table inet berth-tenants: %w", err)
	}
	out := map[string]uint64{}
	for i, comment := range comments(rules) {
		for _, v := range p.vmacs {
			for _, is4 := range []bool{true, false} {
				if n := len(comment) - len(droppedComment(v.name, is4)); n > 0 && comment[n-1:] == " "+droppedComment(v.name, is4) {
					out[v.name] += packets(rules[i])
				}
			}
		}
	}
	return out, nil
}

func packets(r *nftables.Rule) uint64 {
	for _, e := range r.Exprs {
		if c, ok := e.(*expr.Counter); ok {
			return c.Packets
		}
	}
	return 0
}
