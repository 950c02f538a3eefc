//go:build apiserver

package agent

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// holds has an address bound to a sandbox of a pod, as by a claim of which nothing was heard.
func (r *rig) holds(p *corev1.Pod, sandbox, pool, address string) {
	r.Helper()
	at := netip.MustParseAddr(address)
	l := ipam.NewLease(r.pools.named(r.name+"-"+pool), at, ipam.Claimant{Holder: v1alpha1.LeaseHolder{Namespace: p.Namespace, Pod: p.Name, UID: p.UID,
		Node: r.name, ContainerID: sandbox, Interface: "net1", Attachment: "vlan910", Parent: "eth0", MAC: "02:00:00:00:00:01"}}, time.Now())
	if _, err := r.leases.Create(r.Context(), l, metav1.CreateOptions{}); err != nil {
		r.Fatal(err)
	}
	apitest.Eventually(r, "the agent knows of "+address, func() error {
		if held := r.store.HeldByPod(p.UID, "net1"); !slices.ContainsFunc(held, func(h *v1alpha1.IPLease) bool { return h.Name == l.Name }) {
			return fmt.Errorf("it knows of %v", held)
		}
		return nil
	})
}

// Half a pair, whose other half is somebody else's, is of no use: another pool serves, and the half is freed.
func TestHalfIsFreed(t *testing.T) {
	r := newRig(t, `a: {pairing: index, subnets: [{cidr: 10.6.0.0/24}, {cidr: "fd00:6::/120"}]}`, `b: {subnets: [{cidr: 10.7.0.0/24}]}`)
	p := r.pod("half", "berth.dev/ippool=$a,$b")
	r.holds(p, "s1", "a", "10.6.0.200")
	r.holds(r.pod("other"), "s0", "a", "fd00:6::c8")
	if got := r.add(p, "s2", "net1"); !strings.HasPrefix(got, "10.7.0.") {
		t.Errorf("given %s", got)
	}
	r.phase("10.6.0.200", v1alpha1.LeaseReleased)
}

// Half a pair, of a claim that came to nothing, is nothing that an interface keeps when its pool gives no more; of another pool it gets a pair.
func TestHalfOfDisabledPool(t *testing.T) {
	r := newJournalRig(t, `a: {pairing: index, subnets: [{cidr: 10.6.0.0/24}, {cidr: "fd00:6::/120"}]}`, `b: {subnets: [{cidr: 10.7.0.0/24}]}`)
	p := r.pod("half", "berth.dev/ippool=$a")
	q := r.pod("other", "berth.dev/ippool=$a,$b")
	r.holds(p, "s1", "a", "10.6.0.200")
	r.holds(q, "s2", "a", "10.6.0.201")
	r.edit("a", func(p *v1alpha1.IPPoolSpec) { p.Disabled = true })
	for _, sandbox := range []string{"s1", "s1b"} {
		r.refused(request(p, sandbox, "net1", macvlan), delegate.CodeNoPool, "is disabled")
	}
	if got := r.add(q, "s2b", "net1"); !strings.HasPrefix(got, "10.7.0.") {
		t.Errorf("given %s", got)
	}
	r.phase("10.6.0.201", v1alpha1.LeaseReleased)
}

// An interface that was given an address of one family alone keeps it, and no more, when its pool is paired.
func TestPairedUnderOneFamily(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}, {cidr: "fd00:6::/120"}]}`)
	for _, family := range []string{"ipv4", "ipv6"} {
		p := r.pod(family, fmt.Sprintf(`berth.dev/ippool={%q: ["$a"]}`, family))
		r.edit("a", func(p *v1alpha1.IPPoolSpec) { p.Pairing = "" })
		before := r.add(p, family+"-1", "net1")
		r.edit("a", func(p *v1alpha1.IPPoolSpec) { p.Pairing = v1alpha1.PairingIndex })
		for _, sandbox := range []string{"-1", "-2"} {
			if got := r.add(p, family+sandbox, "net1"); got != before {
				t.Errorf("sandbox %s gets %q, had %q", family+sandbox, got, before)
			}
		}
		r.refused(request(r.pod(family+"-new", fmt.Sprintf(`berth.dev/ippool={%q: ["$a"]}`, family)), "s", "net1", macvlan), delegate.CodeNoPool, "pairs its addresses")
	}
}

// An interface that has halves of two pairs, of ADDs that came to nothing, gets a pair. What it was given before its pool was paired
// it keeps.
func TestPairs(t *testing.T) {
	const subnets = `subnets: [{cidr: 10.6.0.0/24}, {cidr: "fd00:6::/120"}]`
	for _, journal := range []string{filepath.Join(t.TempDir(), "journal"), ""} {
		r := newRig(t, "a: {pairing: index, "+subnets+"}", "b: {"+strings.ReplaceAll(subnets, "6", "7")+"}")
		r.stop()
		r.conf.Journal = journal
		r.start()
		pair := func(addresses string) bool {
			v4, v6, _ := strings.Cut(addresses, " ")
			return netip.MustParseAddr(v4).As4()[3] == netip.MustParseAddr(v6).As16()[15]
		}

		p := r.pod("halves", "berth.dev/ippool=$a")
		r.holds(p, "s1", "a", "10.6.0.200")
		r.holds(p, "s0", "a", "fd00:6::d0")
		if got := r.add(p, "s2", "net1"); !pair(got) {
			t.Errorf("journal %q: no pair: %s", journal, got)
		}

		q := r.pod("earlier", "berth.dev/ippool=$b")
		before := r.add(q, "s3", "net1")
		for i := 0; pair(before); i++ { // by chance
			q = r.pod(fmt.Sprint("earlier-", i), "berth.dev/ippool=$b")
			before = r.add(q, "s3", "net1")
		}
		r.edit("b", func(p *v1alpha1.IPPoolSpec) { p.Pairing = v1alpha1.PairingIndex })
		for _, sandbox := range []string{"s3", "s4"} {
			if got := r.add(q, sandbox, "net1"); got != before {
				t.Errorf("journal %q: sandbox %s gets %s, had %s", journal, sandbox, got, before)
			}
		}
		r.stop()
	}
}
