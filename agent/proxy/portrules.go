//go:build linux

package proxy

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/service"
)

// maxClients of one backend with affinity. What does not fit is served without.
const maxClients = 65536

// fewBackends need no map. A map is one lookup however many there are; but the kernel goes through a list of all sets of a table for
// each that it makes, finds or ends: with one for each of 10,000 Services it took 10 s to make them. (One map for all ports is worse:
// each rule that uses it is checked against each of its elements.) A rule takes some 20 ns of a connection's first packet.
const fewBackends = 16

// portRules are the rules of a port's chain. With sources, first
//
//	ip saddr != { 10.0.0.0/8 } drop
//
// and then, with few backends, or with many,
//
//	numgen random mod 2 0 dnat ip to 10.1.0.4:80                                          few
//	dnat ip to 10.1.0.5:80
//	dnat ip to numgen random mod 100 map { 0 : 10.1.0.4 . 80, 1 : 10.1.0.5 . 80, … }      many
//
// or, with affinity, for each backend a rule for those who are its clients, and then one for those who become one:
//
//	ip saddr @sticky-a update @sticky-a { ip saddr timeout 3h } dnat ip to 10.1.0.4:80
//	ip saddr @sticky-b update @sticky-b { ip saddr timeout 3h } dnat ip to 10.1.0.5:80
//	numgen random mod 2 0 update @sticky-a { ip saddr timeout 3h } dnat ip to 10.1.0.4:80
//	update @sticky-b { ip saddr timeout 3h } dnat ip to 10.1.0.5:80
//
// (A map from client to backend would do with two rules for all. But the nft of Debian 12 aborts when it lists a rule that puts
// something looked up into a map.) An update that finds no room ends its rule, so in the end there is one that does without.
func (c chain) portRules(backends, sources *nftables.Set) (rules [][]expr.Any) {
	protocol := append([]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}}, equal([]byte{byte(c.protocol)})...)
	client := slices.Concat(isFamily(c.is4), saddr(c.is4, reg1))
	if c.sources != nil {
		var others []expr.Any
		if sources != nil { // else nobody may come
			others = slices.Concat(client, []expr.Any{&expr.Lookup{SourceRegister: reg1, SetName: sources.Name, SetID: sources.ID, Invert: true}})
		}
		rules = append(rules, append(others, verdict(expr.VerdictDrop, "")...))
	}
	one := func(b netip.AddrPort) []expr.Any {
		return slices.Concat([]expr.Any{
			&expr.Immediate{Register: reg1, Data: b.Addr().AsSlice()},
			&expr.Immediate{Register: portRegister(c.is4), Data: binaryutil.BigEndian.PutUint16(b.Port())},
		}, c.translate())
	}
	if backends != nil {
		return append(rules, slices.Concat(protocol, random(len(c.backends)), []expr.Any{
			&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: backends.Name, SetID: backends.ID},
		}, c.translate()))
	}
	update := func(i int) (u []expr.Any) {
		if len(c.sticky) > 0 {
			u = append(slices.Clip(client), &expr.Dynset{SrcRegKey: reg1, SetName: c.sticky[i], Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: c.affinity})
		}
		return u
	}
	for i := range c.sticky {
		rules = append(rules, slices.Concat(protocol, client, []expr.Any{&expr.Lookup{SourceRegister: reg1, SetName: c.sticky[i]}},
			update(i), one(c.backends[i])))
	}
	for i, b := range c.backends {
		var chosen []expr.Any
		if left := len(c.backends) - i; left > 1 {
			chosen = append(random(left), equal(make([]byte, 4))...)
		}
		rules = append(rules, slices.Concat(protocol, chosen, update(i), one(b)))
	}
	if len(c.sticky) > 0 {
		rules = append(rules, slices.Concat(protocol, one(c.backends[0])))
	}
	return rules
}

func random(n int) []expr.Any {
	return []expr.Any{&expr.Numgen{Register: reg1, Modulus: uint32(n), Type: unix.NFT_NG_RANDOM}}
}

// translate to the backend in register 1 and what follows it.
func (c chain) translate() []expr.Any {
	family := uint32(unix.NFPROTO_IPV6)
	if c.is4 {
		family = unix.NFPROTO_IPV4
	}
	return []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: reg1, RegProtoMin: portRegister(c.is4)}}
}

// portRegister is what follows an address in register 1.
func portRegister(is4 bool) uint32 {
	if is4 {
		return word + 1
	}
	return word + 4
}

func addressType(is4 bool) nftables.SetDatatype {
	if is4 {
		return nftables.TypeIPAddr
	}
	return nftables.TypeIP6Addr
}

func backendType(is4 bool) nftables.SetDatatype {
	if is4 {
		return typeBackend4
	}
	return typeBackend6
}

// stickySet has the clients of one backend, as long as they are to stay.
func stickySet(t *nftables.Table, name string, is4 bool) *nftables.Set {
	return &nftables.Set{Table: t, Name: name, KeyType: addressType(is4), Dynamic: true, HasTimeout: true, Size: maxClients}
}

// numbered backends, by the numbers that numgen makes. (nft shows them with their bytes turned, as the library says the wrong order.)
func numbered(backends []netip.AddrPort) []nftables.SetElement {
	elements := make([]nftables.SetElement, len(backends))
	for i, b := range backends {
		elements[i] = nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(i)), Val: backendData(b)}
	}
	return elements
}

func backendData(b netip.AddrPort) []byte {
	port := b.Port()
	return append(b.Addr().AsSlice(), byte(port>>8), byte(port), 0, 0)
}

// frontendKey is the element of a frontend, see sets.of.
func frontendKey(f service.Frontend) []byte {
	var key []byte
	if !f.NodePort() {
		key = f.Address.AsSlice()
	}
	return append(key, byte(f.Protocol), 0, 0, 0, byte(f.Port>>8), byte(f.Port), 0, 0)
}

// toFrontend is its inverse; any is the unspecified address of the family.
func toFrontend(key []byte, any netip.Addr) (service.Frontend, bool) {
	if len(key) < 8 {
		return service.Frontend{}, false
	}
	n := len(key) - 8
	address := any
	if n > 0 {
		var ok bool
		if address, ok = netip.AddrFromSlice(key[:n]); !ok {
			return service.Frontend{}, false
		}
	}
	return service.Frontend{Address: address, Protocol: service.Protocol(key[n]), Port: uint16(key[n+4])<<8 | uint16(key[n+5])}, true
}

// intervals are as the kernel has them: where each begins, and where it is over.
func intervals(all []addrRange) (elements []nftables.SetElement) {
	for _, r := range all {
		elements = append(elements, nftables.SetElement{Key: r.first.AsSlice()})
		if next := r.last.Next(); next.IsValid() {
			elements = append(elements, nftables.SetElement{Key: next.AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}
