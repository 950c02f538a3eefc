//go:build linux

package path

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"

	"github.com/berthdev/berth/agent/report"
)

// wantedRuleset is false if nobody knows it.
func (s *scene) wantedRuleset() (ruleset, bool) {
	if s.want == nil || s.want.Prefixes == nil {
		return ruleset{}, false
	}
	r := desiredRuleset(*s.want.Prefixes, s.want.Multihomed, s.own, s.present)
	if s.want.Others != nil {
		r.kept = desiredKept(*s.want.Others, s.onLink(*s.want.Others))
	}
	return r, true
}

// present vmacs.
func (s *scene) present(yield func(*vmac) bool) {
	for _, v := range s.vmacs {
		if v.link != nil && !yield(v.vmac) {
			return
		}
	}
}

// examineTenants compares the table that keeps tenants apart.
func (s *scene) examineTenants(conn *nftables.Conn) ([]report.Finding, error) {
	rules, there, err := readTenants(conn)
	if err != nil {
		return nil, fmt.Errorf("nftables: read table inet berth-tenants: %w", err)
	}
	should := desiredIsolation(s.want.Tenants, s.present).comments()
	switch {
	case there && len(should) == 0:
		return []report.Finding{bad(checkTable, mended, "table inet berth-tenants: it is there, and nobody is to be kept apart")}, nil
	case !slices.Equal(comments(rules), should):
		return []report.Finding{bad(checkTable, mended, "table inet berth-tenants: it has %d rules that are not the %d wanted: tenants are not kept apart on this node",
			len(rules), len(should))}, nil
	case there:
		return []report.Finding{ok(checkTable, "table inet berth-tenants: %d rules", len(rules))}, nil
	}
	return nil, nil
}

func (s *scene) examineTable() ([]report.Finding, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	have, err := readTable(conn)
	if err != nil {
		return nil, fmt.Errorf("nftables: read table inet berth: %w", err)
	}
	want, known := s.wantedRuleset()
	if !known {
		return nil, nil
	}
	should := expected(want)
	var found []report.Finding
	add := func(format string, args ...any) {
		found = append(found, bad(checkTable, mended, "table inet berth: %s", fmt.Sprintf(format, args...)))
	}
	switch {
	case len(want.vmacs) == 0 && !have.equal(should):
		add("it is there, and no vmac is")
	case len(want.vmacs) > 0 && have.equal(tableState{}):
		add("it does not exist: what pods send to Services is not masqueraded, and answers do not come back")
	default:
		if !slices.Equal(have.links, should.links) {
			add("set vmacs has %q, not %q", have.links, should.links)
		}
		if !slices.Equal(have.multihomed, should.multihomed) {
			add("the sets of multihomed pods have %v, not %v", have.multihomed, should.multihomed)
		}
		if !slices.Equal(have.postrouting, should.postrouting) {
			add("chain postrouting has %d rules that are not the %d wanted", len(have.postrouting), len(should.postrouting))
		}
	}
	apart, err := s.examineTenants(conn)
	return append(orOK(found, checkTable, "table inet berth: %d rules for %q", len(have.postrouting), have.links), apart...), err
}

func (s *scene) examineForward() ([]report.Finding, error) {
	chains, err := droppingForward()
	if err != nil {
		return nil, err
	}
	if len(chains) > 0 && len(s.vmacs) > 0 {
		return []report.Finding{warn(checkForward, `if pods do not reach Services on other nodes, have it accept what comes in by, or leaves to, "vmac*"`,
			"a firewall drops what it forwards unless a rule accepts it: chain %s", strings.Join(chains, ", "))}, nil
	}
	return []report.Finding{ok(checkForward, "no chain of nftables or iptables-nft drops forwarded packets by default")}, nil
}
