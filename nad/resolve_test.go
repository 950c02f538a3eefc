package nad

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/delegate"
)

// kv makes a map of annotations of keys and values in turn.
func kv(pairs ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

func route(dst, gw string, byPod bool) Route {
	r := Route{ByPod: byPod}
	r.Dst = netip.MustParsePrefix(dst)
	if gw != "" {
		r.GW = netip.MustParseAddr(gw)
	}
	return r
}

func section(s delegate.IPAM) *delegate.Config { return &delegate.Config{IPAM: s} }

func TestResolve(t *testing.T) {
	const two = "store-net@net1,other"
	list := func(s ...string) []string { return s }
	tests := []struct {
		name     string
		pod, ns  map[string]string
		ifName   string // net1 if empty
		config   *delegate.Config
		ips      []netip.Addr
		want     Ask
		warnings []string
	}{{
		name: "nothing said",
	}, {
		name: "a netspace",
		pod:  kv(NetspaceAnnotation, " team-a "),
		want: Ask{Netspace: "team-a", NetspaceSource: `pod annotation berth.dev/netspace " team-a "`},
	}, {
		name: "a netspace, by the other name",
		pod:  kv(foreignNetspace, "team-a"),
		want: Ask{Netspace: "team-a", NetspaceSource: `pod annotation ipam.com/netspace "team-a"`},
	}, {
		name:     "a netspace, by both",
		pod:      kv(NetspaceAnnotation, "team-a", foreignNetspace, "team-b"),
		want:     Ask{Netspace: "team-a", NetspaceSource: `pod annotation berth.dev/netspace "team-a"`},
		warnings: list("annotation ipam.com/netspace is ignored, since berth.dev/netspace is set too"),
	}, {
		name: "ippool, short",
		pod:  kv(PoolAnnotation, "zone-a, zone-b"),
		want: Ask{Source: "pod annotation berth.dev/ippool", Any: list("zone-a", "zone-b")},
	}, {
		name: "ippool, pattern with brackets",
		pod:  kv(PoolAnnotation, "[ab]-zone,zone-?"),
		want: Ask{Source: "pod annotation berth.dev/ippool", Any: list("[ab]-zone", "zone-?")},
	}, {
		name: "ippool, list",
		pod:  kv(PoolAnnotation, `["zone-a", "zone-*"]`),
		want: Ask{Source: "pod annotation berth.dev/ippool", Any: list("zone-a", "zone-*")},
	}, {
		name: "ippool by family",
		pod:  kv(PoolAnnotation, `{"ipv4":["a","b"],"ipv6":["c"]}`),
		want: Ask{Source: "pod annotation berth.dev/ippool", IPv4: list("a", "b"), IPv6: list("c")},
	}, {
		name: "Spiderpool's ippool, one family",
		pod:  kv(spiderPool, " {\n\"ipv4\": [\"a\"], \"ipv6\": []}\n"),
		want: Ask{Source: "pod annotation ipam.spidernet.io/ippool", IPv4: list("a")},
	}, {
		name: "ippools, short",
		pod:  kv(PoolsAnnotation, "net1=zone-a,zone-b; net2 = store;", networksAnnotation, two),
		want: Ask{Source: "pod annotation berth.dev/ippools", Any: list("zone-a", "zone-b")},
	}, {
		name:   "ippools in lines",
		pod:    kv(PoolsAnnotation, "net1=zone-a\n\nnet2=store\n", networksAnnotation, two),
		ifName: "net2",
		want:   Ask{Source: "pod annotation berth.dev/ippools", Any: list("store")},
	}, {
		name: "ippools in JSON",
		pod:  kv(PoolsAnnotation, `[{"interface":"net1","ipv4":["a"],"cleangateway":true},{"interface":"net2","ipv6":["b"]}]`, networksAnnotation, two),
		want: Ask{Source: "pod annotation berth.dev/ippools", IPv4: list("a"), NoDefaultRoute: true},
	}, {
		name:   "cleangateway of the network counts unless the entry speaks of it",
		pod:    kv(spiderPools, `[{"interface":"net1","ipv4":["a"],"cleangateway":false},{"interface":"net2","ipv4":["a"]}]`, networksAnnotation, two),
		config: section(delegate.IPAM{NoDefaultRoute: true}),
		want:   Ask{Source: "pod annotation ipam.spidernet.io/ippools", IPv4: list("a")},
	}, {
		name:   "cleangateway of the network",
		pod:    kv(spiderPools, `[{"interface":"net1","ipv4":["a"],"cleangateway":false},{"interface":"net2","ipv4":["a"]}]`, networksAnnotation, two),
		config: section(delegate.IPAM{NoDefaultRoute: true}),
		ifName: "net2",
		want:   Ask{Source: "pod annotation ipam.spidernet.io/ippools", IPv4: list("a"), NoDefaultRoute: true},
	}, {
		name:   "Spiderpool's list by order, all interfaces",
		pod:    kv(spiderPools, `[{"ipv4":["a"]},{"ipv4":["b"]},{"ipv4":["c"]}]`, networksAnnotation, two),
		ifName: "net1",
		want:   Ask{Source: "pod annotation ipam.spidernet.io/ippools", IPv4: list("b")},
	}, {
		name:   "Spiderpool's list by order, all but the default network",
		pod:    kv(spiderPools, `[{"ipv4":["a"]},{"ipv4":["b"]}]`, networksAnnotation, two),
		ifName: "net1",
		want:   Ask{Source: "pod annotation ipam.spidernet.io/ippools", IPv4: list("a")},
	}, {
		name: "ippools before ippool",
		pod:  kv(PoolsAnnotation, "net1=x", PoolAnnotation, "y", networksAnnotation, two),
		want: Ask{Source: "pod annotation berth.dev/ippools", Any: list("x")},
	}, {
		name:   "ippools without this interface: ippool",
		pod:    kv(PoolsAnnotation, "net1=x", PoolAnnotation, "y", networksAnnotation, two),
		ifName: "net2",
		want:   Ask{Source: "pod annotation berth.dev/ippool", Any: list("y")},
	}, {
		name:   "ippools without this interface: namespace",
		pod:    kv(PoolsAnnotation, "net1=x", networksAnnotation, two),
		ns:     kv(PoolAnnotation, "y"),
		ifName: "net2",
		want:   Ask{Source: "namespace annotation berth.dev/ippool", Any: list("y")},
	}, {
		name:   "pod before namespace before network",
		pod:    kv(PoolAnnotation, "x"),
		ns:     kv(PoolAnnotation, "y"),
		config: section(delegate.IPAM{Pools: list("z")}),
		want:   Ask{Source: "pod annotation berth.dev/ippool", Any: list("x")},
	}, {
		name:   "namespace before network",
		ns:     kv(PoolAnnotation, `{"ipv4":["y"]}`),
		config: section(delegate.IPAM{Pools: list("z")}),
		want:   Ask{Source: "namespace annotation berth.dev/ippool", IPv4: list("y")},
	}, {
		name: "Spiderpool's namespace",
		ns:   kv(spiderIPv4, `["a","b"]`, spiderIPv6, `["c"]`),
		want: Ask{Source: "namespace annotation ipam.spidernet.io/default-ipv4-ippool and ipam.spidernet.io/default-ipv6-ippool",
			IPv4: list("a", "b"), IPv6: list("c")},
	}, {
		name: "Spiderpool's namespace, one family",
		ns:   kv(spiderIPv6, `["c"]`),
		want: Ask{Source: "namespace annotation ipam.spidernet.io/default-ipv6-ippool", IPv6: list("c")},
	}, {
		name:     "native namespace beside Spiderpool's",
		ns:       kv(PoolAnnotation, "x", spiderIPv4, `["a"]`),
		want:     Ask{Source: "namespace annotation berth.dev/ippool", Any: list("x")},
		warnings: list("annotation ipam.spidernet.io/default-ipv4-ippool is ignored, since berth.dev/ippool is set too"),
	}, {
		name:   "network",
		config: section(delegate.IPAM{Pools: list("z")}),
		want:   Ask{Source: "NAD ipam section", Any: list("z")},
	}, {
		name:   "network by family",
		config: section(delegate.IPAM{IPv6: list("z")}),
		want:   Ask{Source: "NAD ipam section", IPv6: list("z")},
	}, {
		name:     "native beside foreign, which is not even read",
		pod:      kv(PoolAnnotation, "x", spiderPools, "not even JSON", spiderPool, "{"),
		want:     Ask{Source: "pod annotation berth.dev/ippool", Any: list("x")},
		warnings: list("annotation ipam.spidernet.io/ippools and ipam.spidernet.io/ippool is ignored, since berth.dev/ippool is set too"),
	}, {
		name: "a Subnet, of which the workload's pool is carved",
		pod:  kv(SubnetAnnotation, " office "),
		ns:   kv(PoolAnnotation, "x"),
		want: Ask{Source: "pod annotation berth.dev/subnet", Subnets: Subnets{Any: "office"}},
	}, {
		name: "Subnets by interface",
		pod:  kv(SubnetAnnotation, "net1=office; net2=store", networksAnnotation, "a,b"),
		want: Ask{Source: "pod annotation berth.dev/subnet", Subnets: Subnets{Any: "office"}},
	}, {
		name:   "Subnets of other interfaces only",
		pod:    kv(SubnetAnnotation, "net2=store", networksAnnotation, "a,b"),
		config: section(delegate.IPAM{Pools: list("zone-a")}),
		want:   Ask{Source: "NAD ipam section", Any: list("zone-a")},
	}, {
		name: "a pool by interface beside a Subnet of every one",
		pod:  kv(SubnetAnnotation, "office", PoolsAnnotation, "net1=zone-a", networksAnnotation, "a,b"),
		want: Ask{Source: "pod annotation berth.dev/ippools", Any: list("zone-a")},
	}, {
		name:   "and the others",
		pod:    kv(SubnetAnnotation, "office", PoolsAnnotation, "net1=zone-a", networksAnnotation, "a,b"),
		ifName: "net2",
		want:   Ask{Source: "pod annotation berth.dev/subnet", Subnets: Subnets{Any: "office"}},
	}, {
		name: "a Subnet by interface beside a pool of every one",
		pod:  kv(SubnetAnnotation, "net1=office", PoolAnnotation, "zone-a"),
		want: Ask{Source: "pod annotation berth.dev/subnet", Subnets: Subnets{Any: "office"}},
	}, {
		name: "Spiderpool's Subnet comes before its pools, and of several the first",
		pod:  kv(spiderSubnet, `{"ipv4":["s","t"],"ipv6":["s6"]}`, spiderPools, `[{"ipv4":["a"]}]`, spiderPool, `{"ipv4":["a"]}`),
		want: Ask{Source: "pod annotation ipam.spidernet.io/subnet", Subnets: Subnets{IPv4: "s", IPv6: "s6"}},
	}, {
		name: "Spiderpool's Subnets before its Subnet; one for both families is one pool",
		pod:  kv(spiderSubnets, `[{"interface":"net1","ipv4":["s"],"ipv6":["s"]}]`, spiderSubnet, `{"ipv4":["t"]}`),
		want: Ask{Source: "pod annotation ipam.spidernet.io/subnets", Subnets: Subnets{Any: "s"}},
	}, {
		name:     "Spiderpool's Subnet beside a pool of Berth's",
		pod:      kv(spiderSubnet, `{"ipv4":["s"]}`, PoolAnnotation, "x"),
		want:     Ask{Source: "pod annotation berth.dev/ippool", Any: list("x")},
		warnings: list("annotation ipam.spidernet.io/subnet is ignored, since berth.dev/ippool is set too"),
	}, {
		name:   "routes",
		pod:    kv(RoutesAnnotation, "10.0.0.0/16 via 10.6.0.2; fd00:1::/64 via fd00::2\n10.1.0.1 via 10.6.0.2"),
		config: section(delegate.IPAM{Routes: []delegate.Route{route("172.16.0.0/12", "", false).Route}}),
		want: Ask{Routes: []Route{route("172.16.0.0/12", "", false), route("10.0.0.0/16", "10.6.0.2", true),
			route("fd00:1::/64", "fd00::2", true), route("10.1.0.1/32", "10.6.0.2", true)}},
	}, {
		name: "Spiderpool's routes, with host bits",
		pod:  kv(spiderRoutes, `[{"dst":"10.0.0.1/16","gw":"192.168.1.1"}]`),
		want: Ask{Routes: []Route{route("10.0.0.0/16", "192.168.1.1", true)}},
	}, {
		name:     "native routes beside Spiderpool's",
		pod:      kv(RoutesAnnotation, `[{"dst":"::/0","gw":"fe80::1"}]`, spiderRoutes, "x"),
		want:     Ask{Routes: []Route{route("::/0", "fe80::1", true)}},
		warnings: list("annotation ipam.spidernet.io/routes is ignored, since berth.dev/routes is set too"),
	}, {
		name:   "steering of the pod",
		pod:    kv(SteeringAnnotation, "always"),
		config: section(delegate.IPAM{Steering: "Never"}),
		want:   Ask{Steering: "Always"},
	}, {
		name:   "steering of the network",
		config: section(delegate.IPAM{Steering: "Never"}),
		want:   Ask{Steering: "Never"},
	}, {
		name: "no fast mode",
		pod:  kv(FastModeAnnotation, " disabled"),
		want: Ask{NoFastMode: true},
	}, {
		name: "fast mode",
		pod:  kv(FastModeAnnotation, "Enabled"),
		want: Ask{},
	}, {
		name:   "source guard of the pod",
		pod:    kv(GuardAnnotation, " disabled"),
		config: section(delegate.IPAM{SourceGuard: "Enabled"}),
		want:   Ask{SourceGuard: "Disabled", GuardSource: "pod annotation berth.dev/source-guard"},
	}, {
		name:   "source guard of the network",
		config: section(delegate.IPAM{SourceGuard: "Disabled"}),
		want:   Ask{SourceGuard: "Disabled", GuardSource: "sourceGuard of the NAD ipam section"},
	}, {
		name: "allowed addresses",
		pod:  kv(AllowedAnnotation, "10.6.0.100, 10.7.0.0/16 ,fd00::100,::/0, 0.0.0.0/0"),
		want: Ask{Allowed: []netip.Prefix{netip.MustParsePrefix("10.6.0.100/32"), netip.MustParsePrefix("10.7.0.0/16"),
			netip.MustParsePrefix("fd00::100/128"), netip.MustParsePrefix("::/0"), netip.MustParsePrefix("0.0.0.0/0")}},
	}, {
		name:   "addresses from everywhere, each once",
		pod:    kv(networksAnnotation, `[{"name":"a","ips":["10.6.1.7/16"]},{"name":"b","ips":["10.9.9.9"]}]`),
		config: &delegate.Config{IPs: addrs("10.6.1.7", "10.6.1.9")},
		ips:    addrs("10.6.1.8", "10.6.1.7"),
		want:   Ask{IPs: addrs("10.6.1.7", "10.6.1.8", "10.6.1.9")},
	}, {
		name:   "fixed addresses of every interface",
		pod:    kv(IPsAnnotation, "10.6.1.9,10.6.1.5-10.6.1.6, fd00::5", networksAnnotation, two),
		ifName: "net2",
		want:   Ask{Fixed: addrs("10.6.1.9", "10.6.1.5", "10.6.1.6", "fd00::5")},
	}, {
		name:   "fixed addresses by interface, beside ips for another",
		pod:    kv(IPsAnnotation, "net1=10.6.1.5; net2=10.7.1.5", networksAnnotation, `[{"name":"a","ips":["10.6.1.7"]},{"name":"b"}]`),
		ifName: "net2",
		want:   Ask{Fixed: addrs("10.7.1.5")},
	}, {
		name: "fixed addresses of another interface",
		pod:  kv(IPsAnnotation, "net2=10.7.1.5", networksAnnotation, `[{"name":"a","ips":["10.6.1.7"]},{"name":"b"}]`),
		want: Ask{IPs: addrs("10.6.1.7")},
	}, {
		name: "identity and claim",
		pod:  kv(IdentityAnnotation, " db-main\n", networksAnnotation, `[{"name":"a","ipam-claim-reference":"vm-a.net1"},{"name":"b"}]`),
		want: Ask{Identity: "db-main", Claim: "vm-a.net1"},
	}, {
		name:   "claim of another interface, of a name that is not ours to judge",
		pod:    kv(networksAnnotation, `[{"name":"a","ipam-claim-reference":"No Name"},{"name":"b"}]`),
		ifName: "net2",
	}, {
		name:   "claim of the default network",
		pod:    kv(defaultNetworkAnnotation, `[{"name":"a","ipam-claim-reference":"vm-a"}]`),
		ifName: "eth0",
		want:   Ask{Default: true, DefaultRoute: true, Claim: "vm-a"},
	}, {
		name:   "the default network",
		ifName: "eth0",
		want:   Ask{Default: true, DefaultRoute: true},
	}, {
		name: "the default route",
		pod:  kv(networksAnnotation, `[{"name":"a","default-route":["10.6.0.1"]}]`),
		want: Ask{DefaultRoute: true},
	}, {
		name:   "an interface that the annotations do not tell of",
		pod:    kv(PoolsAnnotation, "net7=x"),
		ifName: "net7",
		want:   Ask{Source: "pod annotation berth.dev/ippools", Any: list("x")},
	}}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in := Input{PodAnnotations: test.pod, NamespaceAnnotations: test.ns, Namespace: "shop", IfName: test.ifName, Config: test.config, IPs: test.ips}
			if in.IfName == "" {
				in.IfName = "net1"
			}
			got, warnings, err := Resolve(in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmpAddrs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.warnings, warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

// FuzzResolve: all annotations together give an ask that says nothing twice, or an error that names the annotation; and the check
// of misplaced ones takes whatever the pod and its networks have.
func FuzzResolve(f *testing.F) {
	f.Add("a,b@store", "net1=zone-a; store=zone-b", "zone-a", "net1=10.6.1.5", "10.0.0.0/8 via 10.6.0.1", "Always", "zone-c", `{"plugins":[{"ipam":{"type":"berth"}}]}`)
	f.Add(`[{"name":"a","ips":["10.6.1.7"],"ipam-claim-reference":"c"}]`, "", "", "net2=10.6.1.5", "", "", "", `{"ipam":{"type":"host-local"}}`)
	f.Add("", `[{"ipv4":["a"]}]`, `{"ipv4":["a"],"ipv6":["b"]}`, "10.6.1.5-10.6.1.9,fd00::5", "", "never", `["a"]`, "")
	f.Add("a", `[{"interface":"net1","ipv6":["a"],"cleangateway":true}]`, "[ab]-zone", "", `[{"dst":"::/0","gw":"fe80::1"}]`, " auto ", "[", "{")
	f.Fuzz(func(t *testing.T, networks, pools, pool, ips, routes, steering, nsPool, config string) {
		values := []struct{ key, foreign, value string }{
			{networksAnnotation, networksAnnotation, networks}, {PoolsAnnotation, spiderPools, pools}, {PoolAnnotation, spiderPool, pool},
			{IPsAnnotation, IPsAnnotation, ips}, {RoutesAnnotation, spiderRoutes, routes}, {SteeringAnnotation, SteeringAnnotation, steering},
		}
		native, foreign := map[string]string{}, map[string]string{}
		for _, v := range values {
			if v.value != "" {
				native[v.key], foreign[v.foreign] = v.value, v.value
			}
		}
		for _, in := range []Input{
			{PodAnnotations: native, NamespaceAnnotations: kv(PoolAnnotation, nsPool), Namespace: "shop", IfName: "net1"},
			{PodAnnotations: foreign, NamespaceAnnotations: kv(spiderIPv4, nsPool), Namespace: "shop", IfName: "eth0", Config: &delegate.Config{IPs: addrs("10.6.1.9")}},
		} {
			Misplaced(in.PodAnnotations, "shop", func(string) (string, bool) { return config, true })
			ask, _, err := Resolve(in)
			if err != nil {
				if !strings.HasPrefix(err.Error(), "pod annotation ") && !strings.HasPrefix(err.Error(), "namespace annotation ") {
					t.Errorf("%+v: %v", in, err)
				}
				continue
			}
			said := ask.Any != nil || ask.IPv4 != nil || ask.IPv6 != nil || ask.Subnets != Subnets{}
			if ask.Any != nil && (ask.IPv4 != nil || ask.IPv6 != nil) || ask.IPs != nil && ask.Fixed != nil || said != (ask.Source != "") {
				t.Errorf("%+v: %+v", in, ask)
			}
		}
	})
}
