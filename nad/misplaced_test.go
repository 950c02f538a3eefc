package nad

import (
	"strings"
	"testing"
)

func TestMisplaced(t *testing.T) {
	configs := map[string]string{
		"ns/berth":  `{"type":"macvlan","ipam":{"type":"berth"}}`,
		"ns/list":   `{"plugins":[{"type":"macvlan","ipam":{"type":"berth"}},{"type":"tuning"}]}`,
		"ns/bare":   `{"type":"macvlan"}`,
		"ns/other":  `{"type":"macvlan","ipam":{"type":"host-local"}}`,
		"ns/broken": `{`,
		"ns/empty":  ``,
	}
	tests := []struct {
		name, networks, key, value string
		want                       []string // in the only warning; none: no warning
	}{
		{"no annotation", "bare", "", "", nil},
		{"served", "berth", PoolAnnotation, "zone-a", nil},
		{"served by a list", "list", PoolsAnnotation, "net1=zone-a", nil},
		{"one of two served", "bare,berth", PoolAnnotation, "zone-a", nil},
		{"no ipam", "bare", PoolAnnotation, "zone-a", []string{PoolAnnotation, "net1", "ns/bare has no ipam section", `"type": "berth"`}},
		{"another ipam", "other", spiderPool, `{"ipv4":["a"]}`, []string{spiderPool, `ns/other names the IPAM plugin "host-local"`}},
		{"not JSON", "broken", PoolAnnotation, "zone-a", []string{"ns/broken is not valid JSON"}},
		{"a file's", "empty", PoolAnnotation, "zone-a", []string{"ns/empty has no configuration of its own"}},
		{"only the overlay", "", PoolsAnnotation, "net1=zone-a", []string{PoolsAnnotation, "eth0", "default network"}},
		{"the named one is not served", "berth,bare", PoolsAnnotation, "net1=a;net2=b", []string{"interface net2", "ns/bare has no ipam section"}},
		{"the named one is served", "berth,bare", PoolsAnnotation, "net1=a", nil},
		{"a Subnet's pool where there is no ipam", "bare", SubnetAnnotation, "office", []string{SubnetAnnotation, "net1", "ns/bare has no ipam section"}},
		{"a Subnet's pool on one that is not served", "berth,bare", SubnetAnnotation, "net2=office", []string{SubnetAnnotation + " has no effect on interface net2"}},
		{"ips not served", "bare", IPsAnnotation, "10.6.1.5", []string{IPsAnnotation, "net1", "ns/bare has no ipam section"}},
		{"ips of the one that is not served", "berth,bare", IPsAnnotation, "net1=10.6.1.5;net2=10.6.1.6", []string{IPsAnnotation + " has no effect on interface net2"}},
		{"ips of the one that is served", "berth,bare", IPsAnnotation, "net1=10.6.1.5", nil},
		{"ips of every one", "berth,bare", IPsAnnotation, "10.6.1.5", nil},
		{"ips malformed", "berth,bare", IPsAnnotation, "net2=x", nil},
		{"identity", "berth,bare", IdentityAnnotation, "db", nil},
		{"identity not served", "other", IdentityAnnotation, "db", []string{IdentityAnnotation, `IPAM plugin "host-local"`}},
		{"networks malformed", "ns/a/b/c", PoolAnnotation, "zone-a", []string{networksAnnotation}},
		{"unknown network", "missing", PoolAnnotation, "zone-a", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			annotations := map[string]string{networksAnnotation: tt.networks}
			if tt.key != "" {
				annotations[tt.key] = tt.value
			}
			got := Misplaced(annotations, "ns", func(nad string) (string, bool) { c, ok := configs[nad]; return c, ok })
			if tt.want == nil {
				if got != nil {
					t.Errorf("got %q", got)
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("got %q, want one warning", got)
			}
			for _, w := range tt.want {
				if !strings.Contains(got[0], w) {
					t.Errorf("%q lacks %q", got[0], w)
				}
			}
		})
	}
}
