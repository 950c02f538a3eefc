//go:build apiserver

package agent

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

const foreignMAC = "02:00:00:00:09:09"

// clocked is a rig whose agent's clock is ahead by offset.
func clocked(t *testing.T, pools ...string) (r *rig, offset *atomic.Int64) {
	t.Helper()
	offset = &atomic.Int64{}
	r = newRig(t, pools...)
	r.stop()
	r.conf.Now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	r.start()
	return r, offset
}

// watches waits until the agent looks for the address on eth0.
func (r *rig) watches(address string) {
	r.Helper()
	a := netip.MustParseAddr(address)
	apitest.Eventually(r, address+" is watched", func() error {
		r.path.mu.Lock()
		defer r.path.mu.Unlock()
		if w := r.path.watched["eth0"]; !slices.ContainsFunc(w.Addresses, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return fmt.Errorf("%v", w)
		}
		return nil
	})
}

// heard on eth0.
func (r *rig) heard(address, mac string) path.Sighting {
	s := path.Sighting{Parent: "eth0", Address: netip.MustParseAddr(address), MAC: mac}
	r.path.see(s)
	return s
}

// comes to be: the lease of the address, in this phase and with this conflict.
func (r *rig) comes(address string, phase v1alpha1.LeasePhase, mac string) *v1alpha1.IPLease {
	r.Helper()
	var l *v1alpha1.IPLease
	apitest.Eventually(r, address+" is "+string(phase), func() (err error) {
		l, err = r.leases.Get(r.Context(), ipam.LeaseName(r.name, netip.MustParseAddr(address)), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := l.Spec.Conflict; l.Spec.Phase != phase || c == nil || c.MAC != mac || c.Node != r.name || c.Parent != "eth0" {
			return fmt.Errorf("%+v", l.Spec)
		}
		return nil
	})
	return l
}

func (r *rig) leaseEvent(lease, reason string, notes ...string) {
	r.Helper()
	apitest.Eventually(r, "event "+reason+" on lease "+lease, func() error {
		list, err := r.kube.EventsV1().Events(metav1.NamespaceDefault).List(r.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Regarding.Kind == "IPLease" && e.Regarding.Name == lease && e.Reason == reason &&
				!slices.ContainsFunc(notes, func(n string) bool { return !strings.Contains(e.Note, n) }) {
				return nil
			}
		}
		return errors.New("not there")
	})
}

// metric as scraped; 0 if it is not there.
func (r *rig) metric(name string) float64 {
	r.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(r.metrics.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				r.Fatal(err)
			}
			return f
		}
	}
	return 0
}

// What a node's first pod on a link, and its first one of a pool, are given is listened to at once: it is asked for a second later.
func TestListenedAtOnce(t *testing.T) {
	before := watchPeriod
	watchPeriod = time.Hour
	t.Cleanup(func() { watchPeriod = before })
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	r.watches(r.add(r.pod("first", "berth.dev/ippool=$a"), "s1", "net1"))
	r.pool("b", `{subnets: [{cidr: 10.7.0.0/24}]}`)
	r.watches(r.add(r.pod("second", "berth.dev/ippool=$b"), "s2", "net1"))
}

// A free address that somebody uses is given to no pod, not even as the last of its pool.
func TestFreeAddressInUse(t *testing.T) {
	r, offset := clocked(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.2"]}]}`)
	first := r.add(r.pod("one", "berth.dev/ippool=$a"), "s1", "net1")
	taken := map[string]string{"10.6.0.1": "10.6.0.2", "10.6.0.2": "10.6.0.1"}[first]
	r.watches(taken)

	r.heard("10.6.0.9", foreignMAC) // of no pool
	r.path.see(path.Sighting{Parent: "eth1", Address: netip.MustParseAddr(taken), MAC: foreignMAC})
	r.heard(taken, foreignMAC)
	l := r.comes(taken, v1alpha1.LeaseQuarantined, foreignMAC)
	r.leaseEvent(l.Name, "AddressQuarantined", taken, foreignMAC, `exclude this one from pool "`+r.name+`-a"`)
	r.refused(request(r.pod("two", "berth.dev/ippool=$a"), "s2", "net1", macvlan), delegate.CodeExhausted)
	r.wantBound(first + " one/net1/s1")

	// While it lasts, the lease says so: anew each minute.
	offset.Add(int64(time.Minute))
	const another = "02:00:00:00:09:0a"
	r.heard(taken, another)
	if again := r.comes(taken, v1alpha1.LeaseQuarantined, another); !again.Spec.Conflict.SeenAt.After(l.Spec.Conflict.SeenAt.Time) {
		t.Errorf("seen at %s, then at %s", l.Spec.Conflict.SeenAt, again.Spec.Conflict.SeenAt)
	}
	for address, want := range map[string]float64{"free": 1, "quarantined": 1, "bound": 0} {
		apitest.Eventually(t, "conflicts are counted", func() error { // after they are written
			if got := r.metric(MetricConflicts + `{address="` + address + `"}`); got != want {
				return fmt.Errorf("%s: %v, want %v", address, got, want)
			}
			return nil
		})
	}
	if got := r.metric(MetricSightings + `{outcome="told",vmac="vmac2"}`); got != 3 {
		t.Errorf("%v sightings", got)
	}
	list, err := r.leases.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.network=" + r.name})
	if err != nil || len(list.Items) != 2 {
		t.Errorf("%d leases, %v", len(list.Items), err)
	}
}

// A pod keeps an address that somebody else uses, and everybody is told.
func TestBoundAddressInUse(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.2"]}]}`)
	p := r.pod("one", "berth.dev/ippool=$a")
	a := r.add(p, "s1", "net1")
	r.watches(a)
	if _, _, v := r.clash.judge(r.heard(a, "02:00:00:00:00:01")); v != noConflict {
		t.Error("the pod is in conflict with itself")
	}
	r.heard(a, foreignMAC)
	l := r.comes(a, v1alpha1.LeaseBound, foreignMAC)
	notes := []string{a, "02:00:00:00:00:01", foreignMAC, "find that host by its MAC"}
	r.leaseEvent(l.Name, "AddressConflict", notes...)
	r.event("one", "AddressConflict", notes...)
	r.wantBound(a + " one/net1/s1")
	if got := r.metric(MetricConflicts + `{address="bound"}`); got != 1 {
		t.Errorf("%v conflicts", got)
	}
	r.del(p, "s1", "net1")
	r.wantBound()
}

// A pod that goes is heard a little longer than it holds its address. One that is heard still later is not gone.
func TestPodThatGoesIsHeard(t *testing.T) {
	r, offset := clocked(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.2"]}]}`)
	r.add(r.pod("stays", "berth.dev/ippool=$a"), "s1", "net1")
	goes := r.pod("goes", "berth.dev/ippool=$a")
	a := r.add(goes, "s2", "net1")
	r.watches(a)
	r.del(goes, "s2", "net1")
	s := r.heard(a, "02:00:00:00:00:01")
	if _, _, v := r.clash.judge(s); v != noConflict {
		t.Error("its last words are a conflict")
	}
	offset.Add(int64(linger))
	r.heard(a, "02:00:00:00:00:01")
	l := r.comes(a, v1alpha1.LeaseQuarantined, "02:00:00:00:00:01")
	if l.Spec.Holder == nil || l.Spec.Holder.Pod != "goes" {
		t.Errorf("last holder %+v", l.Spec.Holder)
	}
}

// Who forges ARP spoils so many addresses a minute on each node, and no more.
func TestForgedSightings(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/16, ips: ["10.6.1.0-10.6.1.255"]}]}`)
	r.add(r.pod("one", "berth.dev/ippool=$a"), "s1", "net1")
	r.watches("10.6.1.7")
	for i := range 100 {
		r.heard(fmt.Sprintf("10.6.1.%d", i), fmt.Sprintf("02:00:00:00:09:%02x", i))
	}
	apitest.Eventually(r, "the bound bites", func() error {
		if got := r.metric(MetricLimited); got < 80 {
			return fmt.Errorf("%v limited", got)
		}
		return nil
	})
	list, err := r.leases.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.network=" + r.name + ",spec.phase=Quarantined"})
	// A token or two more may have come meanwhile.
	if err != nil || len(list.Items) < notesPerMinute || len(list.Items) > 20 {
		t.Errorf("%d quarantined, %v", len(list.Items), err)
	}
}
