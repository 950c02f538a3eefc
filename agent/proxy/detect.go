//go:build linux

package proxy

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// Found is who translates Services on this node for whatever comes in, by whichever link; "" is nobody.
type Found string

// What Detector knows. Others, such as Cilium, translate at sockets or at links of their own, and so nothing that comes by a vmac.
const (
	Nobody   Found = ""
	NFTables Found = "kube-proxy in nftables mode"
	IPTables Found = "kube-proxy in iptables mode"
	IPVS     Found = "kube-proxy in IPVS mode"
)

const (
	servicesChain = "KUBE-SERVICES" // of kube-proxy's iptables and IPVS modes, in table nat
	ipvsLink      = "kube-ipvs0"
)

// Detector looks for rules, not for a process: those of a kube-proxy that is restarted, or upgraded, stay in place and go on
// working. The rules of one that was taken away without `kube-proxy --cleanup` do so, too, and say what was true then; that looks the
// same, and is for a person to clean up.
//
//	mode      | what is looked for
//	nftables  | tables ip or ip6 kube-proxy with a chain "services"
//	iptables  | chain KUBE-SERVICES in table nat: of iptables-nft by nftables, of iptables-legacy by its socket option
//	IPVS      | link kube-ipvs0
type Detector struct {
	legacy [2]legacyNAT // IPv4, IPv6
}

// Detect takes some milliseconds. It changes nothing, and in particular makes no table of iptables come into being.
func (d *Detector) Detect() (Found, error) {
	if _, err := netlink.LinkByName(ipvsLink); err == nil {
		return IPVS, nil
	} else if !errors.As(err, new(netlink.LinkNotFoundError)) {
		return Nobody, fmt.Errorf("look up link %q: %w", ipvsLink, err)
	}
	found, err := detectNFTables()
	if found != Nobody || err != nil {
		return found, err
	}
	for i, family := range legacyFamilies {
		has, err := d.legacy[i].hasChain(family, servicesChain)
		if err != nil {
			return Nobody, err
		}
		if has {
			return IPTables, nil
		}
	}
	return Nobody, nil
}

func detectNFTables() (Found, error) {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		for _, t := range []struct {
			table, chain string
			found        Found
		}{{"kube-proxy", "services", NFTables}, {"nat", servicesChain, IPTables}} {
			has, err := hasChain(family, t.table, t.chain)
			if err != nil {
				return Nobody, err
			}
			if has {
				return t.found, nil
			}
		}
	}
	return Nobody, nil
}
