//go:build apiserver

package agent

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/tests/netns"
)

// STATUS says whether the agent can serve, not whether a pool has an address left: the plugin's own 50, through the main plugin.
func TestMainPluginStatus(t *testing.T) {
	for main := range mainPlugins {
		t.Run(main, func(t *testing.T) {
			r := newCNINode(t, main, "10.6.0.7")
			list := r.list(r.network("1.1.0"))
			status := func() (err error) {
				r.node.Do(func() { err = r.cni.GetStatusNetworkList(t.Context(), list) })
				return err
			}
			r.attach(list, runtimeConf(r.pod("one", "berth.dev/ippool=$a"), "s1", netns.New(t)))
			late := runtimeConf(r.pod("two", "berth.dev/ippool=$a"), "s2", netns.New(t))
			r.node.Do(func() {
				_, err := r.cni.AddNetworkList(t.Context(), list, late)
				checkError(t, nil, err, delegate.CodeExhausted)
			})
			if err := status(); err != nil {
				t.Errorf("STATUS with an exhausted pool: %v", err)
			}
			r.stop()
			checkError(t, nil, status(), delegate.CodeNotAvailable, "berth-agent does not answer")

			a, err := newAgent(r.conf, r.cfg, newFakePath(), slog.New(slog.DiscardHandler)) // serves, and never learns what there is
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- a.serve(ctx) }()
			defer func() { cancel(); <-ended }()
			apitest.Eventually(t, "the agent listens", func() error { return a.alive(ctx) })
			checkError(t, nil, status(), delegate.CodeNotAvailable, "not yet read the pools and leases")
		})
	}
}

// GC of libcni (v1.3.1): DEL for each attachment that it knows of and that is not valid, and GC of each plugin in the list. The main
// plugins (v1.9.1) do not forward it. So it reaches berth if a list has berth itself as a plugin.
func TestMainPluginGC(t *testing.T) {
	for main := range mainPlugins {
		t.Run(main, func(t *testing.T) {
			r := newCNINode(t, main, `"10.6.0.7-10.6.0.8"`)
			list := r.list(r.network("1.1.0"))
			own := r.list(fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [{"type": "berth", "ipam": {"type": "berth", "socket": %q}}]}`,
				r.name, r.socket))
			live := types.GCAttachment{ContainerID: "s1", IfName: "net1"}
			dead := types.GCAttachment{ContainerID: "s2", IfName: "net1"}
			liveNS := netns.New(t)
			r.attach(list, runtimeConf(r.pod("live", "berth.dev/ippool=$a"), "s1", liveNS))
			one := r.bound()
			r.attach(list, runtimeConf(r.pod("dead", "berth.dev/ippool=$a"), "s2", netns.New(t)))
			both := r.bound()
			r.deletePod("dead")
			knowing := r.cni
			r.forget()
			only := func(at ...types.GCAttachment) *libcni.GCArgs {
				return &libcni.GCArgs{ValidAttachments: append([]types.GCAttachment{}, at...)} // never null
			}
			gc := func(what string, list *libcni.NetworkConfigList, valid *libcni.GCArgs, want ...string) {
				t.Helper()
				for range 2 {
					r.must("GC with "+what, func() error { return r.cni.GCNetworkList(t.Context(), list, valid) })
					r.longApart()
				}
				r.wantBound(want...)
			}
			gc("a list for the main plugin", list, only(live), both...)
			if r.suspects() > 0 {
				t.Error("the main plugin forwards GC; say so in docs/architecture.md")
			}
			gc("no list", own, nil, both...)
			gc("null for a list", own, &libcni.GCArgs{}, both...)
			gc("all listed", own, only(live, dead), both...)
			r.must("GC once", func() error { return r.cni.GCNetworkList(t.Context(), own, only(live)) })
			r.wantBound(both...)
			r.longApart()
			gc("one missing again", own, only(live), one...)
			gc("an empty list, and a pod that is there", own, only(), one...)

			r.cni = knowing // it has DEL run for what it knows of
			gc("an empty list for a runtime that knows", list, only())
			r.noLink(liveNS)
		})
	}
}

// longApart makes it so that GC's observations lie far enough apart.
func (r *rig) longApart() {
	r.suspect.mu.Lock()
	defer r.suspect.mu.Unlock()
	for name, s := range r.suspect.since {
		s.since = s.since.Add(-2 * apart)
		r.suspect.since[name] = s
	}
}

// suspects of GC: none if it was never asked.
func (r *rig) suspects() int {
	r.suspect.mu.Lock()
	defer r.suspect.mu.Unlock()
	return len(r.suspect.since)
}
