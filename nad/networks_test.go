package nad

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var cmpAddrs = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func TestInterfaces(t *testing.T) {
	eth0 := Interface{Name: "eth0", Default: true, DefaultRoute: true}
	tests := []struct {
		name, networks, def string
		want                []Interface
	}{
		{"none", "", "", []Interface{eth0}},
		{"empty list", "[]", "", []Interface{eth0}},
		{"short", "a, other/b,c@store0", "", []Interface{eth0,
			{Name: "net1", NAD: "shop/a"}, {Name: "net2", NAD: "other/b"}, {Name: "store0", NAD: "shop/c"}}},
		{"a named one counts", "a@x,b", "", []Interface{eth0, {Name: "x", NAD: "shop/a"}, {Name: "net2", NAD: "shop/b"}}},
		{"VLAN as a name", "a@eth1.100", "", []Interface{eth0, {Name: "eth1.100", NAD: "shop/a"}}},
		{"same network twice", "a,a", "", []Interface{eth0, {Name: "net1", NAD: "shop/a"}, {Name: "net2", NAD: "shop/a"}}},
		{"JSON", `[{"name":"a","ips":["10.6.1.7/16","10.6.1.7","fd00::7"]},{"name":"b","namespace":"other","interface":"x","mac":"02:00:00:00:00:01","cni-args":{"k":1}}]`, "",
			[]Interface{eth0, {Name: "net1", NAD: "shop/a", IPs: addrs("10.6.1.7", "fd00::7")}, {Name: "x", NAD: "other/b"}}},
		{"claim", `[{"name":"a","ipam-claim-reference":"vm-a"},{"name":"b"}]`, "",
			[]Interface{eth0, {Name: "net1", NAD: "shop/a", Claim: "vm-a"}, {Name: "net2", NAD: "shop/b"}}},
		{"older key", `[{"name":"a","interfaceRequest":"x"}]`, "", []Interface{eth0, {Name: "x", NAD: "shop/a"}}},
		{"default route", `[{"name":"a","default-route":["10.6.0.1"]}]`, "", []Interface{{Name: "eth0", Default: true},
			{Name: "net1", NAD: "shop/a", DefaultRoute: true, Gateways: addrs("10.6.0.1")}}},
		{"default route by family", `[{"name":"a","default-route":["10.6.0.1"]},{"name":"b","default-route":["fd00::1"]},{"name":"c"}]`, "",
			[]Interface{{Name: "eth0", Default: true}, {Name: "net1", NAD: "shop/a", DefaultRoute: true, Gateways: addrs("10.6.0.1")},
				{Name: "net2", NAD: "shop/b", DefaultRoute: true, Gateways: addrs("fd00::1")}, {Name: "net3", NAD: "shop/c"}}},
		{"empty default route", `[{"name":"a","default-route":[]}]`, "", []Interface{eth0, {Name: "net1", NAD: "shop/a"}}},
		{"default network", "a", "macvlan", []Interface{{Name: "eth0", NAD: "kube-system/macvlan", Default: true, DefaultRoute: true},
			{Name: "net1", NAD: "shop/a"}}},
		{"default network in JSON", "", `[{"name":"macvlan","namespace":"infra","interface":"up0","ips":["10.6.1.7"]}]`,
			[]Interface{{Name: "up0", NAD: "infra/macvlan", Default: true, DefaultRoute: true, IPs: addrs("10.6.1.7")}}},
		{"default network with default route", `[{"name":"a","default-route":["10.6.0.1"]}]`, `[{"name":"m","default-route":["10.7.0.1"]}]`,
			[]Interface{{Name: "eth0", NAD: "kube-system/m", Default: true, DefaultRoute: true, Gateways: addrs("10.7.0.1")},
				{Name: "net1", NAD: "shop/a", DefaultRoute: true, Gateways: addrs("10.6.0.1")}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			annotations := map[string]string{}
			if test.networks != "" {
				annotations[networksAnnotation] = test.networks
			}
			if test.def != "" {
				annotations[defaultNetworkAnnotation] = test.def
			}
			got, err := Interfaces(annotations, "shop")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmpAddrs); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestInterfacesErrors(t *testing.T) {
	tests := []struct{ key, in, want string }{
		{networksAnnotation, ",", "names no network"},
		{networksAnnotation, "a,", "names no network"},
		{networksAnnotation, " ", "names no network"},
		{networksAnnotation, "a/b/c", `"a/b/c"; write name, namespace/name or namespace/name@interface`},
		{networksAnnotation, "/a", "write namespace/name"},
		{networksAnnotation, "a@", `"a@"`},
		{networksAnnotation, "a@b/c", `interface "b/c"`},
		{networksAnnotation, "a b", `"a b"`},
		{networksAnnotation, "a@0123456789abcdef", "1 to 15 characters"},
		{networksAnnotation, "a@..", `interface ".."`},
		{networksAnnotation, "a@eth0", "two interfaces the name eth0"},
		{networksAnnotation, "a@net2,b", "two interfaces the name net2"},
		{networksAnnotation, `{"name":"a"}`, "no list in JSON"},
		{networksAnnotation, `[null]`, "names no network"},
		{networksAnnotation, `[1]`, "malformed element 1"},
		{networksAnnotation, `[{}]`, "names no network"},
		{networksAnnotation, `[{"name":"a","ips":["10.6.1"]}]`, `network a: ips: "10.6.1" is no IP address`},
		{networksAnnotation, `[{"name":"a","ips":"10.6.1.7"}]`, "malformed element"},
		{networksAnnotation, `[{"name":"a","default-route":["x"]}]`, "malformed element"},
		{networksAnnotation, `[{"name":"a","default-route":[""]}]`, "empty address"},
		{networksAnnotation, `[{"name":"a"}`, "no list in JSON"},
		{defaultNetworkAnnotation, "a,b", "names 2 networks; name one"},
		{defaultNetworkAnnotation, "", "names 0 networks; name one"},
		{defaultNetworkAnnotation, "[]", "names 0 networks; name one"},
	}
	for _, test := range tests {
		got, err := Interfaces(map[string]string{test.key: test.in}, "shop")
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "pod annotation "+test.key+": ") {
			t.Errorf("%s: %v, %v; want %s", test.in, got, err, test.want)
		}
	}
}

// TestInterfacesFormat: the short form and JSON say the same.
func TestInterfacesFormat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?`)
		type element struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace,omitempty"`
			Interface string `json:"interface,omitempty"`
		}
		var (
			elements []element
			shorts   []string
			want     = []Interface{{Name: "eth0", Default: true, DefaultRoute: true}}
		)
		for i := range rapid.IntRange(1, 5).Draw(t, "networks") {
			e := element{Name: word.Draw(t, "name")}
			next := Interface{Name: fmt.Sprintf("net%d", i+1), NAD: "shop/" + e.Name}
			s := e.Name
			if rapid.Bool().Draw(t, "with namespace") {
				e.Namespace = word.Draw(t, "namespace")
				s = e.Namespace + "/" + s
				next.NAD = s
			}
			if rapid.Bool().Draw(t, "with interface") {
				e.Interface = fmt.Sprintf("if%d", i)
				s += "@" + e.Interface
				next.Name = e.Interface
			}
			elements, shorts, want = append(elements, e), append(shorts, s), append(want, next)
		}
		text, err := json.Marshal(elements)
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range []string{string(text), strings.Join(shorts, " , ")} {
			got, err := Interfaces(map[string]string{networksAnnotation: in}, "shop")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmpAddrs); diff != "" {
				t.Errorf("%s (-want +got):\n%s", in, diff)
			}
		}
	})
}

// formatNetworks writes the pod's own networks as JSON, and its default network if an annotation gave one.
func formatNetworks(t *testing.T, list []Interface) map[string]string {
	t.Helper()
	element := func(i Interface) map[string]any {
		ns, name, _ := strings.Cut(i.NAD, "/")
		e := map[string]any{"name": name, "namespace": ns, "interface": i.Name, "ips": i.IPs, "ipam-claim-reference": i.Claim}
		if i.Gateways != nil {
			e["default-route"] = i.Gateways
		}
		return e
	}
	annotations := map[string]string{}
	put := func(key string, elements []map[string]any) {
		text, err := json.Marshal(elements)
		if err != nil {
			t.Fatal(err)
		}
		annotations[key] = string(text)
	}
	if list[0].NAD != "" {
		put(defaultNetworkAnnotation, []map[string]any{element(list[0])})
	}
	elements := []map[string]any{}
	for _, i := range list[1:] {
		elements = append(elements, element(i))
	}
	put(networksAnnotation, elements)
	return annotations
}

// FuzzNetworks: whatever is accepted is a list of interfaces as a kernel can have them, with one default network and a default
// route, and means the same when written again.
func FuzzNetworks(f *testing.F) {
	f.Add("a, other/b@x", "")
	f.Add("", "macvlan@up0")
	f.Add(`[{"name":"a","namespace":"n","interface":"x","ips":["10.6.1.7/16"],"default-route":["10.6.0.1"]}]`, `[{"name":"m","default-route":["10.7.0.1"]}]`)
	f.Add(`[{"name":"a","ipam-claim-reference":"vm-a","interfaceRequest":"x","ips":["::ffff:10.6.1.7","fd00::7"],"default-route":["::1","10.6.0.1"]},{"name":"a","default-route":[]}]`, "")
	f.Add(`[null]`, `[]`)
	f.Add("a@net2,b", "a,b")
	f.Add("a/b/c@d@e", "/")
	f.Fuzz(func(t *testing.T, networks, def string) {
		if !utf8.ValidString(networks) || !utf8.ValidString(def) {
			return // no annotation is
		}
		annotations := map[string]string{networksAnnotation: networks}
		if def != "" {
			annotations[defaultNetworkAnnotation] = def
		}
		list, err := Interfaces(annotations, "shop")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "pod annotation ") {
				t.Errorf("%q, %q: %v", networks, def, err)
			}
			return
		}
		seen := map[string]bool{}
		route := false
		for n, i := range list {
			if i.Name == "" || len(i.Name) > ifNameLen || seen[i.Name] || i.Default != (n == 0) || i.NAD == "" && n > 0 {
				t.Errorf("interfaces %v", list)
			}
			seen[i.Name] = true
			route = route || i.DefaultRoute
			for _, a := range slices.Concat(i.IPs, i.Gateways) {
				if !a.IsValid() || a.Zone() != "" || a.Is4In6() {
					t.Errorf("%q, %q: %v", networks, def, i)
				}
			}
		}
		if !route {
			t.Errorf("no default route: %v", list)
		}
		if slices.ContainsFunc(list, func(i Interface) bool { return strings.Count(i.NAD, "/") != 1 && i.NAD != "" }) {
			return // JSON may have names that are no object's; Multus says so
		}
		text := formatNetworks(t, list)
		again, err := Interfaces(text, "shop")
		if err != nil {
			t.Fatalf("%q, %q as %q: %v", networks, def, text, err)
		}
		if diff := cmp.Diff(list, again, cmpAddrs); diff != "" {
			t.Errorf("%q, %q as %q (-first +again):\n%s", networks, def, text, diff)
		}
	})
}
