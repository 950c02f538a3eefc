//go:build linux

package path

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleset is the content of Berth's table. What came in by a vmac and leaves this node must come back to this node, since a
// macvlan pod answers, and is answered, on the underlay directly, and then half of the connection is never seen here:
//
//	destination, after the Service's translation | source seen there
//	overlay pod, this node                       | the client pod's   (its way back is by this node anyway)
//	the same, with a macvlan interface besides   | this node's        (it would answer by that, past this node)
//	overlay pod, other node, Service or not      | this node's
//	the same, of a node with owner routes        | the client pod's   (see OtherNode)
//	macvlan pod, any node, the client included   | this node's
//	another node or beyond, Service or not       | this node's
//	this node                                    | the client pod's   (never comes to postrouting)
//	a cluster IP that nobody has translated      | nobody             (dropped: see unserved)
//
// kube-proxy comes after this table, and an accept here does not stop it: told the pod CIDRs (clusterCIDR, which kubeadm
// sets), it masquerades what comes to a ClusterIP from outside of them. Then the first line holds without Services only.
//
// And what a Service sends to a macvlan interface besides, from whichever client, has this node's address: to an overlay
// client on this node the pod would answer by the overlay, past the translation.
type ruleset struct {
	vmacs []string // names of our links, not a pattern: a foreign link may be named vmac-something
	// unserved are the CIDRs of cluster IPs, if they are translated on this node or not at all. Whoever does so may be late: kube-proxy with
	// iptables and 10,000 Services takes minutes. What left the node until then would be known to conntrack as untranslated, for two
	// minutes and past all rules. Dropped here it is not known, and the client's next try finds what rules there are.
	unserved []netip.Prefix
	local    []netip.Prefix // pod CIDRs of this node
	sources  []vmacSource   // which address of this node is seen behind each vmac
	// multihomed are all addresses of this node's pods that have a macvlan interface besides the overlay's.
	multihomed []netip.Addr
	kept       []netip.Prefix // pod CIDRs of other nodes, which answer by this one
}

// vmacSource is for what leaves by a vmac, which has no address of its own. Left alone, masquerade would choose some
// address of the first link that has any, and not every pod can answer to that one.
type vmacSource struct {
	link   string
	source netip.Addr
}

func (s vmacSource) compare(o vmacSource) int {
	return cmp.Or(strings.Compare(s.link, o.link), s.source.Compare(o.source))
}

// rulesVersion changes with the rules' meaning, so that an upgraded agent replaces what its predecessor left.
const rulesVersion = "4"

type rule struct {
	comment string // says all that is in the expressions: two rules of one comment are the same rule
	exprs   []expr.Any
}

func (r ruleset) postrouting(vmacs *nftables.Set, multihomed map[bool]*nftables.Set) []rule {
	var rules []rule
	add := func(comment string, exprs ...[]expr.Any) {
		rules = append(rules, rule{"berth/" + rulesVersion + " " + comment, slices.Concat(exprs...)})
	}
	for _, p := range r.unserved {
		add(fmt.Sprintf("nobody has translated %s", p), inputIs(vmacs), destination(p), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
	}
	for _, s := range r.sources {
		if set := multihomed[s.source.Is4()]; set != nil {
			add(fmt.Sprintf("Services by %s to multihomed pods: from %s", s.link, s.source),
				outputIs(s.link), translated(), destinationIn(set), from(s.source))
		}
	}
	for _, is4 := range []bool{true, false} {
		if set := multihomed[is4]; set != nil {
			add("to "+set.Name+" pods: must come back here", inputIs(vmacs), destinationIn(set), []expr.Any{&expr.Masq{FullyRandom: true}})
		}
	}
	for _, p := range r.local {
		add(fmt.Sprintf("to %s: pods of this node see the client", p),
			inputIs(vmacs), destination(p), []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}})
	}
	for _, p := range r.kept {
		add(fmt.Sprintf("to %s: pods of a node with owner routes see the client", p),
			inputIs(vmacs), destination(p), []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}})
	}
	for _, s := range r.sources {
		load, family := familyOf(s.source)
		add(fmt.Sprintf("by %s: from %s", s.link, s.source),
			inputIs(vmacs), outputIs(s.link), equal(load, family), from(s.source))
	}
	// Fully random ports, as kube-proxy does: concurrent flows must not fail over one port (DNS with A and AAAA at once).
	add("all else must come back here", inputIs(vmacs), []expr.Any{&expr.Masq{FullyRandom: true}})
	return rules
}

// inputIs matches the input link, which postrouting knows since kernel 5.7.
func inputIs(vmacs *nftables.Set) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: vmacs.Name, SetID: vmacs.ID},
	}
}

func outputIs(link string) []expr.Any {
	return equal(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, linkElement(link)...)
}

func familyOf(a netip.Addr) (load expr.Any, value byte) {
	load = &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}
	if a.Is6() {
		return load, unix.NFPROTO_IPV6
	}
	return load, unix.NFPROTO_IPV4
}

// from sets the source address.
func from(source netip.Addr) []expr.Any {
	_, family := familyOf(source)
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: source.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(family), RegAddrMin: 1, FullyRandom: true},
	}
}

// translated matches connections whose destination was translated: to a Service.
func translated() []expr.Any {
	status := binaryutil.NativeEndian.PutUint32(ctStatusDNAT)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: status, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// ctStatusDNAT is IPS_DST_NAT (linux/netfilter/nf_conntrack_common.h).
const ctStatusDNAT = 1 << 5

func destinationIn(set *nftables.Set) []expr.Any {
	any := netip.IPv6Unspecified()
	if set.KeyType == nftables.TypeIPAddr {
		any = netip.IPv4Unspecified()
	}
	load, family := familyOf(any)
	return slices.Concat(equal(load, family), []expr.Any{
		loadDestination(family),
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
	})
}

func loadDestination(family byte) *expr.Payload {
	offset, size := uint32(16), uint32(4) // of daddr in the header
	if family == unix.NFPROTO_IPV6 {
		offset, size = 24, 16
	}
	return &expr.Payload{Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size, DestRegister: 1}
}

func destination(p netip.Prefix) []expr.Any {
	load, family := familyOf(p.Addr())
	daddr := loadDestination(family)
	return slices.Concat(
		equal(load, family),
		[]expr.Any{
			daddr,
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: daddr.Len, Mask: mask(p.Bits(), int(daddr.Len)), Xor: make([]byte, daddr.Len)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
		})
}

func equal(load expr.Any, value ...byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value}}
}

func mask(ones, size int) []byte {
	m := make([]byte, size)
	for i := range ones {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// vmacSet is the named set of our links.
func vmacSet(table *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: table, Name: "vmacs", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
}

// multihomedSets are the named sets of the families that have such addresses, by Is4.
func (r ruleset) multihomedSets(table *nftables.Table) map[bool]*nftables.Set {
	sets := map[bool]*nftables.Set{}
	for _, a := range r.multihomed {
		sets[a.Is4()] = multihomedSet(table, a.Is4())
	}
	return sets
}

func multihomedSet(table *nftables.Table, is4 bool) *nftables.Set {
	if is4 {
		return &nftables.Set{Table: table, Name: "multihomed4", KeyType: nftables.TypeIPAddr}
	}
	return &nftables.Set{Table: table, Name: "multihomed6", KeyType: nftables.TypeIP6Addr}
}

func linkElement(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// Why a destination sees the source that it does, or none.
const (
	toMultihomed = "a pod with a macvlan interface besides: it would answer by that"
	toLocal      = "an overlay pod of this node: the way back is by this node anyway"
	toKept       = "an overlay pod of a node with owner routes: it answers by this node"
	toSibling    = "a pod on the same link: it would answer its neighbour directly"
	toOthers     = "not on this node: the answer has to come back here"

	toOtherTenant = "another netspace's, which pods that came by a vmac of none of its links do not reach (table inet berth-tenants)"
)

// decide is what postrouting does, told in words: the source of what came in by one of our links and leaves by out; the zero Addr
// stands for masquerade, and with toLocal and toKept for the source that it has.
func (r ruleset) decide(out string, to netip.Addr, translated bool) (source netip.Addr, why string) {
	var sibling netip.Addr
	for _, s := range r.sources {
		if s.link == out && s.source.Is4() == to.Is4() {
			sibling = s.source
		}
	}
	switch {
	case slices.Contains(r.multihomed, to) && translated && sibling.IsValid():
		return sibling, toMultihomed
	case slices.Contains(r.multihomed, to):
		return netip.Addr{}, toMultihomed
	case covered(to, r.local):
		return netip.Addr{}, toLocal
	case covered(to, r.kept):
		return netip.Addr{}, toKept
	case sibling.IsValid():
		return sibling, toSibling
	}
	return netip.Addr{}, toOthers
}
