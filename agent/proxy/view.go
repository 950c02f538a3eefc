//go:build linux

package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/berthdev/berth/service"
)

// View is what the kernel has of the table, read once. It changes nothing.
type View struct{ have *state }

// Open reads the table, whoever made it.
func Open() (*View, error) {
	have, _, err := read()
	if err != nil {
		return nil, err
	}
	return &View{have}, nil
}

// There says whether there is a table.
func (v *View) There() bool { return len(v.have.base) > 0 }

// Faults are what the table has otherwise than an agent with these links and service CIDRs would have it, its Services apart.
func (v *View) Faults(links []string, cidrs []netip.Prefix) (faults []string) {
	links = slices.Sorted(slices.Values(links))
	if !slices.Equal(v.have.links, links) {
		faults = append(faults, fmt.Sprintf("set vmacs has %q, not %q", v.have.links, links))
	}
	cidrs = slices.Clone(cidrs)
	slices.SortFunc(cidrs, func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) })
	if known := (base{cidrs: cidrs}).known(); !slices.Equal(v.have.base, known) {
		faults = append(faults, fmt.Sprintf("its base chains differ: %q, not %q", v.have.base, known))
	}
	for f, verdict := range v.have.frontends {
		if strings.HasPrefix(verdict, chainPrefix) && !v.have.chains[verdict] {
			faults = append(faults, fmt.Sprintf("%s leads to a chain %s that does not exist", f, verdict))
		}
	}
	return faults
}

// Services is how many frontends it serves.
func (v *View) Services() int { return len(v.have.frontends) }

// Answer is what the table does with a new connection that comes in by a vmac.
type Answer struct {
	Known    bool             // it has the frontend
	Address  bool             // it knows the address; another port of it is refused
	Drop     bool             // no answer
	Backends []netip.AddrPort // any of them, by chance; none: refused, unless Drop
	Affinity time.Duration    // ClientIP affinity; 0 for none
	Sources  bool             // only some clients may come
}

// Lookup a frontend; local says that the address is this node's, which NodePorts are for.
func (v *View) Lookup(f service.Frontend, local bool) (a Answer, err error) {
	a.Address = v.have.addresses[f.Address]
	verdict := v.have.frontends[f]
	if verdict == "" && local {
		any := netip.IPv6Unspecified()
		if f.Address.Is4() {
			any = netip.IPv4Unspecified()
		}
		verdict = v.have.frontends[service.Frontend{Address: any, Port: f.Port, Protocol: f.Protocol}]
	}
	switch a.Known = verdict != ""; verdict {
	case "", refuse:
		return a, nil
	case drop:
		a.Drop = true
		return a, nil
	}
	return a, a.readChain(verdict, f.Address.Is4())
}

// readChain is the inverse of portRules.
func (a *Answer) readChain(name string, is4 bool) error {
	conn, err := connect()
	if err != nil {
		return err
	}
	t := ownTable()
	rules, err := conn.GetRules(t, &nftables.Chain{Table: t, Name: name})
	if err != nil {
		return fmt.Errorf("nftables: rules of chain %s: %w", name, err)
	}
	for _, r := range rules {
		var address netip.Addr
		for _, e := range r.Exprs {
			switch e := e.(type) {
			case *expr.Immediate:
				if at, ok := netip.AddrFromSlice(e.Data); ok && at.Is4() == is4 && e.Register == reg1 {
					address = at
				} else if len(e.Data) == 2 && address.IsValid() {
					a.Backends = append(a.Backends, netip.AddrPortFrom(address, uint16(e.Data[0])<<8|uint16(e.Data[1])))
				}
			case *expr.Dynset:
				a.Affinity = e.Timeout
			case *expr.Verdict:
				a.Sources = a.Sources || e.Kind == expr.VerdictDrop
			case *expr.Lookup:
				if e.IsDestRegSet {
					if err := a.readBackends(conn, t, e, is4); err != nil {
						return err
					}
				}
			}
		}
	}
	slices.SortFunc(a.Backends, netip.AddrPort.Compare)
	a.Backends = slices.Compact(a.Backends)
	return nil
}

// readBackends reads the map of a port with many.
func (a *Answer) readBackends(conn *nftables.Conn, t *nftables.Table, at *expr.Lookup, is4 bool) error {
	elements, err := conn.GetSetElements(&nftables.Set{Table: t, Name: at.SetName, ID: at.SetID, IsMap: true,
		KeyType: nftables.TypeInteger, DataType: backendType(is4)})
	if err != nil {
		return fmt.Errorf("nftables: elements of %s: %w", at.SetName, err)
	}
	size := map[bool]int{true: 4, false: 16}[is4]
	for _, e := range elements {
		if len(e.Val) < size+2 {
			continue
		}
		address, _ := netip.AddrFromSlice(e.Val[:size])
		a.Backends = append(a.Backends, netip.AddrPortFrom(address, uint16(e.Val[size])<<8|uint16(e.Val[size+1])))
	}
	return nil
}

// Serves says whether what comes in by the link is served.
func (v *View) Serves(link string) bool { return slices.Contains(v.have.links, link) }
