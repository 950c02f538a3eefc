package nad

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// mostAddresses of a pool that is carved, as the field size of an IPPool has it.
const mostAddresses = 65536

// Size of an application pool: N addresses of each family, or N more than the workload needs.
type Size struct {
	N     int32
	Fixed bool
}

// Of a workload that needs so many addresses at once.
func (s Size) Of(need int32) int32 {
	if s.Fixed {
		return s.N
	}
	return int32(min(int64(need)+int64(s.N), mostAddresses))
}

// Template is what the pods of a workload ask of its application pools.
type Template struct {
	Pools []TemplatePool
	Size  Size
	// Netspace that the pods name; "": none.
	Netspace string
	// Keep the pools when the workload is gone.
	Keep bool
}

// TemplatePool is one pool: that of an interface in a Subnet.
type TemplatePool struct{ Interface, Subnet string }

// Carves says whether annotations ask for a pool of the workload, or may.
func Carves(annotations map[string]string) bool {
	return slices.ContainsFunc([]string{SubnetAnnotation, spiderSubnets, spiderSubnet}, func(key string) bool {
		_, ok := annotations[key]
		return ok
	})
}

// Relevant are those of the annotations that TemplateOf reads, so that a cache need not hold the others.
func Relevant(annotations map[string]string) map[string]string {
	if !Carves(annotations) {
		return nil
	}
	out := map[string]string{}
	for key, value := range annotations {
		if ofPods.has(key) || key == networksAnnotation || key == defaultNetworkAnnotation {
			out[key] = value
		}
	}
	return out
}

// TemplateOf reads the annotations of a pod template in a namespace. config gives the configuration of a NetworkAttachmentDefinition
// ("namespace/name"), and false if it is not known. A Subnet without interface is for every one whose network calls Berth; a network
// that is not known counts as one that does. An error is the user's, as that of Resolve, which a pod of the template gets.
func TemplateOf(annotations map[string]string, namespace string, config func(nad string) (string, bool)) (Template, []string, error) {
	var t Template
	if !Carves(annotations) {
		return t, nil, nil
	}
	var warnings []string
	warn := func(format string, args ...any) {
		if w := fmt.Sprintf(format, args...); !slices.Contains(warnings, w) { // of each interface
			warnings = append(warnings, w)
		}
	}
	if err := ofPods.check("pod", annotations); err != nil {
		return t, nil, err
	}
	interfaces, err := Interfaces(annotations, namespace)
	if err != nil {
		return t, nil, err
	}
	if t.Size, t.Keep, err = sizeOf(annotations, warn); err != nil {
		return t, nil, err
	}
	if t.Netspace, _, err = netspaceOf(annotations, warn); err != nil {
		return t, nil, err
	}
	for _, i := range interfaces {
		c, ok, err := carveOf(annotations, i.Name, interfaces, warn)
		if err != nil {
			return Template{}, nil, err
		}
		if !ok || c.ifName == "" && !calls(i, interfaces, config) {
			continue
		}
		for _, name := range c.Names() {
			t.Pools = append(t.Pools, TemplatePool{i.Name, name})
		}
	}
	return t, warnings, nil
}

// calls says whether the network of an interface calls Berth. Of the cluster's default network nobody knows; where a pod has others, it
// is one of those that was meant.
func calls(i Interface, interfaces []Interface, config func(string) (string, bool)) bool {
	if i.NAD == "" {
		return len(interfaces) == 1
	}
	text, known := config(i.NAD)
	return !known || notBerth(text) == ""
}

// sizeOf the pools, and whether they are kept.
func sizeOf(annotations map[string]string, warn func(string, ...any)) (s Size, keep bool, err error) {
	if keys := pick(annotations, warn, []string{SizeAnnotation}, []string{spiderSize}); keys != nil {
		if s, err = parseSize(annotations[keys[0]]); err != nil {
			return s, false, annotationError("pod", keys[0], annotations[keys[0]], err)
		}
	}
	if keys := pick(annotations, warn, []string{ReclaimAnnotation}, []string{spiderReclaim}); keys != nil {
		value := annotations[keys[0]]
		switch {
		case strings.EqualFold(strings.TrimSpace(value), "false"):
			keep = true
		case !strings.EqualFold(strings.TrimSpace(value), "true"):
			return s, false, annotationError("pod", keys[0], value,
				errors.New("is neither true (the pool goes with its workload) nor false (it stays)"))
		}
	}
	return s, keep, nil
}

// parseSize reads "5", or "+2".
func parseSize(text string) (Size, error) {
	digits, more := strings.CutPrefix(strings.TrimSpace(text), "+")
	n, err := strconv.ParseUint(digits, 10, 32)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return Size{}, errors.New("is no number of addresses; write 5 for so many, or +2 for so many more than the workload needs")
	case err != nil || n > mostAddresses:
		return Size{}, fmt.Errorf("is more than a pool may have, %d addresses; write less", mostAddresses)
	case n == 0 && !more:
		return Size{}, errors.New("leaves the workload without any address; write 1 or more, or +0 for as many as it needs")
	}
	return Size{N: int32(n), Fixed: !more}, nil
}
