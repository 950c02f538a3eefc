package nad

import (
	"strings"
	"testing"

	"github.com/berthdev/berth/delegate"
)

// TestResolveErrors: each message names the annotation and says what to write.
func TestResolveErrors(t *testing.T) {
	tests := []struct{ key, value, want string }{
		{PoolAnnotation, "", "names no pool"},
		{PoolAnnotation, " , ", "empty pool name"},
		{PoolAnnotation, "zone-a zone-b", `"zone-a zone-b", which is no pool name`},
		{PoolAnnotation, "zone-[a", `malformed pattern "zone-[a"`},
		{PoolAnnotation, "[]", "names no pool"},
		{PoolAnnotation, `["a",1]`, `is not ["POOL", …]`},
		{PoolAnnotation, `[""]`, "empty pool name"},
		{PoolAnnotation, "{}", "names no pool, neither ipv4 nor ipv6"},
		{PoolAnnotation, `{"ipv4":[],"ipv6":[]}`, "names no pool, neither ipv4 nor ipv6"},
		{PoolAnnotation, `{"ipv4":"a"}`, `is not {"ipv4": [POOL…], "ipv6": [POOL…]}`},
		{PoolAnnotation, `{"ipv4":["a"],"v6":["b"]}`, `unknown field "v6"`},
		{PoolAnnotation, `{"ipv4":["a"]} x`, "something follows"},
		{PoolAnnotation, `{"ipv4":["a"]`, "is not"},
		{PoolAnnotation, `{"ipv4":["A"]}`, `ipv4 has "A"`},
		{PoolAnnotation, `{"ipv6":["a",""]}`, `ipv6 has an empty pool name`},
		{PoolsAnnotation, "", "names no interface"},
		{PoolsAnnotation, ";", "names no interface"},
		{PoolsAnnotation, "[]", "names no interface"},
		{PoolsAnnotation, "zone-a", `"zone-a"; write INTERFACE=POOL,POOL`},
		{PoolsAnnotation, "=zone-a", `"=zone-a"; write INTERFACE=POOL,POOL`},
		{PoolsAnnotation, "net1=", "interface net1 names no pool"},
		{PoolsAnnotation, "net1=a;net1=b", "two entries for interface net1"},
		{PoolsAnnotation, "net1=a=b", `"a=b", which is no pool name`},
		{PoolsAnnotation, "net2=a", "names interface net2, but the pod has eth0, net1; correct it"},
		{PoolsAnnotation, `[{"interface":"net1","ipv4":["a"]},{"ipv4":["b"]}]`, "name it in every one"},
		{PoolsAnnotation, `[{"interface":"net1"}]`, "interface net1 names no pool"},
		{PoolsAnnotation, `[{"ipv4":["a"]},{}]`, "entry 1 names no pool"},
		{PoolsAnnotation, `[{"interface":"net1","ipv4":["a"]},{"interface":"net1","ipv4":["b"]}]`, "two entries for interface net1"},
		{PoolsAnnotation, `[{"interface":"net1","pools":["a"]}]`, `unknown field "pools"`},
		{PoolsAnnotation, `{"interface":"net1"}`, "is not [{"},
		{PoolsAnnotation, `[{"ipv4":["a"]},{"ipv4":["a"]},{"ipv4":["a"]}]`, "3 entries without interface, but the pod has eth0, net1"},
		{RoutesAnnotation, "", "names no route"},
		{RoutesAnnotation, "[]", "names no route"},
		{RoutesAnnotation, "10.0.0.0/16", "write CIDR via ADDRESS"},
		{RoutesAnnotation, "10.0.0.0/16 by 10.6.0.1", "write CIDR via ADDRESS"},
		{RoutesAnnotation, "10.0.0.0/16 via x", `gw "x" (to 10.0.0.0/16) is no IP address`},
		{RoutesAnnotation, `[{"dst":"10.0.0.0/16"}]`, "no gw for dst 10.0.0.0/16"},
		{RoutesAnnotation, `[{"dst":"10.0.0.0/16","via":"10.6.0.1"}]`, `unknown field "via"`},
		{RoutesAnnotation, `[{"dst":"10.0.0.0/16","gw":"fe80::1"}]`, "other family"},
		{IPsAnnotation, "", "names no address"},
		{IPsAnnotation, "net1=", "interface net1 names no address"},
		{IPsAnnotation, "10.6.1.5,", "has an empty entry"},
		{IPsAnnotation, "10.6.1", `bad entry: "10.6.1" is not an IP address`},
		{IPsAnnotation, "10.6.1.5/16", `"10.6.1.5/16"; write an ADDRESS or a range FIRST-LAST, without prefix length`},
		{IPsAnnotation, "10.6.1.9-10.6.1.5", `write "10.6.1.5-10.6.1.9"`},
		{IPsAnnotation, "::ffff:10.6.1.5", "IPv4-mapped addresses are not allowed"},
		{IPsAnnotation, "10.6.1.4-10.6.1.6,10.6.1.5", "has 10.6.1.5 twice; name each address once"},
		{IPsAnnotation, "net1=10.6.1.5,net2=10.6.1.6", `"net2=10.6.1.6" is not an IP address`},
		{IPsAnnotation, "net1=10.6.1.5;net1=10.6.1.6", "two entries for interface net1"},
		{IPsAnnotation, "net1=10.6.1.5;10.6.1.6", `"10.6.1.6"; write INTERFACE=ADDRESS,ADDRESS`},
		{IPsAnnotation, "net2=10.6.1.5", "names interface net2, but the pod has eth0, net1; correct it"},
		{IPsAnnotation, "10.6.0.0-10.6.4.0", "more than 1024 IPv4 addresses; make a pool of them"},
		{IPsAnnotation, "fd00::-fd00:ffff::", "more than 1024 IPv6 addresses"},
		{IdentityAnnotation, " ", "names no identity"},
		{IdentityAnnotation, "Db_main", "no name of an identity"},
		{IdentityAnnotation, strings.Repeat("a", 254), "1 to 253 characters"},
		{networksAnnotation, `[{"name":"a","ipam-claim-reference":"VM a"}]`, `ipam-claim-reference "VM a"`},
		{SteeringAnnotation, "sometimes", "none of Auto, Always, Never"},
		{FastModeAnnotation, "false", "`false` is none of Enabled, Disabled"},
		{GuardAnnotation, "false", "none of Enabled, Disabled"},
		{GuardAnnotation, "Required", "none of Enabled, Disabled"},
		{AllowedAnnotation, " ", "names no address; write ADDRESS or CIDR"},
		{AllowedAnnotation, "10.6.0.100,", "has an empty entry; remove the comma"},
		{AllowedAnnotation, "10.6.0.100-10.6.0.110", `has "10.6.0.100-10.6.0.110"; write an ADDRESS or a CIDR`},
		{AllowedAnnotation, "net1=10.6.0.100", `has "net1=10.6.0.100"; write an ADDRESS`},
		{AllowedAnnotation, "fe80::7%eth0", "write an ADDRESS"},
		{AllowedAnnotation, "::ffff:10.6.0.100", "write an ADDRESS"},
		{AllowedAnnotation, "10.6.0.100/16", `has "10.6.0.100/16" with host bits; write 10.6.0.0/16`},
		{AllowedAnnotation, "224.0.0.18", "no address to send as"},
		{AllowedAnnotation, "0.0.0.0", "no address to send as"},
		{AllowedAnnotation, "::", "no address to send as"},
		{AllowedAnnotation, "::1", "no address to send as"},
		{AllowedAnnotation, "fe80::1", "link-local IPv6 addresses are allowed anyway"},
		{AllowedAnnotation, "10.6.0.100, 10.6.0.100/32", "has 10.6.0.100/32 twice"},
		{AllowedAnnotation, strings.Repeat("10.6.0.0/16, ", 65), "twice"},
		{AllowedAnnotation, manyAddresses(65), "has more than 64 entries; write CIDRs"},
		{networksAnnotation, "a/b/c", "write name"},
		{SubnetAnnotation, " ", "names no Subnet; write its name"},
		{SubnetAnnotation, "a, b", `has "a, b", which is no name of a Subnet`},
		{SubnetAnnotation, "Office", "which is no name of a Subnet"},
		{SubnetAnnotation, "net1=", "interface net1 names no Subnet"},
		{SubnetAnnotation, "net1=a;net1=b", "two entries for interface net1"},
		{SubnetAnnotation, "net1=a;b", `has "b"; write INTERFACE=SUBNET`},
		{SubnetAnnotation, ";=", "write INTERFACE=SUBNET"},
		{SubnetAnnotation, "net9=a", "names interface net9, but the pod has eth0, net1; correct it"},
		{SubnetAnnotation, `{"ipv4":["a","b"]}`, "names 2 Subnets for ipv4; a pool is carved from one, name one"},
		{SubnetAnnotation, `{"v4":["a"]}`, `unknown field "v4"`},
		{SubnetAnnotation, `{}`, "names no Subnet, neither ipv4 nor ipv6"},
		{SubnetAnnotation, `{"ipv6":["A"]}`, `ipv6 has "A"`},
		{SubnetAnnotation, `{"interface":"net4","ipv6":["a"]}`, "names interface net4"},
		{SubnetAnnotation, `[]`, "it is empty"},
		{SubnetAnnotation, `["a"]`, `is not [{"interface"`},
		{SubnetAnnotation, `[{"ipv4":["a"]}]`, "names no interface in entry 0"},
		{SubnetAnnotation, `[{"interface":"net1"}]`, "entry 0 names no Subnet"},
		{SubnetAnnotation, `[{"interface":"net1","ipv4":"a"},{"interface":"net1","ipv6":"a"}]`, "two entries for interface net1"},
		{spiderSubnets, `[{"interface":"net1","ipv4":["a"]}`, "is not [{"},
		{"berth.dev/subnets", "a", "there is no such annotation; correct it to berth.dev/subnet, or remove it"},
		{"berth.dev/Subnet", "a", "correct it to berth.dev/subnet"},
		{"berth.dev/pool-sise", "5", "correct it to berth.dev/pool-size"},
		{"berth.dev/poolreclaim", "no", "correct it to berth.dev/pool-reclaim"},
		{"berth.dev/ip", "10.6.1.5", "correct it to berth.dev/ips"},
		{"ipam.spidernet.io/ippool-ip-numbers", "5", "correct it to ipam.spidernet.io/ippool-ip-number"},
		{"berth.dev/net-space", "team-a", "correct it to berth.dev/netspace"},
		{"ipam.com/netspce", "team-a", "correct it to ipam.com/netspace"},
	}
	for _, test := range tests {
		pod := kv(networksAnnotation, "a", test.key, test.value)
		ask, _, err := Resolve(Input{PodAnnotations: pod, Namespace: "shop", IfName: "net1"})
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "pod annotation "+test.key+": ") {
			t.Errorf("%s %s:\n got %+v, %v\nwant %s", test.key, test.value, ask, err, test.want)
		}
	}
	for _, test := range []struct{ key, value, want string }{
		{SizeAnnotation, "five", "is no number of addresses; write 5 for so many, or +2"},
		{SizeAnnotation, "-1", "is no number of addresses"},
		{SizeAnnotation, "+", "is no number of addresses"},
		{SizeAnnotation, "0", "without any address"},
		{SizeAnnotation, "65537", "more than a pool may have, 65536"},
		{spiderSize, "+99999999999", "more than a pool may have"},
		{ReclaimAnnotation, "no", "is neither true"},
		{spiderReclaim, "", "is neither true"},
		{PoolAnnotation, "zone-a", "is for interface net1, and so is berth.dev/ippool; leave one of the two out"},
		{PoolsAnnotation, "net1", "write INTERFACE=POOL"},
	} {
		_, _, err := Resolve(Input{PodAnnotations: kv(networksAnnotation, "a", SubnetAnnotation, "office", test.key, test.value), IfName: "net1"})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %q: %v, want %s", test.key, test.value, err, test.want)
		}
	}
	both := kv(networksAnnotation, "a", SubnetAnnotation, "net1=office", PoolsAnnotation, "net1=zone-a")
	if _, _, err := Resolve(Input{PodAnnotations: both, IfName: "net1"}); err == nil || !strings.Contains(err.Error(), "and so is berth.dev/ippools") {
		t.Errorf("both by interface: %v", err)
	}
	for _, test := range []struct{ key, value, want string }{
		{PoolAnnotation, "", "names no pool"},
		{spiderIPv4, "a", `is not ["POOL", …]`},
		{spiderIPv6, "[]", "names no pool"},
		{"berth.dev/ippol", "a", "there is no such annotation; correct it to berth.dev/ippool, or remove it"},
		{PoolsAnnotation, "net1=a", "correct it to berth.dev/ippool"}, // of pods only
		{"ipam.spidernet.io/default-ipv4-ipool", `["a"]`, "correct it to " + spiderIPv4},
	} {
		_, _, err := Resolve(Input{NamespaceAnnotations: kv(test.key, test.value), IfName: "eth0"})
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "namespace annotation "+test.key+": ") {
			t.Errorf("%s %s: %v, want %s", test.key, test.value, err, test.want)
		}
	}
}

// TestTwoPlacesOfAddresses: the message names both.
func TestTwoPlacesOfAddresses(t *testing.T) {
	const networks = `[{"name":"a","ips":["10.6.1.7/16"]}]`
	for _, test := range []struct {
		name string
		in   Input
		want string
	}{
		{"networks annotation, which Multus passes on", Input{IfName: "net1", IPs: addrs("10.6.1.7"), PodAnnotations: kv(networksAnnotation, networks)},
			"interface net1 too, for which ips in annotation k8s.v1.cni.cncf.io/networks ask for 10.6.1.7;"},
		{"default network", Input{IfName: "eth0", PodAnnotations: kv(defaultNetworkAnnotation, networks)}, "ips in annotation v1.multus-cni.io/default-network"},
		{"runtimeConfig", Input{IfName: "eth0", Config: &delegate.Config{IPs: addrs("10.6.1.7", "fd00::7")}}, "runtimeConfig, args or CNI_ARGS ask for 10.6.1.7, fd00::7;"},
		{"CNI_ARGS", Input{IfName: "eth0", IPs: addrs("10.6.1.7")}, "runtimeConfig, args or CNI_ARGS"},
	} {
		if test.in.PodAnnotations == nil {
			test.in.PodAnnotations = kv()
		}
		test.in.PodAnnotations[IPsAnnotation] = "10.6.1.7"
		_, _, err := Resolve(test.in)
		if err == nil || !strings.HasPrefix(err.Error(), "pod annotation "+IPsAnnotation+": ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s:\n got %v\nwant %s", test.name, err, test.want)
		}
	}
}

// TestErrorValue: a value stands in the message as it was written, on one line.
func TestErrorValue(t *testing.T) {
	const key = "pod annotation berth.dev/ippool: "
	for _, test := range []struct{ value, want string }{
		{`{"ipv4":[`, key + "`{\"ipv4\":[` is not {"},
		{"{\n  \"ipv4\": [\n\t\"a\"\n}\n", key + "`{ \"ipv4\": [ \"a\" }` is not {"},
		{"", key + "`` names no pool"},
		{"a`b", key + "\"a`b\" has"},
		{"a\x1b[1mb", key + `"a\x1b[1mb" has`},
	} {
		_, _, err := Resolve(Input{PodAnnotations: kv(PoolAnnotation, test.value), IfName: "eth0"})
		if err == nil || !strings.HasPrefix(err.Error(), test.want) {
			t.Errorf("%q:\n got %v\nwant %s", test.value, err, test.want)
		}
	}
}

func TestLongValue(t *testing.T) {
	_, _, err := Resolve(Input{PodAnnotations: kv(PoolAnnotation, strings.Repeat("é", 10000)), IfName: "eth0"})
	if err == nil || len(err.Error()) > 50000 {
		t.Errorf("%v", err)
	}
}
