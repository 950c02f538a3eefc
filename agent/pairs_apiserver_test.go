//go:build apiserver

package agent

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

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
		template := func() *v1alpha1.IPLease {
			q := r.pod("other", "berth.dev/ippool=$a")
			v4, _, _ := strings.Cut(r.add(q, "other", "net1"), " ")
			l, err := r.leases.Get(t.Context(), r.name+"."+v4, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}()
		for address, sandbox := range map[string]string{"10.6.0.200": "s1", "fd00:6::d0": "s0"} {
			l := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: ipam.LeaseName(r.name, netip.MustParseAddr(address)), Labels: template.Labels}, Spec: *template.Spec.DeepCopy()}
			l.Spec.Address, l.Spec.Holder.Pod, l.Spec.Holder.UID, l.Spec.Holder.ContainerID = address, p.Name, p.UID, sandbox
			if _, err := r.leases.Create(t.Context(), l, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		apitest.Eventually(t, "the agent knows the halves", func() error {
			if n := len(r.store.HeldByPod(p.UID, "net1")); n != 2 {
				return fmt.Errorf("it knows %d", n)
			}
			return nil
		})
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
