//go:build linux

package proxy

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/berthdev/berth/tests/netns"
)

func TestDetect(t *testing.T) {
	restore := func(t *testing.T, binary, rules string) {
		t.Helper()
		path, err := exec.LookPath(binary)
		if err != nil {
			t.Skipf("no %s", binary)
		}
		cmd := exec.Command(path)
		cmd.Stdin = strings.NewReader(rules)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("%s: %v\n%s", binary, err, out)
		}
	}
	const (
		kube  = "*nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\n-A KUBE-SERVICES -d 10.96.0.1 -p tcp -j ACCEPT\nCOMMIT\n"
		kube6 = "*nat\n:KUBE-SERVICES - [0:0]\n-A PREROUTING -j KUBE-SERVICES\nCOMMIT\n"
		other = "*nat\n:CILIUM_PRE_nat - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n-A PREROUTING -j CILIUM_PRE_nat\nCOMMIT\n"
	)
	for _, tt := range []struct {
		name string
		does func(*testing.T)
		want Found
	}{
		{"nothing", func(*testing.T) {}, Nobody},
		{"our own", func(t *testing.T) { started(t, examples()...) }, Nobody},
		{"nftables", func(t *testing.T) { nft(t, "table ip kube-proxy {\nchain services {\n}\n}", "-f", "-") }, NFTables},
		{"nftables, IPv6 only", func(t *testing.T) { nft(t, "table ip6 kube-proxy {\nchain services {\n}\n}", "-f", "-") }, NFTables},
		{"nftables, cleaned up", func(t *testing.T) { nft(t, "table ip kube-proxy {\n}", "-f", "-") }, Nobody},
		{"iptables-nft", func(t *testing.T) { restore(t, "iptables-nft-restore", kube) }, IPTables},
		{"iptables-nft, Cilium", func(t *testing.T) { restore(t, "iptables-nft-restore", other) }, Nobody},
		{"iptables-legacy", func(t *testing.T) { restore(t, "iptables-legacy-restore", kube) }, IPTables},
		{"iptables-legacy, IPv6 only", func(t *testing.T) { restore(t, "ip6tables-legacy-restore", kube6) }, IPTables},
		{"iptables-legacy, Cilium", func(t *testing.T) { restore(t, "iptables-legacy-restore", other) }, Nobody},
		{"IPVS", func(t *testing.T) {
			link := netlink.NewLinkAttrs()
			link.Name = ipvsLink
			must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: link})) // in life a dummy
		}, IPVS},
	} {
		t.Run(tt.name, func(t *testing.T) {
			netns.New(t).Do(func() {
				tt.does(t)
				var d Detector
				for range 2 {
					if got, err := d.Detect(); got != tt.want || err != nil {
						t.Errorf("found %q, %v; want %q", got, err, tt.want)
					}
				}
			})
		})
	}
}

// TestDetectLegacy: the table is seen to come and go, and is not made by being looked for.
func TestDetectLegacy(t *testing.T) {
	if _, err := exec.LookPath("iptables-legacy"); err != nil {
		t.Skip("no iptables-legacy")
	}
	netns.New(t).Do(func() {
		var d Detector
		for _, tt := range []struct {
			command string
			want    Found
		}{
			{"", Nobody},
			{"-N FOREIGN", Nobody},
			{"-N KUBE-SERVICES", IPTables},
			{"-A PREROUTING -j KUBE-SERVICES", IPTables},
			{"-F", IPTables},
			{"-X KUBE-SERVICES", Nobody},
		} {
			if tt.command != "" {
				if out, err := exec.Command("iptables-legacy", append([]string{"-t", "nat"}, strings.Fields(tt.command)...)...).CombinedOutput(); err != nil {
					t.Fatalf("iptables-legacy %s: %v\n%s", tt.command, err, out)
				}
			}
			if got, err := d.Detect(); got != tt.want || err != nil {
				t.Errorf("after %q: %q, %v; want %q", tt.command, got, err, tt.want)
			}
			if names, _ := exec.Command("cat", "/proc/self/net/ip_tables_names").Output(); tt.command == "" && len(names) > 0 {
				t.Errorf("to look made %q", names)
			}
		}
	})
}

func TestDecision(t *testing.T) {
	for _, tt := range []struct {
		name  string
		looks string // k: kube-proxy, -: nobody
		left  bool
		want  string // u: undecided, t: theirs, o: ours
	}{
		{"kube-proxy", "kkk", false, "ttt"},
		{"none", "---", false, "uoo"},
		{"kube-proxy comes late at boot", "-kk", false, "utt"},
		{"none, agent restarted", "--", true, "oo"},
		{"installed", "--kk", false, "uoot"},
		{"installed, one false alarm", "--k-k-", false, "uooooo"},
		{"removed", "kkk---", false, "ttttto"},
		{"rules away for a while", "k--k--k", false, "ttttttt"},
		{"removed and installed", "k---kk", false, "tttoot"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var d Decision
			got := ""
			for _, look := range tt.looks {
				found := Nobody
				if look == 'k' {
					found = IPTables
				}
				got += string("uto"[d.Look(found, tt.left)])
			}
			if got != tt.want {
				t.Errorf("%s: %s, want %s", tt.looks, got, tt.want)
			}
		})
	}
}
