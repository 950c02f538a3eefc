//go:build linux

package proxy

import (
	"errors"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// transaction collects what is to be done at once.
type transaction struct {
	conn  *nftables.Conn
	table *nftables.Table
	sets  sets
	id    uint32 // of the last set. The library's own count is not safe for concurrent use
	err   error
}

func begin(conn *nftables.Conn) *transaction {
	t := ownTable()
	return &transaction{conn: conn, table: t, sets: newSets(t)}
}

// commit all or nothing.
func (tx *transaction) commit() error {
	if tx.err != nil {
		return tx.err
	}
	return tx.conn.Flush()
}

func (tx *transaction) note(err error) { tx.err = errors.Join(tx.err, err) }

// addSet with elements. The library would put all of them in one attribute of 64 KiB.
func (tx *transaction) addSet(s *nftables.Set, elements []nftables.SetElement) {
	tx.id++
	s.ID = tx.id
	tx.note(tx.conn.AddSet(s, nil))
	tx.addElements(s, elements)
}

const elementsAtOnce = 200

func (tx *transaction) addElements(s *nftables.Set, elements []nftables.SetElement) {
	named := *s
	named.Anonymous = false // it is not bound yet, and until then the kernel takes elements
	for part := range slices.Chunk(elements, elementsAtOnce) {
		tx.note(tx.conn.SetAddElements(&named, part))
	}
}

func (tx *transaction) deleteElements(s *nftables.Set, elements []nftables.SetElement) {
	for part := range slices.Chunk(elements, elementsAtOnce) {
		tx.note(tx.conn.SetDeleteElements(s, part))
	}
}

// makeTable in the place of whatever has its name.
func (tx *transaction) makeTable(b base) {
	tx.dropTable()
	tx.conn.AddTable(tx.table)
	for _, s := range tx.sets.all() {
		tx.addSet(s, nil)
	}
	tx.addElements(tx.sets.vmacs, linkElements(b.links))
	for _, c := range baseChains(tx.table, tx.sets, b.cidrs) {
		tx.conn.AddChain(c.Chain)
		tx.addRules(c)
	}
}

func (tx *transaction) dropTable() {
	tx.conn.AddTable(tx.table) // so that the deletion never fails
	tx.conn.DelTable(tx.table)
}

func (tx *transaction) addRules(c baseChain) {
	for _, r := range c.rules {
		tx.conn.AddRule(&nftables.Rule{Table: tx.table, Chain: c.Chain, Exprs: r.exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment)})
	}
}

// replaceRules of the base chains.
func (tx *transaction) replaceRules(b base) {
	for _, c := range baseChains(tx.table, tx.sets, b.cidrs) {
		tx.conn.FlushChain(c.Chain)
		tx.addRules(c)
	}
}

func linkElements(names []string) (elements []nftables.SetElement) {
	for _, name := range names {
		key := make([]byte, unix.IFNAMSIZ)
		copy(key, name)
		elements = append(elements, nftables.SetElement{Key: key})
	}
	return elements
}

// do what plan says.
func (tx *transaction) do(changes []change) {
	removed := map[string][]nftables.SetElement{}
	added := map[string][]nftables.SetElement{}
	byName := map[string]*nftables.Set{}
	put := func(to map[string][]nftables.SetElement, s *nftables.Set, e nftables.SetElement) {
		byName[s.Name] = s
		to[s.Name] = append(to[s.Name], e)
	}
	for _, c := range changes {
		for _, set := range slices.Sorted(maps.Keys(c.sticky)) {
			tx.addSet(stickySet(tx.table, set, c.sticky[set]), nil)
		}
		for _, set := range c.forget {
			tx.conn.FlushSet(&nftables.Set{Table: tx.table, Name: set})
		}
		for _, ch := range c.chains {
			tx.addChain(ch)
		}
		for _, f := range c.unpoint {
			put(removed, tx.sets.of(f), nftables.SetElement{Key: frontendKey(f)})
		}
		for _, p := range c.point {
			s, key := tx.sets.of(p.frontend), frontendKey(p.frontend)
			if p.replaces {
				put(removed, s, nftables.SetElement{Key: key})
			}
			put(added, s, nftables.SetElement{Key: key, VerdictData: verdictData(p.verdict)})
		}
		for _, a := range c.addresses {
			put(added, tx.sets.ofAddress(a), nftables.SetElement{Key: a.AsSlice()})
		}
		for _, a := range c.gone {
			put(removed, tx.sets.ofAddress(a), nftables.SetElement{Key: a.AsSlice()})
		}
	}
	for name, elements := range removed {
		tx.deleteElements(byName[name], elements)
	}
	for name, elements := range added {
		tx.addElements(byName[name], elements)
	}
}

func (tx *transaction) addChain(ch chain) {
	c := tx.conn.AddChain(&nftables.Chain{Table: tx.table, Name: ch.name})
	var sources, backends *nftables.Set
	if len(ch.sources) > 0 {
		sources = &nftables.Set{Table: tx.table, Name: "__set%d", Anonymous: true, Constant: true, Interval: true, KeyType: addressType(ch.is4)}
		tx.addSet(sources, intervals(ch.sources))
	}
	if len(ch.backends) > fewBackends && len(ch.sticky) == 0 {
		backends = &nftables.Set{Table: tx.table, Name: "__map%d", Anonymous: true, Constant: true, IsMap: true,
			KeyType: nftables.TypeInteger, DataType: backendType(ch.is4), Size: uint32(len(ch.backends))}
		tx.addSet(backends, numbered(ch.backends))
	}
	for _, exprs := range ch.portRules(backends, sources) {
		tx.conn.AddRule(&nftables.Rule{Table: tx.table, Chain: c, Exprs: exprs})
	}
}

func (tx *transaction) remove(l leftovers) {
	for name := range l.chains {
		tx.conn.DelChain(&nftables.Chain{Table: tx.table, Name: name})
	}
	for name := range l.sticky {
		tx.conn.DelSet(&nftables.Set{Table: tx.table, Name: name})
	}
}

func verdictData(verdict string) *expr.Verdict {
	if verdict == drop {
		return &expr.Verdict{Kind: expr.VerdictDrop}
	}
	return &expr.Verdict{Kind: expr.VerdictGoto, Chain: verdict}
}
