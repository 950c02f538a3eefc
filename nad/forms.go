package nad

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
)

// pools is what one annotation says of one interface, or of every one.
type pools struct {
	any, ipv4, ipv6 []string
	noDefaultRoute  *bool // nil: not said
}

// entry is pools for the interface named.
type entry struct {
	ifName string // empty in Spiderpool's list by order
	pools
}

// isJSON tells JSON from the short form, which may begin with a bracket as well: the pattern [ab]-zone.
func isJSON(s string) bool {
	if strings.HasPrefix(s, "{") {
		return true
	}
	rest, ok := strings.CutPrefix(s, "[")
	rest = strings.TrimSpace(rest)
	return ok && (rest == "" || strings.ContainsRune(`"{]`, rune(rest[0])))
}

// families is the JSON form of pools.
type families struct {
	IPv4 []string `json:"ipv4"`
	IPv6 []string `json:"ipv6"`
}

func (f families) pools() (pools, error) {
	if len(f.IPv4) == 0 && len(f.IPv6) == 0 {
		return pools{}, errors.New("names no pool, neither ipv4 nor ipv6")
	}
	var (
		p   pools
		err error
	)
	// A single empty list means no address of that family, as an absent one does; templates write it.
	if len(f.IPv4) > 0 {
		if p.ipv4, err = delegate.CleanPools(f.IPv4); err != nil {
			return pools{}, fmt.Errorf("ipv4 %w", err)
		}
	}
	if len(f.IPv6) > 0 {
		if p.ipv6, err = delegate.CleanPools(f.IPv6); err != nil {
			return pools{}, fmt.Errorf("ipv6 %w", err)
		}
	}
	return p, nil
}

// parsePool reads an ippool annotation: "zone-a, zone-b", ["zone-a","zone-b"] or {"ipv4":[…],"ipv6":[…]}.
func parsePool(s string) (pools, error) {
	s = strings.TrimSpace(s)
	switch {
	case !isJSON(s):
		list, err := delegate.ParsePools(s)
		return pools{any: list}, err
	case s[0] == '[':
		list, err := parseList(s)
		return pools{any: list}, err
	}
	var f families
	if err := decodeStrict(s, &f); err != nil {
		return pools{}, fmt.Errorf(`is not {"ipv4": [POOL…], "ipv6": [POOL…]}: %w`, err)
	}
	return f.pools()
}

// parseList reads ["zone-a","zone-b"].
func parseList(s string) ([]string, error) {
	var list []string
	if err := decodeStrict(s, &list); err != nil {
		return nil, fmt.Errorf(`is not ["POOL", …]: %w`, err)
	}
	return delegate.CleanPools(list)
}

// parsePools reads an ippools annotation: "net1=zone-a,zone-b; net2=store" or
// [{"interface":"net1","ipv4":[…],"ipv6":[…],"cleangateway":false}].
func parsePools(s string) ([]entry, error) {
	s = strings.TrimSpace(s)
	parse := parsePoolsShort
	if isJSON(s) {
		parse = parsePoolsJSON
	}
	entries, err := parse(s)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 {
		return nil, errors.New(`names no interface; write "net1=POOL,POOL; net2=POOL"`)
	}
	return entries, nil
}

func parsePoolsShort(s string) ([]entry, error) {
	parts, err := splitShort(s, "write INTERFACE=POOL,POOL")
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, p := range parts {
		any, err := delegate.ParsePools(p.list)
		if err != nil {
			return nil, fmt.Errorf("interface %s %w", p.ifName, err)
		}
		entries = append(entries, entry{p.ifName, pools{any: any}})
	}
	return entries, nil
}

// part of a short form by interface, "net1=LIST; net2=LIST".
type part struct{ ifName, list string }

// splitShort splits a short form by interface; remedy says how a part is to be written.
func splitShort(s, remedy string) ([]part, error) {
	var parts []part
	for text := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ';' || r == '\n' }) {
		text = strings.TrimSpace(text)
		if text == "" {
			continue // behind the last ;
		}
		ifName, list, ok := strings.Cut(text, "=")
		ifName = strings.TrimSpace(ifName)
		if !ok || ifName == "" {
			return nil, fmt.Errorf("has %q; %s", text, remedy)
		}
		if slices.ContainsFunc(parts, func(p part) bool { return p.ifName == ifName }) {
			return nil, errTwice(ifName)
		}
		parts = append(parts, part{ifName, list})
	}
	return parts, nil
}

func errTwice(ifName string) error {
	return fmt.Errorf("has two entries for interface %s; make it one", ifName)
}

func parsePoolsJSON(s string) ([]entry, error) {
	var list []struct {
		Interface string `json:"interface"`
		families
		CleanGateway *bool `json:"cleangateway"`
	}
	if err := decodeStrict(s, &list); err != nil {
		return nil, fmt.Errorf(`is not [{"interface": NAME, "ipv4": [POOL…], "ipv6": [POOL…], "cleangateway": false}]: %w`, err)
	}
	var entries []entry
	seen := map[string]bool{}
	for i, e := range list {
		p, err := e.pools()
		if err != nil {
			if e.Interface == "" {
				return nil, fmt.Errorf("entry %d %w", i, err)
			}
			return nil, fmt.Errorf("interface %s %w", e.Interface, err)
		}
		switch {
		case (e.Interface == "") != (list[0].Interface == ""):
			return nil, errors.New("names the interface in some entries and not in others; name it in every one")
		case e.Interface != "" && seen[e.Interface]:
			return nil, errTwice(e.Interface)
		}
		seen[e.Interface] = true
		p.noDefaultRoute = e.CleanGateway
		entries = append(entries, entry{e.Interface, p})
	}
	return entries, nil
}

// Route is a route that a pod or its network asks for.
type Route struct {
	delegate.Route // GW may be invalid only if not ByPod: then the next hop is the gateway of the address' subnet
	// ByPod: it stands in an annotation of the pod, which does not say for which interface. It belongs to the one with an
	// address whose subnet has GW in it; the others skip it.
	ByPod bool
}

// parseRoutes reads a routes annotation, [{"dst":"10.0.0.0/16","gw":"192.168.1.1"}] or "10.0.0.0/16 via 192.168.1.1; …".
func parseRoutes(s string) ([]Route, error) {
	s = strings.TrimSpace(s)
	var list []struct {
		Dst string `json:"dst"`
		GW  string `json:"gw"`
	}
	if isJSON(s) {
		if err := decodeStrict(s, &list); err != nil {
			return nil, fmt.Errorf(`is not [{"dst": CIDR, "gw": ADDRESS}]: %w`, err)
		}
	} else {
		for part := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ';' || r == '\n' }) {
			f := strings.Fields(part)
			if len(f) == 0 {
				continue
			}
			if len(f) != 3 || f[1] != "via" {
				return nil, fmt.Errorf("has %q; write CIDR via ADDRESS", strings.TrimSpace(part))
			}
			list = append(list, struct {
				Dst string `json:"dst"`
				GW  string `json:"gw"`
			}{f[0], f[2]})
		}
	}
	if len(list) == 0 {
		return nil, errors.New(`names no route; write "CIDR via ADDRESS; …"`)
	}
	var routes []Route
	for _, e := range list {
		r, err := delegate.ParseRoute(e.Dst, e.GW)
		if err != nil {
			return nil, fmt.Errorf("has a bad %w", err)
		}
		if !r.GW.IsValid() {
			return nil, fmt.Errorf("has no gw for dst %s; give one", e.Dst)
		}
		routes = append(routes, Route{r, true})
	}
	return routes, nil
}

// mostAllowed entries of an allowed-addresses annotation.
const mostAllowed = 64

// parseAllowed reads an allowed-addresses annotation: "10.6.0.100, 10.7.0.0/16, fd00::100".
func parseAllowed(s string) ([]netip.Prefix, error) {
	if strings.TrimSpace(s) == "" {
		return nil, errors.New("names no address; write ADDRESS or CIDR, or remove the annotation")
	}
	var out []netip.Prefix
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		p, err := parsePrefix(item)
		switch a := p.Addr(); {
		case item == "":
			return nil, errors.New("has an empty entry; remove the comma, or write the address")
		case err != nil || a.Is4In6():
			return nil, fmt.Errorf("has %q; write an ADDRESS or a CIDR such as 10.6.0.100, 10.7.0.0/16 or fd00::100", item)
		case p != p.Masked():
			return nil, fmt.Errorf("has %q with host bits; write %s", item, p.Masked())
		case a.IsMulticast() || a.IsLoopback() || p.IsSingleIP() && a.IsUnspecified():
			return nil, fmt.Errorf("has %q, which is no address to send as; remove it", item)
		case p.IsSingleIP() && a.IsLinkLocalUnicast() && a.Is6():
			return nil, fmt.Errorf("has %q; remove it: link-local IPv6 addresses are allowed anyway, but for the service gateway's", item)
		case slices.Contains(out, p):
			return nil, fmt.Errorf("has %s twice; name it once", item)
		case len(out) == mostAllowed:
			return nil, fmt.Errorf("has more than %d entries; write CIDRs", mostAllowed)
		}
		out = append(out, p)
	}
	return out, nil
}

// parsePrefix reads an address or a CIDR.
func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err == nil && a.Zone() != "" {
		err = errors.New("has a zone")
	}
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// parseFastMode says whether it is off.
func parseFastMode(s string) (off bool, err error) {
	switch s = strings.TrimSpace(s); {
	case strings.EqualFold(s, string(v1alpha1.FastModeEnabled)):
		return false, nil
	case strings.EqualFold(s, string(v1alpha1.FastModeDisabled)):
		return true, nil
	}
	return false, errors.New("is none of Enabled, Disabled")
}

// decodeStrict refuses keys that it does not know and anything behind the value: an annotation with a typing error must not
// be taken for one that says less.
func decodeStrict(s string, to any) error {
	dec := json.NewDecoder(bytes.NewReader([]byte(s)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the value")
	}
	return nil
}
