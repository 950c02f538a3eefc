package nad

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
)

// Cluster is what is known of a cluster before the first pod of a network, for the network's namespace.
type Cluster struct {
	Pools []v1alpha1.IPPool
	// Netspace of the namespace; empty if it is of none. Then Guests says which netspaces serve pods that name them from outside.
	Netspace string
	Guests   map[string]bool
	Parents  map[string]Parent
}

// Problems of a NetworkAttachmentDefinition whose addresses come from Berth, that its pods would meet: in the order of its plugins, and
// none for a network that is not Berth's. An empty configuration, for which Multus takes a file on the node, is not known here.
func Problems(config string, c Cluster) []string {
	if strings.TrimSpace(config) == "" {
		return nil
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal([]byte(config), &top); err != nil {
		if !strings.Contains(config, strconv.Quote(delegate.PluginType)) {
			return nil
		}
		return []string{"config is not a JSON object: " + err.Error()}
	}
	plugins := []map[string]json.RawMessage{top}
	if list, ok := top["plugins"]; ok {
		plugins = nil
		if err := json.Unmarshal(list, &plugins); err != nil {
			if !strings.Contains(config, strconv.Quote(delegate.PluginType)) {
				return nil
			}
			return []string{"plugins is not a list of plugins: " + err.Error()}
		}
		for _, p := range plugins {
			for _, key := range []string{"name", "cniVersion"} { // libcni hands them down
				if v, ok := top[key]; ok && p != nil {
					p[key] = v
				}
			}
		}
	}
	var out []string
	for i, p := range plugins {
		for _, problem := range pluginProblems(p, c) {
			if len(plugins) > 1 {
				problem = fmt.Sprintf("plugins[%d]: %s", i, problem)
			}
			out = append(out, problem)
		}
	}
	return out
}

func pluginProblems(p map[string]json.RawMessage, c Cluster) (out []string) {
	if quoted(p["type"]) == delegate.PluginType {
		return []string{fmt.Sprintf(`type %q is an IPAM plugin; write "type": "macvlan", "ipam": {"type": %q}`, delegate.PluginType, delegate.PluginType)}
	}
	var ipam struct {
		Type string `json:"type"`
	}
	if len(p["ipam"]) == 0 || json.Unmarshal(p["ipam"], &ipam) != nil || ipam.Type != delegate.PluginType {
		return nil
	}
	data, err := json.Marshal(p)
	if err != nil {
		return []string{err.Error()}
	}
	conf, err := delegate.ParseConfig(data)
	if err != nil {
		return []string{strings.TrimPrefix(err.Error(), fmt.Sprintf("network %q: ", quoted(p["name"])))}
	}
	if conf.Type == "" {
		out = append(out, `no type, the plugin that makes the interface; write "type": "macvlan"`)
	}
	out = append(out, modeProblems(conf, c)...)
	out = append(out, parentProblems(conf, p["mtu"], c)...)
	return append(out, poolProblems(conf, c)...)
}

// modeProblems: who gets no service path although it shall have one.
func modeProblems(conf *delegate.Config, c Cluster) []string {
	if conf.Type == "macvlan" && !slices.Contains([]string{"", "bridge", "private", "vepa", "passthru"}, conf.Mode) {
		return []string{fmt.Sprintf(`mode %q is none of macvlan's (bridge, private, vepa, passthru); write "mode": "bridge"`, conf.Mode)}
	}
	steering := v1alpha1.Steering(conf.IPAM.Steering)
	if steering == "" {
		if i := slices.IndexFunc(c.Pools, func(p v1alpha1.IPPool) bool { return slices.Contains(askedPools(conf), p.Name) }); i >= 0 {
			steering = c.Pools[i].Spec.Steering
		}
	}
	switch {
	case conf.Type == "macvlan" && conf.Mode != "" && conf.Mode != "bridge" && steering != v1alpha1.SteeringNever:
		return []string{fmt.Sprintf(`mode %q has no service path: pods reach no Service by it; write "mode": "bridge", or say in ipam that it has none, "steering": "Never"`, conf.Mode)}
	case conf.Type != "macvlan" && conf.Type != "" && steering == v1alpha1.SteeringAlways:
		return []string{fmt.Sprintf(`type %q has no service path, and steering is Always; write "type": "macvlan", or say in ipam "steering": "Never"`, conf.Type)}
	}
	return nil
}

func parentProblems(conf *delegate.Config, mtu json.RawMessage, c Cluster) (out []string) {
	p, ok := c.Parents[conf.Parent]
	if conf.Parent == "" || conf.LinkInContainer || !ok {
		return nil
	}
	if p.Missing != "" {
		out = append(out, fmt.Sprintf("master %q: %s", conf.Parent, p.Missing))
	}
	var n int
	switch err := json.Unmarshal(mtu, &n); {
	case len(mtu) == 0:
	case err != nil || n < 0:
		out = append(out, fmt.Sprintf("mtu %s is no number of bytes", mtu))
	case p.MTU > 0 && n > p.MTU:
		out = append(out, fmt.Sprintf("mtu %d is more than that of its master %q, %d; write at most that, or leave it out", n, conf.Parent, p.MTU))
	}
	return out
}

func askedPools(conf *delegate.Config) []string {
	return slices.Concat(conf.IPAM.Pools, conf.IPAM.IPv4, conf.IPAM.IPv6)
}

// poolProblems: names and patterns of which no pool can serve a pod of this network.
func poolProblems(conf *delegate.Config, c Cluster) (out []string) {
	for _, asked := range []struct {
		key   string
		names []string
		v4    bool
	}{{"ippools", conf.IPAM.Pools, false}, {"ipv4", conf.IPAM.IPv4, true}, {"ipv6", conf.IPAM.IPv6, false}} {
		for _, name := range asked.names {
			var reasons []string
			usable := false
			for i := range c.Pools {
				p := &c.Pools[i]
				if ok, err := path.Match(name, p.Name); err != nil || !ok {
					continue
				}
				reason := unusable(conf, p, c)
				if reason == "" && asked.key != "ippools" && !hasFamily(p, asked.v4) {
					reason = fmt.Sprintf("pool %q has no subnet of that family", p.Name)
				}
				usable = usable || reason == ""
				reasons = append(reasons, reason)
			}
			switch {
			case usable:
			case len(reasons) == 0 && strings.ContainsAny(name, "*?["):
				out = append(out, fmt.Sprintf("ipam %s: no pool matches %q; make one, or write the name of one that is there", asked.key, name))
			case len(reasons) == 0:
				out = append(out, fmt.Sprintf("ipam %s: there is no pool %q; make it, or write the name of one that is there", asked.key, name))
			default:
				out = append(out, fmt.Sprintf("ipam %s: %s", asked.key, strings.Join(reasons, "; ")))
			}
		}
	}
	return out
}

// unusable says why a pool serves no pod of the network; "" if it may.
func unusable(conf *delegate.Config, p *v1alpha1.IPPool, c Cluster) string {
	switch of := p.Spec.Netspace; {
	case of == c.Netspace, c.Netspace == "" && c.Guests[of]:
	case of == "":
		return fmt.Sprintf("pool %q is of no netspace, and this namespace is of netspace %q, whose pods have its pools only", p.Name, c.Netspace)
	case c.Netspace == "":
		return fmt.Sprintf("pool %q serves netspace %q only, this namespace is of none, and it takes no guests", p.Name, of)
	default:
		return fmt.Sprintf("pool %q serves netspace %q only, and this namespace is of %q", p.Name, of, c.Netspace)
	}
	if vlan, known := vlanOf(conf, c); known && p.Spec.VLAN != nil && *p.Spec.VLAN != vlan {
		if vlan == 0 {
			return fmt.Sprintf("pool %q is of VLAN %d, and master %q is in none; write a master such as %s.%d, or say of an access port which VLAN it is on, by the node annotation %s",
				p.Name, *p.Spec.VLAN, conf.Parent, conf.Parent, *p.Spec.VLAN, AccessVLANsAnnotation)
		}
		return fmt.Sprintf("pool %q is of VLAN %d, and master %q is in VLAN %d; name a pool of that VLAN, or another master", p.Name, *p.Spec.VLAN, conf.Parent, vlan)
	}
	if p.Spec.SourceGuard == v1alpha1.SourceGuardRequired && (conf.Type != "macvlan" || conf.Mode != "" && conf.Mode != "bridge") {
		return fmt.Sprintf("pool %q has sourceGuard Required, and only macvlan in mode bridge is guarded", p.Name)
	}
	return ""
}

// vlanOf the parent of a network (IEEE 802.1Q), 0 for none, as far as it is known.
func vlanOf(conf *delegate.Config, c Cluster) (vlan int32, known bool) {
	if conf.Parent == "" || conf.LinkInContainer {
		return 0, false
	}
	if p := c.Parents[conf.Parent]; p.VLAN != 0 || p.VLANKnown {
		return p.VLAN, true
	}
	vlan = VLANByName(conf.Parent)
	return vlan, vlan != 0
}

// VLANByName is the VLAN that the name of a link says, bond0.910, which is how people, and HostNetworks, name VLAN links; 0: none.
func VLANByName(link string) int32 {
	i := strings.LastIndexByte(link, '.')
	if i < 1 {
		return 0
	}
	n, err := strconv.ParseUint(link[i+1:], 10, 12)
	if err != nil || n > 4094 || link[i+1] == '0' {
		return 0
	}
	return int32(n)
}

// hasFamily says whether a pool has, or may yet get, addresses of a family.
func hasFamily(p *v1alpha1.IPPool, v4 bool) bool {
	if len(p.Spec.Subnets) == 0 {
		return true // the other plugin's to say, or not carved yet
	}
	return slices.ContainsFunc(p.Spec.Subnets, func(s v1alpha1.PoolSubnet) bool { return strings.Contains(s.CIDR, ":") != v4 })
}

func quoted(raw json.RawMessage) (s string) {
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}
