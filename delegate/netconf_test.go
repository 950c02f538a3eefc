package delegate

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var cmpAddrs = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestParseConfig(t *testing.T) {
	withIPAM := func(ipam IPAM) Config {
		if ipam.Socket == "" {
			ipam.Socket = DefaultSocket
		}
		return Config{Name: "n", IPAM: ipam}
	}
	tests := []struct {
		name, in string
		want     Config
	}{{
		name: "least",
		in:   `{"name":"n","ipam":{"type":"berth"}}`,
		want: withIPAM(IPAM{}),
	}, {
		name: "macvlan",
		in: `{"cniVersion":"1.0.0","name":"vlan910","type":"macvlan","master":"bond0.910","mode":"bridge","mtu":9000,"linkInContainer":true,
			"unknown":{},"dns":{"nameservers":["10.0.0.1"]},
			"ipam":{"type":"berth","socket":"/run/b.sock","ippools":["zone-a","zone-*"],"steering":"never","sourceGuard":"disabled","routes":[{"dst":"172.16.0.0/12","gw":"10.6.0.254"},{"dst":"fd00::1"}]}}`,
		want: Config{CNIVersion: "1.0.0", Name: "vlan910", Type: "macvlan", Parent: "bond0.910", Mode: "bridge", LinkInContainer: true,
			IPAM: IPAM{Socket: "/run/b.sock", Pools: []string{"zone-a", "zone-*"}, Steering: "Never", SourceGuard: "Disabled", Routes: []Route{
				{netip.MustParsePrefix("172.16.0.0/12"), netip.MustParseAddr("10.6.0.254")},
				{netip.MustParsePrefix("fd00::1/128"), netip.Addr{}},
			}}},
	}, {
		name: "pools as a string",
		in:   `{"name":"n","ipam":{"type":"berth","ippools":" zone-a ,zone-b,zone-a"}}`,
		want: withIPAM(IPAM{Pools: []string{"zone-a", "zone-b"}}),
	}, {
		name: "pools by family",
		in:   `{"name":"n","ipam":{"type":"berth","ipv4":"a,b","ipv6":["c"]}}`,
		want: withIPAM(IPAM{IPv4: []string{"a", "b"}, IPv6: []string{"c"}}),
	}, {
		name: "Spiderpool",
		in: `{"name":"n","ipam":{"type":"berth","log_level":"DEBUG","log_file_path":"/var/log/x","log_file_max_size":1,"log_file_max_age":1,
			"log_file_max_count":1,"ipam_unix_socket_path":"/x","match_master_subnet":false,"clean_gateway":true,
			"default_ipv4_ippool":["a"],"default_ipv6_ippool":["b"]}}`,
		want: withIPAM(IPAM{IPv4: []string{"a"}, IPv6: []string{"b"}, NoDefaultRoute: true}),
	}, {
		name: "asked-for addresses, each once",
		in: `{"name":"n","ipam":{"type":"berth"},"runtimeConfig":{"ips":["10.6.1.7/16","fd00::7"]},
			"args":{"cni":{"ips":["10.6.1.7","10.6.1.8","::ffff:10.6.1.9"],"other":1}}}`,
		want: func() Config {
			c := withIPAM(IPAM{})
			c.IPs = addrs("10.6.1.7", "fd00::7", "10.6.1.8", "10.6.1.9")
			return c
		}(),
	}, {
		name: "asked-for addresses as a string",
		in:   `{"name":"n","ipam":{"type":"berth"},"args":{"cni":{"ips":"10.6.1.7, 10.6.1.8"}}}`,
		want: func() Config { c := withIPAM(IPAM{}); c.IPs = addrs("10.6.1.7", "10.6.1.8"); return c }(),
	}, {
		name: "GC",
		in:   `{"name":"n","ipam":{"type":"berth"},"cni.dev/valid-attachments":[{"containerID":"c","ifname":"eth0"}]}`,
		want: func() Config {
			c := withIPAM(IPAM{})
			c.ValidAttachments = []types.GCAttachment{{ContainerID: "c", IfName: "eth0"}}
			return c
		}(),
	}, {
		name: "GC, none is alive",
		in:   `{"name":"n","ipam":{"type":"berth"},"cni.dev/valid-attachments":[]}`,
		want: func() Config { c := withIPAM(IPAM{}); c.ValidAttachments = []types.GCAttachment{}; return c }(),
	}, {
		name: "GC, nothing is known",
		in:   `{"name":"n","ipam":{"type":"berth"},"cni.dev/valid-attachments":null}`,
		want: withIPAM(IPAM{}),
	}}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseConfig([]byte(test.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&test.want, got, cmpAddrs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseConfigPrevResult(t *testing.T) {
	for _, in := range []string{
		`{"cniVersion":"0.4.0","prevResult":{"ips":[{"version":"4","address":"10.6.1.7/16"}]},"ipam":{"type":"berth"}}`,
		`{"cniVersion":"1.1.0","prevResult":{"cniVersion":"1.1.0","ips":[{"address":"10.6.1.7/16"}]},"ipam":{"type":"berth"}}`,
	} {
		c, err := ParseConfig([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		if c.PrevResult == nil || len(c.PrevResult.IPs) != 1 || c.PrevResult.IPs[0].Address.String() != "10.6.1.7/16" {
			t.Errorf("%s: %v", in, c.PrevResult)
		}
	}
}

func TestParseConfigErrors(t *testing.T) {
	tests := []struct{ in, want string }{
		{``, "network configuration"},
		{`[]`, "network configuration"},
		{`{"master":7}`, "master"},
		{`{"name":"n"}`, `network "n": no ipam section; add "ipam": {"type": "berth"}`},
		{`{"ipam":null}`, "no ipam section"},
		{`{"ipam":[]}`, "ipam is no object"},
		{`{"ipam":{}}`, `ipam type is missing, want "berth"`},
		{`{"ipam":{"type":"host-local"}}`, `ipam type is "host-local", want "berth"`},
		{`{"ipam":{"type":7}}`, "ipam type is 7"},
		{`{"ipam":{"type":"berth","ippool":"zone-a"}}`, "ipam ippool: unknown key"},
		{`{"ipam":{"type":"berth","subnet":"10.0.0.0/8"}}`, "ipam subnet: unknown key; addresses come from IPPools"},
		{`{"ipam":{"type":"berth","socket":"run/x"}}`, "no absolute path"},
		{`{"ipam":{"type":"berth","socket":1}}`, "no absolute path"},
		{`{"ipam":{"type":"berth","ippools":[]}}`, "ipam ippools: names no pool"},
		{`{"ipam":{"type":"berth","ippools":""}}`, "ipam ippools: names no pool"},
		{`{"ipam":{"type":"berth","ippools":null}}`, "ipam ippools: names no pool"},
		{`{"ipam":{"type":"berth","ippools":{"ipv4":["a"]}}}`, "neither a list of pools nor a string"},
		{`{"ipam":{"type":"berth","ippools":"a,,b"}}`, "empty pool name"},
		{`{"ipam":{"type":"berth","ippools":["a b"]}}`, `"a b", which is no pool name`},
		{`{"ipam":{"type":"berth","ipv4":"Zone"}}`, `"Zone", which is no pool name`},
		{`{"ipam":{"type":"berth","ipv6":"zone-[a"}}`, `malformed pattern "zone-[a"`},
		{`{"ipam":{"type":"berth","ippools":"a","ipv4":"b"}}`, "exclude each other"},
		{`{"ipam":{"type":"berth","ipv4":"a","default_ipv4_ippool":["b"]}}`, "are the same"},
		{`{"ipam":{"type":"berth","ipv6":"a","default_ipv6_ippool":["b"]}}`, "are the same"},
		{`{"ipam":{"type":"berth","steering":"sometimes"}}`, "none of Auto, Always, Never"},
		{`{"ipam":{"type":"berth","steering":true}}`, "no string"},
		{`{"ipam":{"type":"berth","sourceGuard":"Required"}}`, "none of Enabled, Disabled"},
		{`{"ipam":{"type":"berth","sourceGuard":false}}`, "no string"},
		{`{"ipam":{"type":"berth","clean_gateway":"yes"}}`, "neither true nor false"},
		{`{"ipam":{"type":"berth","match_master_subnet":true}}`, "match_master_subnet: not supported"},
		{`{"ipam":{"type":"berth","routes":[{"dst":"x"}]}}`, `route dst "x" is no CIDR`},
		{`{"ipam":{"type":"berth","routes":[{"to":"10.0.0.0/8"}]}}`, `unknown field "to"`},
		{`{"ipam":{"type":"berth","routes":[{"dst":"10.0.0.0/8","gw":"fe80::1"}]}}`, "other family"},
		{`{"ipam":{"type":"berth","routes":[{"dst":"::/0","gw":"fe80::1%eth0"}]}}`, "no IP address"},
		{`{"ipam":{"type":"berth","routes":[{"dst":"::ffff:10.0.0.0/104"}]}}`, "write it as IPv4"},
		{`{"ipam":{"type":"berth"},"runtimeConfig":{"ips":["10.6.1.777"]}}`, `runtimeConfig.ips: "10.6.1.777" is no IP address`},
		{`{"ipam":{"type":"berth"},"args":{"cni":{"ips":["10.6.1.7/99"]}}}`, `args.cni.ips: "10.6.1.7/99" is no IP address`},
		{`{"ipam":{"type":"berth"},"args":{"cni":{"ips":{"a":1}}}}`, "args.cni.ips"},
		{`{"cniVersion":"1.0.0","ipam":{"type":"berth"},"prevResult":{"cniVersion":"1.0.0","ips":[{"address":"x"}]}}`, "prevResult"},
		{`{"cniVersion":"0.4.0","ipam":{"type":"berth"},"prevResult":{"IPs":[null]}}`, "prevResult: IPs has a null in it"},
		{`{"cniVersion":"1.0.0","ipam":{"type":"berth"},"prevResult":{"ips":[{"address":"10.6.1.7/16"},{}]}}`, "prevResult: ips[1] has no address"},
		{`{"cniVersion":"0.2.0","ipam":{"type":"berth"},"prevResult":{"ip4":{}}}`, "prevResult: ips[0] has no address"},
		{`{"cniVersion":"7.0.0","ipam":{"type":"berth"},"prevResult":{}}`, "prevResult"},
	}
	for _, test := range tests {
		c, err := ParseConfig([]byte(test.in))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s:\n got %+v, %v\nwant %s", test.in, c, err, test.want)
		}
	}
}

// formatConfig writes all that a Config holds.
func formatConfig(t *testing.T, c *Config) []byte {
	t.Helper()
	ipam := map[string]any{"type": PluginType, "socket": c.IPAM.Socket, "clean_gateway": c.IPAM.NoDefaultRoute}
	for key, list := range map[string][]string{"ippools": c.IPAM.Pools, "ipv4": c.IPAM.IPv4, "ipv6": c.IPAM.IPv6} {
		if list != nil {
			ipam[key] = list
		}
	}
	if c.IPAM.Steering != "" {
		ipam["steering"] = c.IPAM.Steering
	}
	if c.IPAM.SourceGuard != "" {
		ipam["sourceGuard"] = c.IPAM.SourceGuard
	}
	var routes []map[string]string
	for _, r := range c.IPAM.Routes {
		one := map[string]string{"dst": r.Dst.String()}
		if r.GW.IsValid() {
			one["gw"] = r.GW.String()
		}
		routes = append(routes, one)
	}
	ipam["routes"] = routes
	all := map[string]any{
		"cniVersion": c.CNIVersion, "name": c.Name, "type": c.Type, "master": c.Parent, "mode": c.Mode, "linkInContainer": c.LinkInContainer,
		"ipam": ipam, "runtimeConfig": map[string]any{"ips": c.IPs}, "cni.dev/valid-attachments": c.ValidAttachments,
	}
	if c.PrevResult != nil {
		all["prevResult"] = c.PrevResult
	}
	out, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// FuzzParseConfig: whatever is accepted is sound, and means the same when written again.
func FuzzParseConfig(f *testing.F) {
	f.Add(`{"cniVersion":"1.1.0","name":"n","type":"macvlan","master":"eth0","ipam":{"type":"berth","ippools":"a,b-*","routes":[{"dst":"10.0.0.0/8","gw":"10.6.0.1"}]},
		"runtimeConfig":{"ips":["10.6.1.7/16"]},"args":{"cni":{"ips":"10.6.1.8"}},"cni.dev/valid-attachments":[],"prevResult":{"ips":[{"address":"10.6.1.7/16"}]}}`)
	f.Add(`{"cniVersion":"0.3.1","ipam":{"type":"berth","default_ipv4_ippool":["a"],"ipv6":"b"},"prevResult":{"ips":[null],"interfaces":[null],"routes":[null]}}`)
	f.Add(`{"cniVersion":"0.2.0","ipam":{"type":"berth"},"prevResult":{"ip4":{"ip":"10.6.1.7/16","gateway":"10.6.0.1","routes":[{"dst":"0.0.0.0/0"}]}}}`)
	f.Add(`{"cniVersion":"1.0.0","ipam":{"type":"berth"},"cni.dev/valid-attachments":[{"containerID":"c","ifname":"net1"}],
		"prevResult":{"cniVersion":"1.0.0","interfaces":[{"name":"net1","mac":"02:00:00:00:00:01","sandbox":"/n"}],
		"ips":[{"address":"fd00::7/64","interface":0,"gateway":"fd00::1"}],"routes":[{"dst":"::/0","gw":"fd00::1"}],"dns":{"search":["x"]}}}`)
	f.Add(`{"ipam":{"type":"berth","steering":"Never","sourceGuard":"Enabled","socket":"/x","clean_gateway":true}}`)
	f.Add(`{"ipam":{"type":"berth","ipv4":["[a]"],"log_level":1,"match_master_subnet":false,"routes":null},"args":{"cni":{"ips":["fd00::7","::ffff:10.6.1.7/100"]}}}`)
	f.Add(`{"ipam":{"type":"berth","type":"host-local"},"Master":"a","master":"b"} `)
	f.Fuzz(func(t *testing.T, in string) {
		c, err := ParseConfig([]byte(in))
		if err != nil {
			return
		}
		if !strings.HasPrefix(c.IPAM.Socket, "/") || c.IPAM.Pools != nil && (c.IPAM.IPv4 != nil || c.IPAM.IPv6 != nil) {
			t.Errorf("%+v", c.IPAM)
		}
		for i, a := range c.IPs {
			if !a.IsValid() || a.Zone() != "" || a.Is4In6() || len(MergeAddrs(addrs(), c.IPs[:i+1]...)) != i+1 {
				t.Errorf("addresses %v", c.IPs)
			}
		}
		for _, r := range c.IPAM.Routes {
			if r.Dst != r.Dst.Masked() || r.GW.IsValid() && r.GW.Is4() != r.Dst.Addr().Is4() {
				t.Errorf("route %v", r)
			}
		}
		if c.PrevResult != nil {
			c.CNIVersion = c.PrevResult.CNIVersion                                           // that which it was converted to
			c.PrevResult = &types100.Result{CNIVersion: c.CNIVersion, IPs: c.PrevResult.IPs} // nothing else is read
		}
		text := formatConfig(t, c)
		again, err := ParseConfig(text)
		if err != nil {
			t.Fatalf("%s as %s: %v", in, text, err)
		}
		if diff := cmp.Diff(c, again, cmpAddrs, cmpopts.EquateEmpty()); diff != "" || (c.ValidAttachments == nil) != (again.ValidAttachments == nil) {
			t.Errorf("%s as %s (-first +again):\n%s", in, text, diff)
		}
	})
}
