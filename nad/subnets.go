package nad

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Subnets that the pools of an interface are carved from: Any for both families, or one for each. The zero value is none.
type Subnets struct{ Any, IPv4, IPv6 string }

// Names of the Subnets, each once.
func (s Subnets) Names() (names []string) {
	for _, n := range []string{s.Any, s.IPv4, s.IPv6} {
		if n != "" && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// carve is what an annotation says of one interface, or of every one (ifName is empty).
type carve struct {
	ifName, source string
	Subnets
}

// carveOf finds the Subnets of ifName; false if its pools are said elsewhere. A place that speaks of the interface by its name counts before
// one that speaks of every one; a Subnet and a pool in places of equal rank contradict each other. Of Spiderpool's annotations those of
// subnets count before those of pools, as they do there.
func carveOf(pod map[string]string, ifName string, interfaces []Interface, warn func(string, ...any)) (carve, bool, error) {
	native := []string{SubnetAnnotation, PoolsAnnotation, PoolAnnotation}
	keys := pick(pod, warn, native, []string{spiderSubnets, spiderSubnet, spiderPools, spiderPool})
	for _, key := range keys {
		if key != SubnetAnnotation && key != spiderSubnets && key != spiderSubnet {
			break
		}
		list, err := parseSubnets(pod[key], key == SubnetAnnotation)
		if err == nil {
			err = checkNamed(namedIn(list), ifName, interfaces)
		}
		if err != nil {
			return carve{}, false, annotationError("pod", key, pod[key], err)
		}
		i := slices.IndexFunc(list, func(c carve) bool { return c.ifName == ifName || c.ifName == "" })
		if i < 0 {
			continue
		}
		c := list[i]
		c.source = "pod annotation " + key
		if key == SubnetAnnotation {
			other, wins, err := rival(pod, ifName, c.ifName != "", interfaces)
			if err != nil || wins {
				return carve{}, false, err
			}
			if other != "" {
				return carve{}, false, annotationError("pod", key, pod[key],
					fmt.Errorf("is for interface %s, and so is %s; leave one of the two out", ifName, other))
			}
		}
		return c, true, nil
	}
	return carve{}, false, nil
}

// rival of a Subnet for ifName: another annotation of equal rank, or one that wins, since it names the interface and the Subnet does not.
func rival(pod map[string]string, ifName string, byName bool, interfaces []Interface) (equal string, wins bool, err error) {
	if s, ok := pod[PoolsAnnotation]; ok {
		_, speaks, err := poolsOf(ifName, s, interfaces)
		if err != nil {
			return "", false, annotationError("pod", PoolsAnnotation, s, err)
		}
		if speaks && byName {
			return PoolsAnnotation, false, nil
		}
		if speaks {
			return "", true, nil
		}
	}
	if _, ok := pod[PoolAnnotation]; ok && !byName {
		return PoolAnnotation, false, nil
	}
	return "", false, nil
}

func namedIn(list []carve) (names []string) {
	for _, c := range list {
		if c.ifName != "" {
			names = append(names, c.ifName)
		}
	}
	return names
}

// parseSubnets reads "office", "net1=office; net2=store", {"ipv4":["office"],"ipv6":["office6"]} or a list of the latter with
// "interface" in each. Where Spiderpool's annotations name several for a family, the first counts, as it does there.
func parseSubnets(s string, strict bool) ([]carve, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return nil, errors.New("names no Subnet; write its name, or remove the annotation")
	case strings.HasPrefix(s, "{"):
		var f subnetFamilies
		if err := decodeStrict(s, &f); err != nil {
			return nil, fmt.Errorf(`is not {"ipv4": [SUBNET], "ipv6": [SUBNET]}: %w`, err)
		}
		c, err := f.carve(strict)
		return []carve{c}, err
	case strings.HasPrefix(s, "["):
		return parseSubnetList(s, strict)
	case strings.Contains(s, "="):
		parts, err := splitShort(s, "write INTERFACE=SUBNET")
		var out []carve
		for _, p := range parts {
			c := carve{ifName: p.ifName, Subnets: Subnets{Any: strings.TrimSpace(p.list)}}
			if err := checkSubnet(c.Any); err != nil {
				return nil, fmt.Errorf("interface %s %w", p.ifName, err)
			}
			out = append(out, c)
		}
		if err == nil && out == nil {
			err = errors.New(`names no interface; write "net1=SUBNET; net2=SUBNET"`)
		}
		return out, err
	}
	return []carve{{Subnets: Subnets{Any: s}}}, checkSubnet(s)
}

func parseSubnetList(s string, strict bool) ([]carve, error) {
	const form = `is not [{"interface": NAME, "ipv4": [SUBNET], "ipv6": [SUBNET]}]`
	var list []subnetFamilies
	if err := decodeStrict(s, &list); err != nil {
		return nil, fmt.Errorf(form+": %w", err)
	}
	if len(list) == 0 {
		return nil, errors.New(form + ": it is empty; remove the annotation")
	}
	var out []carve
	for i, f := range list {
		c, err := f.carve(strict)
		switch {
		case err != nil:
			return nil, fmt.Errorf("entry %d %w", i, err)
		case c.ifName == "":
			return nil, fmt.Errorf("names no interface in entry %d; name it in each", i)
		case slices.ContainsFunc(out, func(o carve) bool { return o.ifName == c.ifName }):
			return nil, errTwice(c.ifName)
		}
		out = append(out, c)
	}
	return out, nil
}

// subnetFamilies is the JSON form of Subnets.
type subnetFamilies struct {
	Interface string  `json:"interface"`
	IPv4      oneName `json:"ipv4"`
	IPv6      oneName `json:"ipv6"`
}

// oneName is "office" or ["office"].
type oneName []string

func (n *oneName) UnmarshalJSON(data []byte) error {
	var s string
	if json.Unmarshal(data, &s) == nil {
		*n = nil
		if s != "" {
			*n = oneName{s}
		}
		return nil
	}
	var list []string
	err := json.Unmarshal(data, &list)
	*n = list
	return err
}

func (f subnetFamilies) carve(strict bool) (carve, error) {
	c := carve{ifName: strings.TrimSpace(f.Interface)}
	for _, one := range []struct {
		family string
		names  []string
		to     *string
	}{{"ipv4", f.IPv4, &c.IPv4}, {"ipv6", f.IPv6, &c.IPv6}} {
		if len(one.names) == 0 {
			continue
		}
		if len(one.names) > 1 && strict {
			return c, fmt.Errorf("names %d Subnets for %s; a pool is carved from one, name one", len(one.names), one.family)
		}
		*one.to = strings.TrimSpace(one.names[0])
		if err := checkSubnet(*one.to); err != nil {
			return c, fmt.Errorf("%s %w", one.family, err)
		}
	}
	switch {
	case c.IPv4 == "" && c.IPv6 == "":
		return c, errors.New("names no Subnet, neither ipv4 nor ipv6")
	case c.IPv4 == c.IPv6: // one pool with both
		c.Subnets = Subnets{Any: c.IPv4}
	}
	return c, nil
}

func checkSubnet(name string) error {
	switch {
	case name == "":
		return errors.New("names no Subnet; write its name")
	case len(validation.IsDNS1123Label(name)) > 0:
		return fmt.Errorf("has %q, which is no name of a Subnet: it has at most %d characters of a-z, 0-9 and -, and one Subnet serves an interface",
			short(name), validation.DNS1123LabelMaxLength)
	}
	return nil
}
