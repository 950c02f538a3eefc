//go:build linux

package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/berthdev/berth/service"
)

// rulesVersion changes with the meaning of any rule, set or name, so that an upgraded agent replaces what its predecessor left.
const rulesVersion = "2"

func ownTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: "berth-services"}
}

var (
	typeKey4     = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	typeKey6     = nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetProto, nftables.TypeInetService)
	typePort     = nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	typeBackend4 = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	typeBackend6 = nftables.MustConcatSetType(nftables.TypeIP6Addr, nftables.TypeInetService)
)

// sets are what the table always has.
type sets struct {
	vmacs                  *nftables.Set
	services4, services6   *nftables.Set // daddr . l4proto . dport → chain
	nodeports4, nodeports6 *nftables.Set // l4proto . dport → chain
	addresses4, addresses6 *nftables.Set // of all frontends but NodePorts
}

func newSets(t *nftables.Table) sets {
	vmap := func(name string, key nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: t, Name: name, KeyType: key, IsMap: true, DataType: nftables.TypeVerdict}
	}
	return sets{
		vmacs:      &nftables.Set{Table: t, Name: "vmacs", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian},
		services4:  vmap("services4", typeKey4),
		services6:  vmap("services6", typeKey6),
		nodeports4: vmap("nodeports4", typePort),
		nodeports6: vmap("nodeports6", typePort),
		addresses4: &nftables.Set{Table: t, Name: "addresses4", KeyType: nftables.TypeIPAddr},
		addresses6: &nftables.Set{Table: t, Name: "addresses6", KeyType: nftables.TypeIP6Addr},
	}
}

func (s sets) all() []*nftables.Set {
	return []*nftables.Set{s.vmacs, s.services4, s.services6, s.nodeports4, s.nodeports6, s.addresses4, s.addresses6}
}

// of is where a frontend is looked up.
func (s sets) of(f service.Frontend) *nftables.Set {
	switch is4 := f.Address.Is4(); {
	case f.NodePort() && is4:
		return s.nodeports4
	case f.NodePort():
		return s.nodeports6
	case is4:
		return s.services4
	default:
		return s.services6
	}
}

func (s sets) ofAddress(a netip.Addr) *nftables.Set {
	if a.Is4() {
		return s.addresses4
	}
	return s.addresses6
}

// Register 1 has 16 bytes. They are the words 8 to 11, too.
const (
	reg1 = 1
	word = 8
)

type rule struct {
	comment string // of a base chain: says all that is in the expressions
	exprs   []expr.Any
}

// baseChain is one that is always there.
type baseChain struct {
	*nftables.Chain
	rules []rule
}

// baseChains are what a connection's first packet meets. All are of type nat: to later ones conntrack does at once what was decided. Rules
// that look at each packet cost a tenth of a pod's round trips.
//
//	prerouting  nat, just before everybody else's destination translation: once for each connection that comes in by a vmac,
//	            to the chain of its Service's port
//	unserved    after that: what still is for a cluster IP. Of a Service that exists it is refused; else it is dropped, so that who is
//	            faster than its Service's way to this node tries again. Without this it would leave by the default route. What conntrack
//	            does not track does not come by: NodeLocal DNSCache answers at a cluster IP
//	refuse      a reset, or port unreachable
func baseChains(t *nftables.Table, s sets, cidrs []netip.Prefix) []baseChain {
	var first, unserved []rule
	add := func(to *[]rule, comment string, exprs ...[]expr.Any) {
		*to = append(*to, rule{"berth/" + rulesVersion + " " + comment, slices.Concat(exprs...)})
	}
	add(&first, "only what pods send by a vmac", inputIs(s.vmacs, true), verdict(expr.VerdictAccept, ""))
	add(&first, "", isFamily(true), daddr(true, reg1), portKey(word+1, word+2), vmap(s.services4))
	add(&first, "", isFamily(false), daddr(false, reg1), portKey(word+4, word+5), vmap(s.services6))
	add(&first, "NodePorts are of this node's addresses only",
		[]expr.Any{&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true}}, equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
		isFamily(true), portKey(word, word+1), vmap(s.nodeports4))
	add(&first, "NodePorts are of this node's addresses only",
		[]expr.Any{&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true}}, equal(binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
		isFamily(false), portKey(word, word+1), vmap(s.nodeports6))
	for _, p := range cidrs {
		is4 := p.Addr().Is4()
		set := s.addresses6
		if is4 {
			set = s.addresses4
		}
		add(&unserved, fmt.Sprintf("no such port in %s", p), inputIs(s.vmacs, false), to(p), daddr(is4, reg1), in(set),
			verdict(expr.VerdictGoto, refuse))
		add(&unserved, fmt.Sprintf("no Service in %s", p), inputIs(s.vmacs, false), to(p), verdict(expr.VerdictDrop, ""))
	}
	var refusing []rule
	add(&refusing, "", []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}}, equal([]byte{unix.IPPROTO_TCP}),
		[]expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	add(&refusing, "", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
	return []baseChain{
		{&nftables.Chain{Table: t, Name: refuse}, refusing},
		{&nftables.Chain{Table: t, Name: "prerouting", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting,
			Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest - 1)}, first},
		{&nftables.Chain{Table: t, Name: "unserved", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting,
			Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest + 1)}, unserved},
	}
}

// inputIs matches the input link.
func inputIs(vmacs *nftables.Set, not bool) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg1},
		&expr.Lookup{SourceRegister: reg1, SetName: vmacs.Name, SetID: vmacs.ID, Invert: not},
	}
}

func isFamily(is4 bool) []expr.Any {
	family := byte(unix.NFPROTO_IPV6)
	if is4 {
		family = unix.NFPROTO_IPV4
	}
	return append([]expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1}}, equal([]byte{family})...)
}

// equal compares register 1.
func equal(value []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: value}}
}

func daddr(is4 bool, reg uint32) []expr.Any { return loadAddress(is4, 16, 24, reg) }
func saddr(is4 bool, reg uint32) []expr.Any { return loadAddress(is4, 12, 8, reg) }

func loadAddress(is4 bool, offset4, offset6, reg uint32) []expr.Any {
	p := &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset6, Len: 16, DestRegister: reg}
	if is4 {
		p.Offset, p.Len = offset4, 4
	}
	return []expr.Any{p}
}

// portKey loads protocol and destination port. In the header of anything but TCP, UDP and SCTP that is another field, and the
// protocol keeps it from being found.
func portKey(protocol, port uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: protocol},
		&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: port},
	}
}

func to(p netip.Prefix) []expr.Any {
	is4, size := p.Addr().Is4(), uint32(p.Addr().BitLen()/8)
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return slices.Concat(isFamily(is4), daddr(is4, reg1), []expr.Any{
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: size, Mask: mask, Xor: make([]byte, size)},
	}, equal(p.Masked().Addr().AsSlice()))
}

func in(set *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg1, SetName: set.Name, SetID: set.ID}}
}

func vmap(m *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg1, IsDestRegSet: true, SetName: m.Name, SetID: m.ID}}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}
