package nad

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/berthdev/berth/ipam"
)

// mostFixed addresses of each family, for one interface. The agent looks at every one of them for every pod; who has more
// makes a pool of them.
const mostFixed = 1024

// fixed is what berth.dev/ips says of one interface, or of every one (ifName is empty).
type fixed struct {
	ifName string
	addrs  []netip.Addr
}

// parseIPs reads "10.6.1.5, 10.6.1.8-10.6.1.11, fd00::5" or "net1=10.6.1.5,10.6.1.6; net2=10.7.1.5".
func parseIPs(s string) ([]fixed, error) {
	if !strings.Contains(s, "=") {
		list, err := parseAddrs(s)
		return []fixed{{addrs: list}}, err
	}
	parts, err := splitShort(s, "write INTERFACE=ADDRESS,ADDRESS")
	if err != nil {
		return nil, err
	}
	var out []fixed
	for _, p := range parts {
		list, err := parseAddrs(p.list)
		if err != nil {
			return nil, fmt.Errorf("interface %s %w", p.ifName, err)
		}
		out = append(out, fixed{p.ifName, list})
	}
	return out, nil
}

// parseAddrs keeps the order, which is that of the ordinals of a StatefulSet's pods. So an address that is named twice is
// refused: to drop it would move those behind it to other pods.
func parseAddrs(s string) ([]netip.Addr, error) {
	if strings.TrimSpace(s) == "" {
		return nil, errors.New("names no address")
	}
	var out []netip.Addr
	seen := map[netip.Addr]bool{}
	count := map[ipam.Family]int{}
	for item := range strings.SplitSeq(s, ",") {
		switch item = strings.TrimSpace(item); {
		case item == "":
			return nil, errors.New("has an empty entry; remove the comma, or write the address")
		case strings.Contains(item, "/"):
			return nil, fmt.Errorf("has %q; write an ADDRESS or a range FIRST-LAST, without prefix length", item)
		}
		r, err := ipam.ParseRange(item)
		if err != nil {
			return nil, fmt.Errorf("has a bad entry: %w", err)
		}
		for a := r.From; ; a = a.Next() {
			f := ipam.FamilyOf(a)
			count[f]++
			switch {
			case count[f] > mostFixed:
				return nil, fmt.Errorf("names more than %d %s addresses; make a pool of them, and name that in %s", mostFixed, f, PoolAnnotation)
			case seen[a]:
				return nil, fmt.Errorf("has %s twice; name each address once", a)
			}
			seen[a] = true
			out = append(out, a)
			if a == r.To {
				break
			}
		}
	}
	return out, nil
}

// ipsOf finds what a berth.dev/ips annotation says of ifName; nil if it speaks of other interfaces only.
func ipsOf(ifName, value string, interfaces []Interface) ([]netip.Addr, error) {
	list, err := parseIPs(value)
	if err != nil {
		return nil, err
	}
	if list[0].ifName == "" {
		return list[0].addrs, nil
	}
	var named []string
	for _, f := range list {
		named = append(named, f.ifName)
	}
	if err := checkNamed(named, ifName, interfaces); err != nil {
		return nil, err
	}
	for _, f := range list {
		if f.ifName == ifName {
			return f.addrs, nil
		}
	}
	return nil, nil
}

// ByOrdinal picks of the addresses of berth.dev/ips those of a StatefulSet's pod: of each family that is among them the one at
// the position of the pod's ordinal, counted from 0, which is the number at the end of its name.
func ByOrdinal(list []netip.Addr, ordinal int) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, f := range ipam.Families {
		var of []netip.Addr
		for _, a := range list {
			if ipam.FamilyOf(a) == f {
				of = append(of, a)
			}
		}
		switch {
		case len(of) == 0:
		case ordinal < 0 || ordinal >= len(of):
			return nil, fmt.Errorf("pod annotation %s has %d %s addresses, none for ordinal %d; add one for each ordinal from 0 on, or scale down",
				IPsAnnotation, len(of), f, ordinal)
		default:
			out = append(out, of[ordinal])
		}
	}
	return out, nil
}

func join(list []netip.Addr) string {
	var s []string
	for _, a := range list {
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}
