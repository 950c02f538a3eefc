//go:build linux

package proxy

import (
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/nftables"

	"github.com/berthdev/berth/service"
	"github.com/berthdev/berth/tests/netns"
)

var update = flag.Bool("update", false, "write testdata anew")

func nft(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("nft", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", args, err, out)
	}
	return string(out)
}

func frontends(protocol service.Protocol, all ...string) (f []service.Frontend) {
	for _, s := range all {
		a := netip.MustParseAddrPort(s)
		f = append(f, service.Frontend{Address: a.Addr(), Port: a.Port(), Protocol: protocol})
	}
	return f
}

func backends(all ...string) (b []service.Backend) {
	for _, s := range all {
		a := netip.MustParseAddrPort(s)
		b = append(b, service.Backend{Address: a.Addr(), Port: a.Port()})
	}
	return b
}

func prefixes(all ...string) (p []netip.Prefix) {
	for _, s := range all {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func started(t testing.TB, all ...service.Service) *Proxy {
	t.Helper()
	p := New(slog.New(slog.NewTextHandler(t.Output(), nil)))
	must(t, p.SetLinks([]string{"vmac3", "vmac7"}))
	must(t, p.SetServiceCIDRs(prefixes("10.96.0.0/16", "2001:db8:96::/112")))
	must(t, p.Sync(all))
	return p
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sticky(s service.Service) service.Service {
	for i := range s.Ports {
		s.Ports[i].Affinity = 3 * time.Hour
	}
	return s
}

func examples() []service.Service {
	var twenty []string
	for i := range 20 {
		twenty = append(twenty, fmt.Sprintf("10.6.1.%d:80", i+1))
	}
	return []service.Service{
		{Name: "default/both", Ports: []service.Port{
			{Name: "http", Frontends: frontends(service.TCP, "10.96.0.10:80", "0.0.0.0:30080"), Backends: backends("10.6.1.1:8080", "10.6.1.2:8080", "10.6.1.3:8080")},
			{Name: "http", Frontends: frontends(service.TCP, "[2001:db8:96::10]:80", "[::]:30080"), Backends: backends("[2001:db8:6::1]:8080", "[2001:db8:6::2]:8080")},
			{Name: "dns", Frontends: frontends(service.UDP, "10.96.0.10:53"), Backends: backends("10.6.1.1:53")},
			{Name: "sig", Frontends: frontends(service.SCTP, "10.96.0.10:80"), Backends: backends("10.6.1.1:90")},
		}},
		{Name: "default/empty", Ports: []service.Port{
			{Frontends: frontends(service.TCP, "10.96.0.11:80")},
			{Frontends: frontends(service.TCP, "192.0.2.1:80"), Drop: true},
		}},
		{Name: "default/limited", Ports: []service.Port{
			{Frontends: frontends(service.TCP, "192.0.2.2:80"), Backends: backends("10.6.1.1:80"), Sources: prefixes("10.0.0.0/8", "192.168.0.0/17", "192.168.128.0/17")},
			{Frontends: frontends(service.TCP, "[2001:db8:2::2]:80"), Backends: backends("[2001:db8:6::1]:80"), Sources: prefixes("10.0.0.0/8")},
			{Frontends: frontends(service.TCP, "192.0.2.3:80"), Backends: backends("10.6.1.1:80"), Sources: prefixes("0.0.0.0/0")},
		}},
		sticky(service.Service{Name: "default/sticky", Ports: []service.Port{
			{Frontends: frontends(service.TCP, "10.96.0.13:80"), Backends: backends("10.6.1.1:80", "10.6.1.2:80")},
			{Frontends: frontends(service.TCP, "[2001:db8:96::13]:80"), Backends: backends("[2001:db8:6::1]:80")},
		}}),
		{Name: "default/twenty", Ports: []service.Port{{Frontends: frontends(service.TCP, "10.96.0.14:80"), Backends: backends(twenty...)}}},
	}
}

// TestFirstPacketsOnly: no chain of ours looks at each packet of a connection.
func TestFirstPacketsOnly(t *testing.T) {
	table := ownTable()
	for _, c := range baseChains(table, newSets(table), nil) {
		if c.Hooknum != nil && c.Type != nftables.ChainTypeNAT {
			t.Errorf("chain %s is of type %s", c.Name, c.Type)
		}
	}
}

// TestListing compares what nft shows of the examples with testdata (go test -update writes it).
func TestListing(t *testing.T) {
	netns.New(t).Do(func() {
		started(t, examples()...)
		got := nft(t, "", "list", "table", "inet", "berth-services")
		const file = "testdata/examples.nft"
		if *update {
			must(t, os.WriteFile(file, []byte(got), 0o644))
		}
		want, err := os.ReadFile(file)
		must(t, err)
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// TestFoundAgain: an agent that starts again finds all right and writes nothing.
func TestFoundAgain(t *testing.T) {
	netns.New(t).Do(func() {
		started(t, examples()...)
		before, err := generation()
		must(t, err)
		started(t, examples()...)
		if after, err := generation(); err != nil || after != before {
			t.Errorf("%d transactions, %v", after-before, err)
		}
	})
}

// TestAnyWay: whatever way leads to some Services, the table is as if they had been there from the start.
func TestAnyWay(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	netns.New(t).Do(func() {
		p := started(t)
		now := map[int]service.Service{}
		for range 200 {
			i := random.IntN(10)
			if random.IntN(4) == 0 {
				delete(now, i)
				must(t, p.Delete(name(i)))
			} else {
				now[i] = some(random, i)
				must(t, p.Set(now[i]))
			}
			if random.IntN(20) == 0 {
				must(t, p.mend())
			}
			if random.IntN(30) == 0 { // killed
				p = started(t, values(now)...)
			}
		}
		must(t, p.clear())
		got, _, err := read()
		must(t, err)
		if diff := cmp.Diff(p.have, got, cmp.AllowUnexported(state{}), cmpopts.EquateComparable(netip.Addr{}, service.Frontend{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("known and there (-known +there)\n%s", diff)
		}
		listing := inOrder(nft(t, "", "list", "table", "inet", "berth-services"))
		must(t, Remove())
		started(t, values(now)...)
		if diff := cmp.Diff(inOrder(nft(t, "", "list", "table", "inet", "berth-services")), listing); diff != "" {
			t.Errorf("from the start and by another way (-start +way)\n%s", diff)
		}
	})
}

func name(i int) string { return fmt.Sprintf("default/s%d", i) }

func some(r *rand.Rand, i int) service.Service {
	s := service.Service{Name: name(i)}
	for n := range 1 + r.IntN(2) {
		p := service.Port{Name: fmt.Sprintf("p%d", n), Frontends: frontends(service.TCP, fmt.Sprintf("10.96.0.%d:%d", i, 80+n))}
		if r.IntN(2) == 0 {
			p.Frontends = append(p.Frontends, frontends(service.TCP, fmt.Sprintf("0.0.0.0:%d", 30000+10*i+n))...)
		}
		for b := range []int{0, 1, 2, 20}[r.IntN(4)] {
			p.Backends = append(p.Backends, backends(fmt.Sprintf("10.6.1.%d:8080", b+1))...)
		}
		if r.IntN(3) == 0 {
			p.Affinity = time.Hour
		}
		if r.IntN(4) == 0 {
			p.Sources = prefixes("10.0.0.0/8")
		}
		s.Ports = append(s.Ports, p)
	}
	return s
}

func values(m map[int]service.Service) (all []service.Service) {
	for _, s := range m {
		all = append(all, s)
	}
	return all
}

// inOrder takes the history out of a listing: the order in which chains and sets were made.
func inOrder(listing string) map[string]bool {
	parts := map[string]bool{}
	for _, part := range regexp.MustCompile(`\n\n`).Split(listing, -1) {
		parts[strings.Trim(part, "}\n")] = true
	}
	return parts
}

// TestOthers: somebody flushes our chains, or everything, and has a table of their own, which is left alone.
func TestOthers(t *testing.T) {
	netns.New(t).Do(func() {
		p := started(t, examples()...)
		want := nft(t, "", "list", "table", "inet", "berth-services")
		const foreign = "table inet foreign {\n\tchain c {\n\t\tip daddr 10.96.0.10 accept\n\t}\n}\n"
		for _, does := range []string{
			"flush chain inet berth-services prerouting",
			"delete element inet berth-services services4 { 10.96.0.10 . tcp . 80 }",
			"flush set inet berth-services addresses4",
			"flush set inet berth-services vmacs",
			"add rule inet berth-services unserved accept",
			"flush ruleset",
		} {
			nft(t, does+"\n"+foreign, "-f", "-")
			must(t, p.mend())
			if diff := cmp.Diff(inOrder(want), inOrder(nft(t, "", "list", "table", "inet", "berth-services"))); diff != "" {
				t.Errorf("%s (-want +got)\n%s", does, diff)
			}
			if got := nft(t, "", "list", "table", "inet", "foreign"); got != foreign {
				t.Errorf("%s: foreign table is %s", does, got)
			}
			nft(t, "delete table inet foreign", "-f", "-")
			must(t, p.mend())
		}
		must(t, p.Remove())
		if left := nft(t, "", "list", "ruleset"); left != "" {
			t.Errorf("left over:\n%s", left)
		}
	})
}

// TestOneIsRefused: a Service that the kernel does not take keeps back no other.
func TestOneIsRefused(t *testing.T) {
	netns.New(t).Do(func() {
		long := service.Service{Name: strings.Repeat("x", 300), Ports: []service.Port{{Frontends: frontends(service.TCP, "10.96.0.99:80"), Backends: backends("10.6.1.1:80")}}}
		p := New(slog.New(slog.DiscardHandler))
		if err := p.Sync(append(examples(), long)); err == nil {
			t.Error("no error")
		}
		got, _, err := read()
		must(t, err)
		for _, s := range examples() {
			for f := range compile(s).frontends {
				if got.frontends[f] == "" {
					t.Errorf("%s of %s is not there", f, s.Name)
				}
			}
		}
		must(t, p.Delete(long.Name))
	})
}
