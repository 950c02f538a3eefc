package ipam

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
)

func TestUsable(t *testing.T) {
	for _, tc := range []struct{ subnet, v4, v6 string }{
		{subnet: `cidr: 10.6.0.0/24`, v4: "10.6.0.1-10.6.0.254"},
		{subnet: `{cidr: 10.6.0.0/24, gateway: 10.6.0.1}`, v4: "10.6.0.2-10.6.0.254"},
		{subnet: `{cidr: 10.6.0.0/24, gateway: 10.6.0.100}`, v4: "10.6.0.1-10.6.0.99,10.6.0.101-10.6.0.254"},
		{subnet: `{cidr: 10.6.0.0/24, gateway: 10.6.0.1, routes: [{dst: 172.16.0.0/12, gw: 10.6.0.254}]}`, v4: "10.6.0.2-10.6.0.253"},
		{subnet: `{cidr: 10.6.0.0/24, excludeIPs: ["10.6.0.0/25", "10.6.0.200"]}`, v4: "10.6.0.128-10.6.0.199,10.6.0.201-10.6.0.254"},
		{subnet: `{cidr: 10.6.0.0/24, ips: ["10.6.0.0/30"]}`, v4: "10.6.0.0-10.6.0.3"}, // a CIDR of ips is whole
		{subnet: `{cidr: 10.6.0.0/24, ips: ["10.6.0.9", "10.6.0.7", "10.6.0.8"], gateway: 10.6.0.1}`, v4: "10.6.0.7-10.6.0.9"},
		{subnet: `{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.9"], excludeIPs: ["10.6.0.1"], gateway: 10.6.0.1}`, v4: "10.6.0.2-10.6.0.9"},
		{subnet: `{cidr: 10.6.0.0/24, ips: ["10.6.0.7"], excludeIPs: ["10.6.0.7"]}`},
		{subnet: `cidr: 10.6.0.0/30`, v4: "10.6.0.1-10.6.0.2"},
		{subnet: `cidr: 10.6.0.0/31`, v4: "10.6.0.0-10.6.0.1"},
		{subnet: `{cidr: 10.6.0.0/31, gateway: 10.6.0.0}`, v4: "10.6.0.1"},
		{subnet: `cidr: 10.6.0.9/32`, v4: "10.6.0.9"},
		{subnet: `cidr: 0.0.0.0/0`, v4: "0.0.0.1-169.254.1.0,169.254.1.2-255.255.255.254"},
		{subnet: `cidr: 169.254.1.0/30`, v4: "169.254.1.2"}, // without the service gateway
		{subnet: `{cidr: 169.254.1.0/24, ips: ["169.254.1.1-169.254.1.9"], excludeIPs: ["169.254.1.1"]}`, v4: "169.254.1.2-169.254.1.9"},
		{subnet: `cidr: "fe80::/126"`, v6: "fe80::2-fe80::3"},
		{subnet: `cidr: "2001:db8::/64"`, v6: "2001:db8::1-2001:db8::ffff:ffff:ffff:ffff"},
		{subnet: `{cidr: "2001:db8::/64", gateway: "fe80::ff"}`, v6: "2001:db8::1-2001:db8::ffff:ffff:ffff:ffff"},
		{subnet: `cidr: "2001:db8::/126"`, v6: "2001:db8::1-2001:db8::3"},
		{subnet: `cidr: "2001:db8::/127"`, v6: "2001:db8::-2001:db8::1"},
		{subnet: `cidr: "2001:db8::9/128"`, v6: "2001:db8::9"},
	} {
		if !strings.HasPrefix(tc.subnet, "{") {
			tc.subnet = "{" + tc.subnet + "}"
		}
		p := pool(t, "p", "subnets: ["+tc.subnet+"]")
		if got4, got6 := p.Ranges(IPv4).String(), p.Ranges(IPv6).String(); got4 != tc.v4 || got6 != tc.v6 {
			t.Errorf("%s: %q, %q; want %q, %q", tc.subnet, got4, got6, tc.v4, tc.v6)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	for spec, want := range map[string]string{
		`{}`:                               `subnets: empty; name at least one CIDR`,
		`{subnets: []}`:                    `subnets: empty`,
		`{subnets: [{}]}`:                  `subnets[0].cidr: "" is not a CIDR such as 10.6.0.0/16`,
		`{subnets: [{cidr: 10.6.0.0}]}`:    `subnets[0].cidr: "10.6.0.0" is not a CIDR`,
		`{subnets: [{cidr: 10.6.1.0/16}]}`: `subnets[0].cidr: CIDR "10.6.1.0/16" has host bits; write "10.6.0.0/16"`,
		`{subnets: [{cidr: 10.6.0.0/24}, {cidr: 10.6.0.0/16}]}`:                                                                   `subnets[1].cidr: 10.6.0.0/16 overlaps 10.6.0.0/24`,
		`{subnets: [{cidr: 10.6.0.0/16, gateway: x}]}`:                                                                            `subnets[0].gateway: "x" is not an IP address`,
		`{subnets: [{cidr: 10.6.0.0/16, gateway: "fe80::1"}]}`:                                                                    `gateway: fe80::1 is not of the family of 10.6.0.0/16`,
		`{subnets: [{cidr: "2001:db8::/64", gateway: "fe80::1"}]}`:                                                                `subnets[0].gateway: fe80::1 is the service gateway, which hides a router of that address from pods; name another address of the router, or, unless by macvlan in bridge mode, set steering: Never`,
		`{steering: Auto, subnets: [{cidr: 10.6.0.0/16}, {cidr: "2001:db8::/64", gateway: "FE80:0::1"}]}`:                         `subnets[1].gateway: fe80::1 is the service gateway`,
		`{steering: Always, subnets: [{cidr: 169.254.0.0/16, gateway: 169.254.1.1}]}`:                                             `subnets[0].gateway: 169.254.1.1 is the service gateway`,
		`{subnets: [{cidr: "2001:db8::/64", gateway: "2001:db8::1", routes: [{dst: "::/1"}, {dst: "8000::/1", gw: "fe80::1"}]}]}`: `subnets[0].routes[1].gw: fe80::1 is the service gateway`,
		`{subnets: [{cidr: 169.254.0.0/16, ips: ["169.254.1.0/24"]}]}`:                                                            `subnets[0].ips: the service gateway, 169.254.1.1, is inside; exclude it`,
		`{steering: Never, subnets: [{cidr: "fe80::/64", ips: ["fe80::1"]}]}`:                                                     `subnets[0].ips: the service gateway, fe80::1, is inside; exclude it`,
		`{subnets: [{cidr: 10.6.0.0/16, gateway: 10.6.0.5, ips: ["10.6.0.1-10.6.0.9"]}]}`:                                         `gateway: 10.6.0.5 is inside ips; exclude it`,
		`{subnets: [{cidr: 10.6.0.0/16, ips: ["10.6"]}]}`:                                                                         `ips: "10.6" is not an IP address`,
		`{subnets: [{cidr: 10.6.0.0/16, ips: ["10.7.0.1"]}]}`:                                                                     `ips: "10.7.0.1" is not inside the subnet 10.6.0.0/16`,
		`{subnets: [{cidr: 10.6.0.0/16, ips: ["10.6.255.0-10.7.0.1"]}]}`:                                                          `ips: "10.6.255.0-10.7.0.1" is not inside`,
		`{subnets: [{cidr: 10.6.0.0/16, ips: ["10.5.0.0-10.6.0.1"]}]}`:                                                            `ips: "10.5.0.0-10.6.0.1" is not inside`,
		`{subnets: [{cidr: 10.6.0.0/16, excludeIPs: ["2001:db8::1"]}]}`:                                                           `excludeIPs: "2001:db8::1" is not inside`,
		`{subnets: [{cidr: 10.6.0.0/16, routes: [{dst: 10.0.0.0/8}]}]}`:                                                           `routes[0].gw: route to 10.0.0.0/8 has no gateway, nor has the subnet 10.6.0.0/16`,
		`{subnets: [{cidr: 10.6.0.0/16, routes: [{dst: 10.0.0.0, gw: 10.6.0.1}]}]}`:                                               `routes[0].dst: "10.0.0.0" is not a CIDR`,
		`{subnets: [{cidr: 10.6.0.0/16, routes: [{dst: 10.0.0.0/8, gw: x}]}]}`:                                                    `routes[0].gw: "x" is not an IP address`,
		`{subnets: [{cidr: 10.6.0.0/16, routes: [{dst: 10.0.0.0/8, gw: "fe80::1"}]}]}`:                                            `route 10.0.0.0/8 via fe80::1 is not of the family of the subnet 10.6.0.0/16`,
		`{subnets: [{cidr: 10.6.0.0/16, gateway: 10.6.0.1, routes: [{dst: "2001:db8::/32"}]}]}`:                                   `routes[0].dst: route 2001:db8::/32 via 10.6.0.1 is not of the family`,
		`{subnets: [{cidr: 10.6.0.0/16}], nodeAffinity: {matchExpressions: [{key: a, operator: Near}]}}`:                          `nodeAffinity: "Near"`,
		`{subnets: [{cidr: 10.6.0.0/16}], namespaceAffinity: {matchExpressions: [{key: a, operator: Near}]}}`:                     `namespaceAffinity: "Near"`,
		`{subnets: [{cidr: 10.6.0.0/16}], podAffinity: {matchLabels: {"a b": c}}}`:                                                `podAffinity: `,
	} {
		p := manifest(t, "bad", spec)
		_, err := Compile(p)
		if err == nil || !strings.Contains(err.Error(), `pool "bad": `) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
			continue
		}
		c := CompileOrRefuse(p)
		if !strings.Contains(c.Refusal, want) || c.ServesNode(nil) || c.Families() != nil || c.Network != "default" {
			t.Errorf("%s: serves: %+v", spec, c)
		}
	}
}

// Interfaces without a vmac may have a router at the service gateway's address.
func TestRouterAtServiceGateway(t *testing.T) {
	for _, subnet := range []string{
		`{cidr: 169.254.0.0/16, gateway: 169.254.1.1}`,
		`{cidr: "2001:db8::/64", gateway: "fe80::1"}`,
		`{cidr: "2001:db8::/64", routes: [{dst: "::/0", gw: "fe80::1"}]}`,
	} {
		if _, err := Compile(manifest(t, "p", "{steering: Never, subnets: ["+subnet+"]}")); err != nil {
			t.Errorf("%s: %v", subnet, err)
		}
	}
}

func TestCompile(t *testing.T) {
	p := pool(t, "zone-a", "network: vlan910", "default: true", "steering: Always",
		`subnets: [{cidr: 10.6.0.0/16, gateway: 10.6.0.1, routes: [{dst: 172.16.0.0/12}, {dst: 10.0.0.0/8, gw: 10.6.0.254}]}, {cidr: "2001:db8::/64"}, {cidr: 10.8.0.0/24}]`)
	if p.Network != "vlan910" || !p.Default || p.Steering != v1alpha1.SteeringAlways || p.Refusal != "" {
		t.Errorf("%+v", p)
	}
	if s, ok := p.SubnetOf(addr("10.6.9.9")); !ok || s.Prefix.String() != "10.6.0.0/16" || s.Gateway != addr("10.6.0.1") ||
		len(s.Routes) != 2 || s.Routes[0].GW != addr("10.6.0.1") || s.Routes[1].GW != addr("10.6.0.254") {
		t.Errorf("SubnetOf: %+v, %t", s, ok)
	}
	if s, ok := p.SubnetOf(addr("10.9.0.1")); ok {
		t.Errorf("SubnetOf an address of no subnet: %+v", s)
	}
	if !p.Contains(addr("10.8.0.9")) || !p.Contains(addr("2001:db8::5")) || p.Contains(addr("10.6.0.1")) || p.Contains(addr("10.7.0.1")) {
		t.Error("Contains")
	}
	if got := p.Families(); len(got) != 2 || got[0] != IPv4 || got[1] != IPv6 {
		t.Errorf("families %v", got)
	}
	if len(p.Subnets()) != 3 {
		t.Errorf("subnets %v", p.Subnets())
	}

	plain := pool(t, "plain", "subnets: [{cidr: 10.6.0.0/16}]")
	if plain.Network != "default" || plain.Steering != v1alpha1.SteeringAuto || plain.Default {
		t.Errorf("defaults: %+v", plain)
	}
	if off := pool(t, "off", "disabled: true", "subnets: [{cidr: 10.6.0.0/16}]"); off.Refusal != "is disabled" {
		t.Errorf("disabled: %q", off.Refusal)
	}
	m := manifest(t, "gone", "{disabled: true, subnets: [{cidr: 10.6.0.0/16}]}")
	m.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	if gone := CompileOrRefuse(m); gone.Refusal != "is being deleted" || !gone.Deleting {
		t.Errorf("being deleted: %+v", gone)
	}
	zone := pool(t, "zone", "subnets: [{cidr: 10.6.0.0/16}]", "nodeAffinity: {matchLabels: {zone: a}}")
	if !zone.ServesNode(labels.Set{"zone": "a"}) || zone.ServesNode(labels.Set{"zone": "b"}) || zone.ServesNode(nil) || !plain.ServesNode(nil) {
		t.Error("ServesNode")
	}
}

// manifest of a pool with this spec, in YAML.
func manifest(t testing.TB, name, spec string) *v1alpha1.IPPool {
	t.Helper()
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatalf("%v in %s", err, spec)
	}
	return p
}

// pool with these lines in its spec.
func pool(t testing.TB, name string, spec ...string) *Pool {
	t.Helper()
	p, err := Compile(manifest(t, name, strings.Join(spec, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// FuzzCompile: a pool that is accepted gives out addresses of its subnets only, none of them a router's; in pairs, the n-th of one
// family is the partner of the n-th of the other.
func FuzzCompile(f *testing.F) {
	f.Add("10.6.0.0/24", "10.6.0.5-10.6.0.9,10.6.0.128/25", "10.6.0.7", "10.6.0.1", "fd00:6::/120", "fd00:6::6-fd00:6::a", true)
	f.Add("10.6.0.0/24", "", "", "10.6.0.1", "fd00:6::/64", "", false)
	f.Add("0.0.0.0/0", "", "", "", "fd00:6::/96", "", true)
	f.Add("255.255.255.255/32", "", "", "", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "", true)
	f.Add("255.255.255.254/31", "", "", "", "fd00::/127", "::-ffff::", true)
	f.Add("10.6.0.0/24", "10.6.0.0/16", "x", "fe80::1", "10.6.0.0/25", "", true)
	f.Add("169.254.1.0/24", "", "", "169.254.1.1", "fe80::/64", "", false)
	f.Fuzz(func(t *testing.T, cidr, ips, excluded, gateway, second, secondIPs string, paired bool) {
		list := func(s string) []string { return strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) }
		var object v1alpha1.IPPool
		object.Name = "p"
		object.Spec.Subnets = []v1alpha1.PoolSubnet{{CIDR: cidr, IPs: list(ips), ExcludeIPs: list(excluded), Gateway: gateway}}
		if second != "" {
			object.Spec.Subnets = append(object.Spec.Subnets, v1alpha1.PoolSubnet{CIDR: second, IPs: list(secondIPs)})
		}
		if paired {
			object.Spec.Pairing = v1alpha1.PairingIndex
		}
		p, err := Compile(&object)
		if err != nil {
			if !strings.HasPrefix(err.Error(), `pool "p": `) {
				t.Errorf("%v", err)
			}
			return
		}
		for _, family := range Families {
			for _, r := range p.Ranges(family) {
				for _, a := range []netip.Addr{r.From, r.To} {
					s, ok := p.SubnetOf(a)
					if !ok || FamilyOf(a) != family || !p.Contains(a) || a == s.Gateway || slices.Contains(serviceGateways, a) {
						t.Errorf("%+v gives out %s", object.Spec, a)
					}
				}
			}
			if got := normalize(p.Ranges(family)).String(); got != p.Ranges(family).String() {
				t.Errorf("%+v: ranges %s are not %s", object.Spec, p.Ranges(family), got)
			}
		}
		if !p.Paired() {
			return
		}
		four, six := p.Ranges(IPv4), p.Ranges(IPv6)
		if len(four) != len(six) {
			t.Fatalf("%+v: %s, and %s", object.Spec, four, six)
		}
		for i := range four {
			if p.Partner(four[i].From) != six[i].From || p.Partner(six[i].From) != four[i].From || p.Partner(four[i].To) != six[i].To {
				t.Errorf("%+v: %s is paired with %s", object.Spec, four[i], six[i])
			}
		}
	})
}
