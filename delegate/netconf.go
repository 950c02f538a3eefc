package delegate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// PluginType is the name of the plugin: "type" in the ipam section.
const PluginType = "berth"

// Config is what Berth needs of the network configuration that a CNI plugin gets on stdin. It is the main plugin's
// configuration, passed on unchanged, so most keys at the top are macvlan's (or bridge's, or ptp's) and not looked at.
type Config struct {
	CNIVersion string
	Name       string // of the network; the scope of GC
	Type       string // of the main plugin

	Parent          string // "master": the host link. Empty: macvlan takes that of the default route
	Mode            string // of macvlan; empty is bridge
	LinkInContainer bool   // the parent is in the pod's namespace

	IPAM IPAM
	// IPs asked for in runtimeConfig.ips and args.cni.ips, each once, in order.
	IPs []netip.Addr

	// ValidAttachments is for GC: all that are still alive. Nil (not given, or null) means unknown, and nothing may be
	// freed; empty means that none is alive.
	ValidAttachments []types.GCAttachment
	// PrevResult is for CHECK: what ADD answered. Nil if not given.
	PrevResult *types100.Result
}

// IPAM is the ipam section. {"type":"berth"} is enough.
type IPAM struct {
	Socket string // of the agent; DefaultSocket if not given

	Pools      []string // "ippools": patterns in order, of either family. Exclusive with the next two
	IPv4, IPv6 []string // "ipv4", "ipv6", or Spiderpool's default_ipv4_ippool, default_ipv6_ippool

	Steering       string  // "", "Auto", "Always" or "Never"
	SourceGuard    string  // "", "Enabled" or "Disabled"
	Routes         []Route // for this interface
	NoDefaultRoute bool    // Spiderpool's clean_gateway
}

// ParseConfig reads a network configuration. Its errors are the user's (CNI error code 7) and name the key.
func ParseConfig(data []byte) (*Config, error) {
	var raw struct {
		CNIVersion      string          `json:"cniVersion"`
		Name            string          `json:"name"`
		Type            string          `json:"type"`
		Master          string          `json:"master"`
		Mode            string          `json:"mode"`
		LinkInContainer bool            `json:"linkInContainer"`
		IPAM            json.RawMessage `json:"ipam"`
		RuntimeConfig   struct {
			IPs []string `json:"ips"`
		} `json:"runtimeConfig"`
		Args struct {
			CNI struct {
				IPs json.RawMessage `json:"ips"`
			} `json:"cni"`
		} `json:"args"`
		ValidAttachments []types.GCAttachment `json:"cni.dev/valid-attachments"`
		PrevResult       map[string]any       `json:"prevResult"`
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	c := &Config{
		CNIVersion: raw.CNIVersion, Name: raw.Name, Type: raw.Type,
		Parent: raw.Master, Mode: raw.Mode, LinkInContainer: raw.LinkInContainer,
		ValidAttachments: raw.ValidAttachments,
	}
	var err error
	if c.IPAM, err = parseIPAM(raw.IPAM); err != nil {
		return nil, fmt.Errorf("network %q: %w", raw.Name, err)
	}
	if c.IPs, err = askedIPs(raw.RuntimeConfig.IPs, raw.Args.CNI.IPs); err != nil {
		return nil, fmt.Errorf("network %q: %w", raw.Name, err)
	}
	if c.PrevResult, err = prevResult(raw.CNIVersion, raw.PrevResult); err != nil {
		return nil, fmt.Errorf("network %q: prevResult: %w", raw.Name, err)
	}
	return c, nil
}

// prevResult converts a result of any version; nil stays nil.
func prevResult(cniVersion string, raw map[string]any) (*types100.Result, error) {
	if raw == nil {
		return nil, nil
	}
	for key, value := range raw { // cni v1.3.1 panics when it converts an interface, address or route that is null
		if list, ok := value.([]any); ok && slices.Contains(list, nil) {
			return nil, fmt.Errorf("%s has a null in it", key)
		}
	}
	conf := &types.PluginConf{CNIVersion: cniVersion, RawPrevResult: raw}
	if err := version.ParsePrevResult(conf); err != nil {
		return nil, err
	}
	res, err := types100.NewResultFromResult(conf.PrevResult)
	if err != nil {
		return nil, err
	}
	for i, ip := range res.IPs {
		if ip.Address.IP == nil { // cni v1.3.1 takes {} for an address
			return nil, fmt.Errorf("ips[%d] has no address", i)
		}
	}
	return res, nil
}

func askedIPs(runtime []string, args json.RawMessage) ([]netip.Addr, error) {
	var ips []netip.Addr
	for _, s := range runtime {
		addr, err := ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("runtimeConfig.ips: %w", err)
		}
		ips = MergeAddrs(ips, addr)
	}
	if len(args) == 0 {
		return ips, nil
	}
	var list []string
	if err := json.Unmarshal(args, &list); err != nil {
		var one string
		if json.Unmarshal(args, &one) != nil {
			return nil, fmt.Errorf("args.cni.ips: %s is no list of addresses", args)
		}
		list = strings.Split(one, ",")
	}
	for _, s := range list {
		addr, err := ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("args.cni.ips: %w", err)
		}
		ips = MergeAddrs(ips, addr)
	}
	return ips, nil
}

// parseIPAM is strict: a key that it does not know is a typing error that would otherwise give a pod the wrong address, or
// belongs to another IPAM plugin.
func parseIPAM(data json.RawMessage) (IPAM, error) {
	if len(data) == 0 || bytes.Equal(data, []byte("null")) {
		return IPAM{}, fmt.Errorf(`no ipam section; add "ipam": {"type": %q}`, PluginType)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return IPAM{}, fmt.Errorf(`ipam is no object; write "ipam": {"type": %q}`, PluginType)
	}
	var typ string
	if err := json.Unmarshal(keys["type"], &typ); err != nil || typ != PluginType {
		return IPAM{}, fmt.Errorf("ipam type is %s, want %q", orNothing(keys["type"]), PluginType)
	}
	ipam := IPAM{Socket: DefaultSocket}
	for _, key := range slices.Sorted(maps.Keys(keys)) { // sorted, so that the same mistake has the same message
		if err := ipam.set(key, keys[key]); err != nil {
			return IPAM{}, fmt.Errorf("ipam %s: %w", key, err)
		}
	}
	if ipam.Pools != nil && (ipam.IPv4 != nil || ipam.IPv6 != nil) {
		return IPAM{}, errors.New("ipam: ippools and pools by family (ipv4, ipv6) exclude each other")
	}
	return ipam, nil
}

func (ipam *IPAM) set(key string, value json.RawMessage) error {
	switch key {
	case "type":
		return nil
	case "socket":
		if err := json.Unmarshal(value, &ipam.Socket); err != nil || !strings.HasPrefix(ipam.Socket, "/") {
			return fmt.Errorf("%s is no absolute path", value)
		}
		return nil
	case "ippools":
		return unmarshalPools(value, &ipam.Pools)
	case "ipv4", "default_ipv4_ippool":
		if ipam.IPv4 != nil {
			return errors.New("ipv4 and default_ipv4_ippool are the same; give one")
		}
		return unmarshalPools(value, &ipam.IPv4)
	case "ipv6", "default_ipv6_ippool":
		if ipam.IPv6 != nil {
			return errors.New("ipv6 and default_ipv6_ippool are the same; give one")
		}
		return unmarshalPools(value, &ipam.IPv6)
	case "steering":
		var s string
		if err := json.Unmarshal(value, &s); err != nil {
			return fmt.Errorf("%s is no string", value)
		}
		var err error
		ipam.Steering, err = ParseSteering(s)
		return err
	case "sourceGuard":
		var s string
		if err := json.Unmarshal(value, &s); err != nil {
			return fmt.Errorf("%s is no string", value)
		}
		var err error
		ipam.SourceGuard, err = ParseSourceGuard(s)
		return err
	case "routes":
		return ipam.setRoutes(value)
	case "clean_gateway":
		if err := json.Unmarshal(value, &ipam.NoDefaultRoute); err != nil {
			return fmt.Errorf("%s is neither true nor false", value)
		}
		return nil
	case "log_level", "log_file_path", "log_file_max_size", "log_file_max_age", "log_file_max_count", "ipam_unix_socket_path":
		return nil // Spiderpool's, without a meaning here, so that changing the type is enough to switch
	case "match_master_subnet":
		if string(value) == "false" {
			return nil
		}
		return errors.New("not supported; name the pools of the parent's subnet instead")
	default:
		return fmt.Errorf("unknown key; addresses come from IPPools, named in ippools, ipv4 or ipv6")
	}
}

func (ipam *IPAM) setRoutes(value json.RawMessage) error {
	var routes []struct {
		Dst string `json:"dst"`
		GW  string `json:"gw"`
	}
	dec := json.NewDecoder(bytes.NewReader(value))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&routes); err != nil {
		return fmt.Errorf(`want [{"dst": CIDR, "gw": ADDRESS}]: %w`, err)
	}
	for _, r := range routes {
		route, err := ParseRoute(r.Dst, r.GW)
		if err != nil {
			return err
		}
		ipam.Routes = append(ipam.Routes, route)
	}
	return nil
}

// ParseSteering reads when the routes of the service path are given: Auto, Always or Never, in any case of letters.
func ParseSteering(s string) (string, error) {
	for _, v := range []string{"Auto", "Always", "Never"} {
		if strings.EqualFold(s, v) {
			return v, nil
		}
	}
	return "", fmt.Errorf("steering %q is none of Auto, Always, Never", s)
}

// ParseSourceGuard reads whether an interface is kept to its leases: Enabled or Disabled, in any case of letters.
func ParseSourceGuard(s string) (string, error) {
	for _, v := range []string{"Enabled", "Disabled"} {
		if strings.EqualFold(s, v) {
			return v, nil
		}
	}
	return "", fmt.Errorf("source guard %q is none of Enabled, Disabled", s)
}

func unmarshalPools(value json.RawMessage, to *[]string) error {
	var list poolList
	if err := list.UnmarshalJSON(value); err != nil {
		return err
	}
	*to = list
	return nil
}

func orNothing(v json.RawMessage) string {
	if len(v) == 0 {
		return "missing"
	}
	return string(v)
}
