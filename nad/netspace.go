package nad

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// netspaceOf a pod by its annotations.
func netspaceOf(pod map[string]string, warn func(string, ...any)) (name, source string, err error) {
	for _, key := range pick(pod, warn, []string{NetspaceAnnotation}, []string{foreignNetspace}) {
		name = strings.TrimSpace(pod[key])
		switch {
		case name == "":
			err = errors.New("names no netspace; write a name, or leave the annotation out")
		case len(validation.IsDNS1123Subdomain(name)) > 0:
			err = errors.New("is no name of a Netspace; write one such as team-a")
		}
		if err != nil {
			return "", "", annotationError("pod", key, pod[key], err)
		}
		source = fmt.Sprintf("pod annotation %s %q", key, pod[key])
	}
	return name, source, nil
}

// ParseAccessVLANs reads the annotation berth.dev/access-vlans of a node, "eth1=910,eth2=911": which links are access ports of which
// VLAN (IEEE 802.1Q), 1 to 4094. Its error names the annotation and says what to write.
func ParseAccessVLANs(s string) (map[string]int32, error) {
	vlans, err := parseAccessVLANs(s)
	if err != nil {
		return nil, annotationError("node", AccessVLANsAnnotation, s, err)
	}
	return vlans, nil
}

func parseAccessVLANs(s string) (map[string]int32, error) {
	out := map[string]int32{}
	for item := range strings.SplitSeq(s, ",") {
		link, vlan, ok := strings.Cut(item, "=")
		link = strings.TrimSpace(link)
		if !ok || link == "" || len(link) > 15 || strings.ContainsAny(link, " /\t\n") { // IFNAMSIZ with its 0
			return nil, fmt.Errorf("has %q; write LINK=VLAN, such as eth1=910", strings.TrimSpace(item))
		}
		n, err := strconv.ParseUint(strings.TrimSpace(vlan), 10, 16)
		if err != nil || n < 1 || n > 4094 {
			return nil, fmt.Errorf("has VLAN %q of link %s; write a number from 1 to 4094", strings.TrimSpace(vlan), link)
		}
		if had, twice := out[link]; twice && had != int32(n) {
			return nil, errors.New("has two VLANs of link " + link + "; an access port has one")
		}
		out[link] = int32(n)
	}
	return out, nil
}
