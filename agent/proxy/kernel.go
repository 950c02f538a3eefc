//go:build linux

package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// base is what the table has whatever Services there are.
type base struct {
	links []string       // of vmacs
	cidrs []netip.Prefix // of cluster IPs
}

// known is by what the base chains are compared.
func (b base) known() (all []string) {
	t := ownTable()
	for _, c := range baseChains(t, newSets(t), b.cidrs) {
		all = append(all, chainLine(c.Chain))
		for _, r := range c.rules {
			all = append(all, r.comment)
		}
	}
	return all
}

// chainMark begins the lines that are no comments.
const chainMark = "chain "

func chainLine(c *nftables.Chain) string {
	if c.Hooknum == nil || c.Priority == nil {
		return chainMark + c.Name
	}
	return fmt.Sprintf(chainMark+"%s %s %d %d", c.Name, c.Type, *c.Hooknum, *c.Priority)
}

const sizeofNfgenmsg = 4 // linux/netfilter/nfnetlink.h

// generation of the whole ruleset: each transaction of anybody counts it up by one.
func generation() (uint32, error) {
	replies, err := ask(unix.NFT_MSG_GETGEN, nftables.TableFamilyUnspecified)
	if err != nil {
		return 0, fmt.Errorf("nftables: generation: %w", err)
	}
	for _, m := range replies {
		attrs, err := netlink.NewAttributeDecoder(m.Data[sizeofNfgenmsg:])
		if err != nil {
			return 0, fmt.Errorf("nftables: generation: %w", err)
		}
		attrs.ByteOrder = binary.BigEndian
		for attrs.Next() {
			if attrs.Type() == unix.NFTA_GEN_ID {
				return attrs.Uint32(), nil
			}
		}
	}
	return 0, errors.New("nftables: the kernel does not say its generation")
}

// ask what the library does not, or does not tell the error of.
func ask(message netlink.HeaderType, family nftables.TableFamily, attrs ...netlink.Attribute) ([]netlink.Message, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	return conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | message, Flags: netlink.Request},
		Data:   append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, data...),
	})
}

// hasChain asks for one, in a table that may have ten thousands.
func hasChain(family nftables.TableFamily, table, chain string) (bool, error) {
	_, err := ask(unix.NFT_MSG_GETCHAIN, family,
		netlink.Attribute{Type: unix.NFTA_CHAIN_TABLE, Data: append([]byte(table), 0)},
		netlink.Attribute{Type: unix.NFTA_CHAIN_NAME, Data: append([]byte(chain), 0)})
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("nftables: chain %s of table %s: %w", chain, table, err)
	}
	return true, nil
}

// read what is there. A state without base is of no table, or of one that has to be made anew.
func read() (*state, uint32, error) {
	const tries = 10
	for i := 1; ; i++ {
		before, err := generation()
		if err != nil {
			return nil, 0, err
		}
		s, err := readOnce()
		after, err2 := generation()
		if err2 == nil && before == after && err == nil {
			return s, after, nil
		}
		if i == tries {
			return nil, 0, errors.Join(fmt.Errorf("nftables: the ruleset changes too fast to be read: %w", errChanging), err, err2)
		}
	}
}

var errChanging = errors.New("changed while it was read")

func readOnce() (*state, error) {
	conn, err := connect()
	if err != nil {
		return nil, err
	}
	t, s := ownTable(), newState()
	if _, err := conn.ListTableOfFamily(t.Name, t.Family); errors.Is(err, unix.ENOENT) {
		return s, nil
	} else if err != nil {
		return nil, fmt.Errorf("nftables: table inet %s: %w", t.Name, err)
	}
	chains, err := conn.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return nil, fmt.Errorf("nftables: list chains: %w", err)
	}
	lines := map[string]string{}
	for _, c := range chains {
		switch {
		case c.Table.Name != t.Name:
		case strings.HasPrefix(c.Name, chainPrefix):
			s.chains[c.Name] = true
		default:
			lines[c.Name] = chainLine(c)
		}
	}
	for _, c := range baseChains(t, newSets(t), nil) {
		line, ok := lines[c.Name]
		if !ok {
			continue
		}
		rules, err := conn.GetRules(t, c.Chain)
		if err != nil {
			return nil, fmt.Errorf("nftables: rules of %s: %w", c.Name, err)
		}
		s.base = append(s.base, line)
		for _, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			s.base = append(s.base, comment)
		}
	}
	return s, s.readSets(conn, t)
}

func (s *state) readSets(conn *nftables.Conn, t *nftables.Table) error {
	there, err := conn.GetSets(t)
	if err != nil {
		return fmt.Errorf("nftables: list sets: %w", err)
	}
	own := newSets(t)
	for _, set := range there {
		if strings.HasPrefix(set.Name, stickyPrefix) {
			s.sticky[set.Name] = true
			continue
		}
		if !slices.ContainsFunc(own.all(), func(o *nftables.Set) bool { return o.Name == set.Name }) {
			continue
		}
		elements, err := conn.GetSetElements(set)
		if err != nil {
			return fmt.Errorf("nftables: elements of %s: %w", set.Name, err)
		}
		any := netip.IPv6Unspecified()
		if strings.HasSuffix(set.Name, "4") {
			any = netip.IPv4Unspecified()
		}
		for _, e := range elements {
			switch set.Name {
			case own.vmacs.Name:
				s.links = append(s.links, strings.TrimRight(string(e.Key), "\x00"))
			case own.addresses4.Name, own.addresses6.Name:
				if a, ok := netip.AddrFromSlice(e.Key); ok {
					s.addresses[a] = true
				}
			default:
				if f, ok := toFrontend(e.Key, any); ok {
					s.frontends[f] = toVerdict(e.Val)
				}
			}
		}
	}
	slices.Sort(s.links)
	return nil
}

// toVerdict reads NFTA_VERDICT_CODE and, if it goes anywhere, NFTA_VERDICT_CHAIN.
func toVerdict(data []byte) string {
	if len(data) <= 12 {
		return drop
	}
	return strings.TrimRight(string(data[12:]), "\x00")
}
