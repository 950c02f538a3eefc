package agent

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/berthdev/berth/agent/path"
)

// TestServed: only where the agent knows that nobody else may translate beyond the node does the path keep in what is not translated.
func TestServed(t *testing.T) {
	for when, want := range map[ServiceProxy]bool{ProxyAuto: true, ProxyAlways: true, ProxyNever: false, "": false} {
		var got path.Prefixes
		newNetwork(nil, nil, Config{ServiceProxy: when, PodCIDRs: []netip.Prefix{}}, func(p path.Prefixes) { got = p }, slog.New(slog.DiscardHandler)).update()
		if got.Served != want {
			t.Errorf("--service-proxy=%s: %t, want %t", when, got.Served, want)
		}
	}
}
