//go:build linux

package path

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

func berthTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: "berth"}
}

func postroutingChain(t *nftables.Table) *nftables.Chain {
	return &nftables.Chain{Table: t, Name: "postrouting", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting,
		// Just before everybody else's source translation; whatever accepts here is still theirs to decide.
		Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 1)}
}

// masquerade makes the table as wanted, in one transaction, and only if it differs: a replaced table changes nothing for
// connections that are translated already. Without vmacs there is no table. It says whether there was something to do.
func masquerade(want ruleset) (changed bool, err error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("nftables: %w", err)
	}
	have, err := readTable(conn)
	if err != nil {
		return false, fmt.Errorf("nftables: read table inet berth: %w", err)
	}
	if have.equal(expected(want)) {
		return false, nil
	}
	t := conn.AddTable(berthTable()) // so that the deletion never fails
	conn.DelTable(t)
	if len(want.vmacs) > 0 {
		if err := addTable(conn, want); err != nil {
			return false, fmt.Errorf("nftables: table inet berth: %w", err)
		}
	}
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("nftables: replace table inet berth: %w; the kernel needs nf_tables with nat and masquerade "+
			"in the inet family", err)
	}
	return true, nil
}

func addTable(conn *nftables.Conn, want ruleset) error {
	t := conn.AddTable(berthTable())
	vmacs := vmacSet(t)
	elements := make([]nftables.SetElement, 0, len(want.vmacs))
	for _, name := range want.vmacs {
		elements = append(elements, nftables.SetElement{Key: linkElement(name)})
	}
	if err := conn.AddSet(vmacs, elements); err != nil {
		return err
	}
	multihomed := want.multihomedSets(t)
	for is4, set := range multihomed {
		var elements []nftables.SetElement
		for _, a := range want.multihomed {
			if a.Is4() == is4 {
				elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
			}
		}
		if err := conn.AddSet(set, elements); err != nil {
			return err
		}
	}
	chain := conn.AddChain(postroutingChain(t))
	for _, r := range want.postrouting(vmacs, multihomed) {
		conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: r.exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment)})
	}
	return nil
}

// tableState is as much of the table as shows whether someone else has changed it.
type tableState struct {
	links       []string     // elements of the set
	multihomed  []netip.Addr // elements of the sets
	postrouting []string     // comments of the rules
}

func (s tableState) equal(o tableState) bool {
	return slices.Equal(s.links, o.links) && slices.Equal(s.multihomed, o.multihomed) && slices.Equal(s.postrouting, o.postrouting)
}

func expected(want ruleset) (s tableState) {
	if len(want.vmacs) == 0 {
		return s
	}
	s.links = slices.Sorted(slices.Values(want.vmacs))
	s.multihomed = slices.Clone(want.multihomed)
	slices.SortFunc(s.multihomed, netip.Addr.Compare)
	for _, r := range want.postrouting(&nftables.Set{}, want.multihomedSets(nil)) {
		s.postrouting = append(s.postrouting, r.comment)
	}
	return s
}

func readTable(conn *nftables.Conn) (s tableState, err error) {
	t := berthTable()
	if _, err := conn.ListTableOfFamily(t.Name, t.Family); errors.Is(err, unix.ENOENT) {
		return s, nil
	} else if err != nil {
		return s, err
	}
	rules, err := conn.GetRules(t, postroutingChain(t))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return s, err
	}
	for _, r := range rules {
		comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
		s.postrouting = append(s.postrouting, comment)
	}
	vmacs := vmacSet(t)
	elements, err := conn.GetSetElements(vmacs)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return s, err
	}
	for _, e := range elements {
		s.links = append(s.links, string(bytes.TrimRight(e.Key, "\x00")))
	}
	slices.Sort(s.links)
	sets, err := conn.GetSets(t)
	if err != nil {
		return s, err
	}
	for _, set := range sets {
		if set.Name == vmacs.Name {
			continue
		}
		elements, err := conn.GetSetElements(set)
		if err != nil {
			return s, err
		}
		for _, e := range elements {
			if a, ok := netip.AddrFromSlice(e.Key); ok {
				s.multihomed = append(s.multihomed, a)
			}
		}
	}
	slices.SortFunc(s.multihomed, netip.Addr.Compare)
	if len(s.links)+len(s.postrouting) == 0 {
		s.links = []string{""} // an empty table differs from none
	}
	return s, nil
}

// droppingForward names the filter chains of others that drop what they forward unless some rule of theirs accepts it. Docker
// and firewalls make such, and nothing in a table of ours can overrule them. Only nftables' (and iptables-nft's) are seen.
func droppingForward() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, fmt.Errorf("nftables: list chains: %w", err)
		}
		for _, c := range chains {
			if c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
				names = append(names, c.Table.Name+"/"+c.Name)
			}
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(names))), nil
}
