package nad

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/berthdev/berth/delegate"
)

// Misplaced says which of a pod's annotations ask for addresses where Berth is never called, so that no ADD can say it: on an
// interface whose network names another IPAM plugin, or none, and on one that the pod does not have. config gives the
// configuration of a NetworkAttachmentDefinition ("namespace/name"), and false if it is not known.
func Misplaced(podAnnotations map[string]string, namespace string, config func(nad string) (string, bool)) []string {
	keys := pick(podAnnotations, func(string, ...any) {}, []string{SubnetAnnotation, PoolsAnnotation, PoolAnnotation}, []string{spiderSubnets, spiderSubnet, spiderPools, spiderPool})
	for _, key := range []string{IPsAnnotation, IdentityAnnotation} {
		if _, ok := podAnnotations[key]; ok {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	interfaces, err := Interfaces(podAnnotations, namespace)
	if err != nil {
		return []string{err.Error()}
	}
	why := map[string]string{}
	var reasons []string
	for _, i := range interfaces {
		reason := "the cluster's default network is not Berth's"
		if i.NAD != "" {
			text, ok := config(i.NAD)
			if !ok {
				return nil // Multus says that it is missing; or it is too new to be known
			}
			reason = notBerth(text)
			if reason != "" {
				reason = fmt.Sprintf("NetworkAttachmentDefinition %s %s", i.NAD, reason)
			}
		}
		why[i.Name] = reason
		if reason != "" {
			reasons = append(reasons, i.Name+": "+reason)
		}
	}
	if len(reasons) == len(interfaces) {
		return []string{fmt.Sprintf(`annotation %s has no effect: no interface of the pod gets its addresses from Berth (%s); give a network "ipam": {"type": %q}`,
			strings.Join(keys, ", "), strings.Join(reasons, "; "), delegate.PluginType)}
	}
	var out []string
	for _, key := range keys {
		for _, name := range named(key, podAnnotations[key]) {
			if reason := why[name]; reason != "" {
				out = append(out, fmt.Sprintf(`annotation %s has no effect on interface %s: %s; give the network "ipam": {"type": %q}`,
					key, name, reason, delegate.PluginType))
			}
		}
	}
	return out
}

// named are the interfaces that an annotation names, if it is of those that do. Of a malformed one they are not known: the ADD of
// the interface that Berth serves says what is wrong.
func named(key, value string) (names []string) {
	switch key {
	case PoolsAnnotation, spiderPools:
		entries, err := parsePools(value)
		if err != nil {
			return nil
		}
		for _, e := range entries {
			names = append(names, e.ifName)
		}
	case SubnetAnnotation, spiderSubnets, spiderSubnet:
		list, err := parseSubnets(value, key == SubnetAnnotation)
		if err != nil {
			return nil
		}
		for _, c := range list {
			names = append(names, c.ifName)
		}
	case IPsAnnotation:
		list, err := parseIPs(value)
		if err != nil {
			return nil
		}
		for _, f := range list {
			names = append(names, f.ifName)
		}
	}
	return names
}

// notBerth says why Berth is not called for a network; "" if it is.
func notBerth(config string) string {
	type plugin struct {
		IPAM *struct {
			Type string `json:"type"`
		} `json:"ipam"`
	}
	var conf struct {
		plugin
		Plugins []plugin `json:"plugins"`
	}
	if strings.TrimSpace(config) == "" {
		return "has no configuration of its own" // Multus takes the file of that name on the node
	}
	if err := json.Unmarshal([]byte(config), &conf); err != nil {
		return "is not valid JSON: " + err.Error()
	}
	reason := "has no ipam section"
	for _, p := range append(conf.Plugins, conf.plugin) {
		switch {
		case p.IPAM == nil:
		case p.IPAM.Type == delegate.PluginType:
			return ""
		default:
			reason = fmt.Sprintf("names the IPAM plugin %q", p.IPAM.Type)
		}
	}
	return reason
}
