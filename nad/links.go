package nad

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/berthdev/berth/delegate"
)

// ParentsAnnotation of a node is what its agent tells of the links that networks name as their master: "bond0.910=9000/910,eth1=1500,eth7=-"
// are two with their MTU in bytes, the first in VLAN 910 (IEEE 802.1Q), and one that is not there.
const ParentsAnnotation = "berth.dev/parents"

// OwnerRoutesAnnotation of a node is "true" if its agent keeps owner routes.
const OwnerRoutesAnnotation = "berth.dev/owner-routes"

// Link of a node.
type Link struct {
	MTU     int
	VLAN    int32 // 0: none
	Missing bool
}

// FormatParents as the annotation has them, in order of their names.
func FormatParents(links map[string]Link) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(links)) {
		switch l := links[name]; {
		case l.Missing:
			out = append(out, name+"=-")
		case l.VLAN != 0:
			out = append(out, fmt.Sprintf("%s=%d/%d", name, l.MTU, l.VLAN))
		default:
			out = append(out, fmt.Sprintf("%s=%d", name, l.MTU))
		}
	}
	return strings.Join(out, ",")
}

// ParseParents reads the annotation. What it does not understand, perhaps of another version, it leaves out.
func ParseParents(s string) map[string]Link {
	out := map[string]Link{}
	for item := range strings.SplitSeq(s, ",") {
		name, facts, ok := strings.Cut(item, "=")
		if !ok || name == "" {
			continue
		}
		if facts == "-" {
			out[name] = Link{Missing: true}
			continue
		}
		mtu, tag, tagged := strings.Cut(facts, "/")
		n, err := strconv.ParseUint(mtu, 10, 31)
		if err != nil {
			continue
		}
		l := Link{MTU: int(n)}
		if tagged {
			v, err := strconv.ParseUint(tag, 10, 12)
			if err != nil || v == 0 || v > 4094 {
				continue
			}
			l.VLAN = int32(v)
		}
		out[name] = l
	}
	return out
}

// Masters that the plugins of a network name which have their addresses from Berth: links of the node, and no link in the pod.
func Masters(config string) (out []string) {
	type plugin struct {
		Master          string `json:"master"`
		LinkInContainer bool   `json:"linkInContainer"`
		IPAM            struct {
			Type string `json:"type"`
		} `json:"ipam"`
	}
	var conf struct {
		plugin
		Plugins []plugin `json:"plugins"`
	}
	if json.Unmarshal([]byte(config), &conf) != nil {
		return nil
	}
	const most = 15 // IFNAMSIZ with its 0
	for _, p := range append(conf.Plugins, conf.plugin) {
		if p.IPAM.Type == delegate.PluginType && !p.LinkInContainer && p.Master != "" && len(p.Master) <= most && !strings.ContainsAny(p.Master, ",=/ \t\n") {
			out = append(out, p.Master)
		}
	}
	return out
}
