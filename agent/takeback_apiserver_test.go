//go:build apiserver

package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// A release that the API may have carried out is not taken back: the address may be another's.
func TestToldReleaseStays(t *testing.T) {
	r := newJournalRig(t, onePool)
	one := r.pod("one", "berth.dev/ippool=$a")
	r.add(one, "s1", "net1")
	r.faults.Set("PUT", apitest.Lost)
	r.faults.Set("GET", apitest.Cut)
	r.del(one, "s1", "net1")
	r.wantBound() // it did
	r.faults.SetAway(true)
	r.refused(request(one, "s1b", "net1", macvlan), 11)
	r.faults.Set("PUT", apitest.None)
	r.faults.Set("GET", apitest.None)
	r.faults.SetAway(false)
	r.settled()
	r.wantBound()
}

// A release whose answer was lost is not taken back because a later try did not reach the API: another node may have the address.
func TestReleaseHeardOnceIsNotTakenBack(t *testing.T) {
	r := newJournalRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	p := r.pod("web", "berth.dev/ippool=$a")
	r.add(p, "s1", "net1")
	r.faults.Set("PUT", apitest.Lost)
	r.faults.Set("GET", apitest.Cut)
	r.del(p, "s1", "net1")
	r.faults.Set("PUT", apitest.Cut)
	if err := r.replayOnce(t.Context()); err == nil {
		t.Error("the API is away, and has acknowledged a release")
	}
	if e := r.journal.Known("s2", "net1", p.UID); e != nil {
		t.Errorf("the pod's next sandbox would be given %v, which the API has as free", e.Leases[0].Spec.Address)
	}
}

// A release that waits for the API is not taken back once a person has freed the leases: others may have them.
func TestFreedMeanwhileIsNotTakenBack(t *testing.T) {
	r := newJournalRig(t, onePool)
	p := r.pod("web", "berth.dev/ippool=$a")
	at := r.add(p, "s1", "net1")
	r.faults.Set("PUT", apitest.Cut)
	r.del(p, "s1", "net1")
	defer r.lock.lock("s1", "net1")() // so that it is not told meanwhile
	if r.journal.Known("s2", "net1", p.UID) == nil {
		t.Fatal("a release of which the API has not heard cannot be taken back")
	}
	for address := range strings.FieldsSeq(at) {
		if err := r.leases.Delete(t.Context(), ipam.LeaseName(r.name, netip.MustParseAddr(address)), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	apitest.Eventually(t, "the next sandbox is not given them without the API", func() error {
		if e := r.journal.Known("s2", "net1", p.UID); e != nil {
			return fmt.Errorf("it is given %s", at)
		}
		return nil
	})
}
