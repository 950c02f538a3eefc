package delegate

import (
	"fmt"
	"net/netip"
	"strings"
)

// Args is what CNI_ARGS says.
type Args struct {
	Namespace string // K8S_POD_NAMESPACE
	Pod       string // K8S_POD_NAME
	UID       string // K8S_POD_UID; empty from a runtime that does not pass it

	// IPs asked for, each once, in order.
	IPs []netip.Addr
}

// ParseArgs reads CNI_ARGS, "K=V;K=V". Keys that it does not know are an error unless IgnoreUnknown is true, as in the CNI
// conventions. Multus appends the runtime's own pairs to its own, so the same key may come twice; the last value that is
// not empty counts.
func ParseArgs(s string) (Args, error) {
	var (
		args    Args
		unknown []string
		ignore  bool
	)
	for pair := range strings.SplitSeq(s, ";") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return Args{}, fmt.Errorf("CNI_ARGS: %q is no KEY=VALUE", pair)
		}
		switch key {
		case "K8S_POD_NAMESPACE":
			set(&args.Namespace, value)
		case "K8S_POD_NAME":
			set(&args.Pod, value)
		case "K8S_POD_UID":
			set(&args.UID, value)
		case "K8S_POD_INFRA_CONTAINER_ID": // is CNI_CONTAINERID
		case "IgnoreUnknown":
			switch strings.ToLower(value) {
			case "1", "true":
				ignore = true
			case "0", "false":
				ignore = false
			default:
				return Args{}, fmt.Errorf("CNI_ARGS: IgnoreUnknown=%q is neither true nor false", value)
			}
		case "IP":
			if value == "" {
				continue
			}
			for one := range strings.SplitSeq(value, ",") {
				addr, err := ParseAddr(one)
				if err != nil {
					return Args{}, fmt.Errorf("CNI_ARGS: IP=%s: %w", value, err)
				}
				args.IPs = MergeAddrs(args.IPs, addr)
			}
		default:
			unknown = append(unknown, key)
		}
	}
	if len(unknown) > 0 && !ignore {
		return Args{}, fmt.Errorf("CNI_ARGS: unknown %s; set IgnoreUnknown=1 to have it ignored", strings.Join(unknown, ", "))
	}
	return args, nil
}

func set(field *string, value string) {
	if value != "" {
		*field = value
	}
}
