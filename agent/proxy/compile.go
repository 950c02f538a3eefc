//go:build linux

package proxy

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/service"
)

// Verdicts for a frontend that is known but has no backend. Every other verdict is the name of a chain.
const (
	refuse = "refuse" // the chain that resets TCP and answers all else by ICMP
	drop   = "drop"   // not a chain
)

// chain picks a backend for the frontends of one port. It never changes: its name says what is in it, so a port that changes
// gets another chain, frontends are pointed to that, and the old one goes. So what the kernel has is known by names alone.
type chain struct {
	name     string
	is4      bool
	protocol service.Protocol
	backends []netip.AddrPort // at least one
	sources  []addrRange      // nil for all clients
	affinity time.Duration    // 0 for none
	sticky   []string         // with affinity, for each backend the name of the set of its clients
}

// compiled is what one Service asks of the table.
type compiled struct {
	chains    []chain
	frontends map[service.Frontend]string // verdicts
}

func compile(s service.Service) compiled {
	c := compiled{frontends: map[service.Frontend]string{}}
	seen := map[string]int{} // ports of one name: policies split them
	for _, p := range s.Ports {
		if len(p.Frontends) == 0 {
			continue
		}
		verdict := refuse
		is4, protocol := p.Frontends[0].Address.Is4(), p.Frontends[0].Protocol
		label := portLabel(s.Name, p.Name, protocol, is4)
		n := seen[label]
		seen[label]++
		switch ch := newChain(label, n, is4, protocol, p); {
		case len(ch.backends) > 0:
			if !slices.ContainsFunc(c.chains, func(o chain) bool { return o.name == ch.name }) {
				c.chains = append(c.chains, ch)
			}
			verdict = ch.name
		case p.Drop:
			verdict = drop
		}
		for _, f := range p.Frontends {
			if _, taken := c.frontends[f]; !taken {
				c.frontends[f] = verdict
			}
		}
	}
	return c
}

func portLabel(service, port string, protocol service.Protocol, is4 bool) string {
	family := 6
	if is4 {
		family = 4
	}
	return fmt.Sprintf("%s/%s/%s%d", service, port, strings.ToLower(protocol.String()), family)
}

func newChain(label string, n int, is4 bool, protocol service.Protocol, p service.Port) chain {
	ch := chain{is4: is4, protocol: protocol, affinity: p.Affinity}
	for _, b := range p.Backends {
		if b.Address.Is4() == is4 {
			ch.backends = append(ch.backends, netip.AddrPortFrom(b.Address, b.Port))
		}
	}
	slices.SortFunc(ch.backends, netip.AddrPort.Compare)
	ch.backends = slices.Compact(ch.backends)
	if p.Sources != nil {
		if ch.sources = ranges(p.Sources, is4); everybody(ch.sources) {
			ch.sources = nil
		}
	}
	if ch.affinity > 0 {
		for _, b := range ch.backends {
			// Not with what else the port has, so that clients stay where they are when other backends come and go.
			ch.sticky = append(ch.sticky, fmt.Sprintf("%s%s-%d-%s", stickyPrefix, hashOf(b.String()), n, label))
		}
	}
	ch.name = chainPrefix + ch.hash() + "-" + label
	return ch
}

const (
	chainPrefix  = "port-"
	stickyPrefix = "sticky-"
)

// hash of all that becomes rules. Two chains of one port need different hashes, so 50 bits are plenty.
func (c chain) hash() string {
	return hashOf(rulesVersion, c.affinity, c.sticky, c.backends, c.sources != nil, c.sources)
}

func hashOf(what ...any) string {
	h := sha256.Sum256(fmt.Append(nil, what...))
	return strings.ToLower(base32.StdEncoding.EncodeToString(h[:]))[:10]
}
