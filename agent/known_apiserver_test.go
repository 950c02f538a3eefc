//go:build apiserver

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// newJournalRig is a rig whose agent has a journal, and little patience with an API that is away.
func newJournalRig(t *testing.T, pools ...string) *rig {
	t.Helper()
	before := apiPatience
	apiPatience = 500 * time.Millisecond
	t.Cleanup(func() { apiPatience = before })
	r := newRig(t, pools...)
	r.stop()
	r.conf.Journal = filepath.Join(t.TempDir(), "journal.db")
	r.start()
	return r
}

// eventuallyBound waits until the API server has these leases bound, as wantBound.
func (r *rig) eventuallyBound(want ...string) {
	r.Helper()
	apitest.Eventually(r, "leases are as wanted", func() error {
		if got := r.bound(); !slices.Equal(got, want) && len(got)+len(want) > 0 {
			return fmt.Errorf("bound %q, want %q", got, want)
		}
		return nil
	})
}

// settled waits until the API has acknowledged the whole journal.
func (r *rig) settled() {
	r.Helper()
	apitest.Eventually(r, "nothing is pending", func() error {
		if n := len(r.journal.Releases()); n > 0 {
			return fmt.Errorf("%d releases", n)
		}
		for _, e := range r.journal.Entries() {
			if e.Rebind() {
				return fmt.Errorf("%s is to be rebound", e.Holder.ContainerID)
			}
		}
		return nil
	})
}

// value of a metric with these values of its labels; 0 if there is none.
func (r *rig) value(name string, labels ...string) float64 {
	r.Helper()
	families, err := r.metrics.registry.Gather()
	if err != nil {
		r.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			var values []string
			for _, l := range m.Label {
				values = append(values, l.GetValue())
			}
			if f.GetName() == name && slices.Equal(values, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

const onePool = `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.9"]}, {cidr: "2001:db8::/64", ips: ["2001:db8::1-2001:db8::9"]}]}`

// The API goes away under an agent that knows all: who was answered is answered again, nobody else; a DEL succeeds; and all of it is
// told when the API is back.
func TestAPIGoesAway(t *testing.T) {
	r := newJournalRig(t, onePool)
	one, two, three := r.pod("one", "berth.dev/ippool=$a"), r.pod("two", "berth.dev/ippool=$a"), r.pod("three", "berth.dev/ippool=$a")
	at := r.add(one, "s1", "net1")
	r.add(two, "s2", "net1")
	r.faults.SetAway(true)

	if got := r.add(one, "s1", "net1"); got != at {
		t.Errorf("the same sandbox gets %s, had %s", got, at)
	}
	again := request(one, "s1b", "net1", macvlan)
	again.MAC = "02:00:00:00:00:0b"
	res, err := r.call(t.Context(), delegate.PathAdd, again)
	if err != nil {
		t.Fatal(err)
	}
	if got := res.IPs[0].Address.IP.String() + " " + res.IPs[1].Address.IP.String(); got != at {
		t.Errorf("a newer sandbox of the pod gets %s, had %s", got, at)
	}
	if !slices.ContainsFunc(r.path.list(), func(e string) bool { return strings.HasSuffix(e, "eth0 02:00:00:00:00:0b") }) {
		t.Errorf("the service path does not know the new link: %v", r.path.list())
	}
	if _, err := r.call(t.Context(), delegate.PathCheck, again); err != nil {
		t.Errorf("CHECK of it: %v", err)
	}
	r.refused(request(three, "s3", "net1", macvlan), 11, "the Kubernetes API is not available")
	r.del(two, "s2", "net1")
	r.del(two, "s2", "net1")
	r.del(one, "s1", "net1") // late, and not the new sandbox's
	if n := r.value(MetricKnown); n != 2 {
		t.Errorf("%v ADDs counted as answered from the journal", n)
	}

	r.faults.SetAway(false)
	addrs := strings.Fields(at)
	r.eventuallyBound(addrs[0]+" one/net1/s1b", addrs[1]+" one/net1/s1b")
	r.settled()
	r.add(three, "s3", "net1")
	r.del(three, "s3", "net1")
	r.del(one, "s1b", "net1")
	r.wantBound()
	if n := len(r.journal.Entries()); n != 0 {
		t.Errorf("%d interfaces left in the journal", n)
	}
}

// A node reboots while the API is away: the runtime deletes its dead sandboxes, and pods get their addresses again in new ones.
func TestStartWithoutAPI(t *testing.T) {
	r := newJournalRig(t, onePool)
	one, two, three := r.pod("one", "berth.dev/ippool=$a"), r.pod("two", "berth.dev/ippool=$a"), r.pod("three", "berth.dev/ippool=$a")
	at, two6 := strings.Fields(r.add(one, "s1", "net1")), strings.Fields(r.add(two, "s2", "net1"))
	r.stop()
	r.faults.SetAway(true)
	r.launch()
	if r.isReady() {
		t.Fatal("ready without an API")
	}
	if _, err := r.call(t.Context(), delegate.PathStatus, &delegate.Request{}); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	r.del(one, "s1", "net1")
	if got := strings.Fields(r.add(one, "s1b", "net1")); !slices.Equal(got, at) {
		t.Errorf("after the reboot %s, before %s", got, at)
	}
	if got := strings.Fields(r.add(two, "s2", "net1")); !slices.Equal(got, two6) { // an ADD tried again
		t.Errorf("tried again %s, before %s", got, two6)
	}
	if _, err := r.call(t.Context(), delegate.PathCheck, request(one, "s1b", "net1", macvlan)); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	r.refused(request(three, "s3", "net1", macvlan), 11)
	if _, err := r.call(t.Context(), delegate.PathDel, request(three, "s3", "net1", macvlan)); err == nil {
		t.Error("a DEL of which nothing is known succeeds before the API is read")
	}
	r.del(two, "s2", "net1")

	// It is killed, and starts once more.
	r.stop()
	r.launch()
	if got := strings.Fields(r.add(one, "s1c", "net1")); !slices.Equal(got, at) {
		t.Errorf("after two reboots %s, before %s", got, at)
	}
	r.faults.SetAway(false)
	r.awaitAgent()
	r.eventuallyBound(at[0]+" one/net1/s1c", at[1]+" one/net1/s1c")
	r.settled()
	if len(r.path.synced) != 2 {
		t.Errorf("the path is told of %v", r.path.synced)
	}
}

func TestNothingToServe(t *testing.T) {
	r := newJournalRig(t, onePool)
	r.stop()
	r.faults.SetAway(true)
	r.launch()
	_, err := r.call(t.Context(), delegate.PathStatus, &delegate.Request{})
	checkError(t, nil, err, 50, "has not yet read")
}

// While pods are started without the API, one loses its lease to another node's pod, another has its freed.
func TestLeaseLost(t *testing.T) {
	r := newJournalRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1"]}]}`, `b: {subnets: [{cidr: 10.7.0.0/24, ips: ["10.7.0.1"]}]}`)
	one, two := r.pod("one", "berth.dev/ippool=$a"), r.pod("two", "berth.dev/ippool=$b")
	r.add(one, "s1", "net1")
	r.add(two, "s2", "net1")
	r.stop()
	r.faults.SetAway(true)
	r.launch()
	r.add(one, "s1b", "net1")
	r.add(two, "s2b", "net1")
	for addr, f := range map[string]func(*v1alpha1.IPLease){
		"10.6.0.1": func(l *v1alpha1.IPLease) {
			l.Spec.Holder = &v1alpha1.LeaseHolder{Namespace: r.name, Pod: "thief", UID: "t", Node: "elsewhere", ContainerID: "x", Interface: "net1"}
		},
		"10.7.0.1": func(l *v1alpha1.IPLease) { ipam.Release(l, l.Spec.Holder, time.Now()) },
	} {
		l, err := r.leases.Get(t.Context(), r.name+"."+addr, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f(l)
		if _, err := r.leases.Update(t.Context(), l, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	r.faults.SetAway(false)
	r.awaitAgent()
	r.event("one", "AddressLost", "10.6.0.1", "delete the pod")
	r.eventuallyBound("10.6.0.1 thief/net1/x", "10.7.0.1 two/net1/s2b")
	if n := r.value(MetricLost); n != 1 {
		t.Errorf("%v addresses counted as lost", n)
	}
	apitest.Eventually(t, "the lost address leaves the path", func() error {
		if l := r.path.list(); len(l) != 1 || !strings.HasPrefix(l[0], "10.7.0.1") {
			return fmt.Errorf("%v", l)
		}
		return nil
	})
	r.del(one, "s1b", "net1")
	r.wantBound("10.6.0.1 thief/net1/x", "10.7.0.1 two/net1/s2b")
	// And it is not given again.
	r.faults.SetAway(true)
	r.refused(request(one, "s1c", "net1", macvlan), 11)
}

// A corrupt journal is set aside, and what pods hold is read from the API.
func TestCorruptJournal(t *testing.T) {
	r := newJournalRig(t, onePool)
	one := r.pod("one", "berth.dev/ippool=$a")
	at := strings.Fields(r.add(one, "s1", "net1"))
	r.stop()
	content, err := os.ReadFile(r.conf.Journal)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(content, []byte(`"leases"`))
	content[i+3] ^= 4
	if err := os.WriteFile(r.conf.Journal, content, 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	if aside, _ := filepath.Glob(r.conf.Journal + ".corrupt-*"); len(aside) != 1 {
		t.Errorf("set aside: %v", aside)
	}
	apitest.Eventually(t, "the journal is completed", func() error {
		if e := r.journal.Interface("s1", "net1"); e == nil || len(e.Leases) != 2 {
			return errors.New("not yet")
		}
		return nil
	})
	r.wantBound(at[0]+" one/net1/s1", at[1]+" one/net1/s1")
	r.faults.SetAway(true)
	r.refused(request(one, "s1b", "net1", macvlan), 11) // its result is gone
	r.del(one, "s1", "net1")
	r.faults.SetAway(false)
	r.eventuallyBound()
}

// The agent frees what nobody deletes, and nothing else.
func TestSweep(t *testing.T) {
	r := newJournalRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	r.stop()
	now := time.Now()
	r.conf.Now = func() time.Time { return now }
	r.start()
	netns := t.TempDir()
	r.netNS = netns
	at := map[string]string{}
	pods := map[string]*corev1.Pod{}
	for _, name := range []string{"lives", "gone", "replaced", "finished", "running", "nowhere", "restarted"} {
		pods[name] = r.pod(name, "berth.dev/ippool=$a")
		req := request(pods[name], "s-"+name, "net1", macvlan)
		if name == "nowhere" {
			req.NetNS = "/proc/4711/ns/net"
		}
		res, err := r.call(t.Context(), delegate.PathAdd, req)
		if err != nil {
			t.Fatal(err)
		}
		at[name] = res.IPs[0].Address.IP.String()
	}
	if err := os.WriteFile(filepath.Join(netns, "s-running"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gone", "replaced", "running", "nowhere"} {
		r.deletePod(name)
	}
	r.pod("replaced")
	fin := pods["finished"].DeepCopy()
	fin.Status.Phase = corev1.PodSucceeded
	if _, err := r.kube.CoreV1().Pods(r.name).UpdateStatus(t.Context(), fin, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.add(pods["restarted"], "s-restarted2", "net1")
	apitest.Eventually(t, "the watch shows it", func() error {
		for _, name := range []string{"gone", "replaced", "finished", "running", "nowhere"} {
			if r.pods.seemsLive(r.name, name, string(pods[name].UID)) {
				return errors.New(name)
			}
		}
		return nil
	})
	sweep := func() {
		t.Helper()
		if err := r.sweepOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	everything := len(r.bound())
	sweep()
	now = now.Add(apart - time.Second)
	sweep()
	if got := len(r.bound()); got != everything {
		t.Fatalf("freed after %s: %v", apart-time.Second, r.bound())
	}
	now = now.Add(time.Second)
	sweep()
	want := []string{
		at["lives"] + " lives/net1/s-lives", at["running"] + " running/net1/s-running", at["nowhere"] + " nowhere/net1/s-nowhere",
		at["restarted"] + " restarted/net1/s-restarted2",
	}
	slices.Sort(want)
	r.wantBound(want...)
	for reason, n := range map[string]float64{podGone: 1, podReplaced: 1, podFinished: 1} {
		if got := r.value(MetricReleased, reason); got != n {
			t.Errorf("%s: %v freed", reason, got)
		}
	}
	for reason, n := range map[string]float64{doubtNetNSExists: 1, doubtNetNSUnknown: 1, doubtNoPodUID: 0} {
		if got := r.value(MetricInDoubt, reason); got != n {
			t.Errorf("%s: %v in doubt", reason, got)
		}
	}
	apitest.Eventually(t, "events on the leases", func() error {
		list, err := r.kube.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		seen := map[string]string{}
		for _, e := range list.Items {
			seen[e.Regarding.Name] = e.Reason
		}
		for name, reason := range map[string]string{"gone": podGone, "running": doubtNetNSExists, "nowhere": doubtNetNSUnknown} {
			if got := seen[r.name+"."+at[name]]; got != reason {
				return fmt.Errorf("%s: event %q", name, got)
			}
		}
		return nil
	})

	// The sandbox of one ends too.
	if err := os.Remove(filepath.Join(netns, "s-running")); err != nil {
		t.Fatal(err)
	}
	sweep()
	now = now.Add(apart)
	sweep()
	if slices.ContainsFunc(r.bound(), func(s string) bool { return strings.Contains(s, "running") }) {
		t.Error("still bound")
	}
}

// A pod that the watch does not show, but the API does, is alive.
func TestSweepLooksLive(t *testing.T) {
	r := newJournalRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	r.netNS = t.TempDir()
	p := r.pod("web", "berth.dev/ippool=$a")
	at := r.add(p, "s1", "net1")
	if err := r.pods.pods.GetStore().Delete(p); err != nil { // as a watch that lags behind
		t.Fatal(err)
	}
	l := r.store.Bound()[0]
	if err := r.collect(t.Context(), l, l.Spec.Holder); err != nil {
		t.Fatal(err)
	}
	r.wantBound(at + " web/net1/s1")
	// And a newer sandbox's, whatever is known of the older one.
	r.add(p, "s2", "net1")
	if err := r.collect(t.Context(), l, l.Spec.Holder); err != nil {
		t.Fatal(err)
	}
	r.wantBound(at + " web/net1/s2")
}

// While an ADD of a pod's newer sandbox is under way, replay does not have the API bind the earlier one: it would take back what the
// newer one gets.
func TestReplayTakesNothingBack(t *testing.T) {
	r := newJournalRig(t, onePool)
	one := r.pod("one", "berth.dev/ippool=$a")
	at := r.add(one, "s1", "net1")
	r.faults.SetAway(true)
	r.add(one, "s2", "net1")
	end := sync.OnceFunc(r.lock.lock(string(one.UID), "net1")) // as the ADD of s3
	defer end()
	r.faults.SetAway(false)
	done := make(chan error, 1)
	go func() { done <- r.replayRebind(t.Context(), r.journal.Interface("s2", "net1").Holder) }()
	select {
	case err := <-done:
		t.Fatalf("not waited for: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	h := r.journal.Interface("s2", "net1").Holder
	h.ContainerID = "s3"
	if _, err := r.journal.Adopt(h, ""); err != nil {
		t.Fatal(err)
	}
	end()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	r.settled()
	addresses := strings.Fields(at)
	r.wantBound(addresses[0]+" one/net1/s3", addresses[1]+" one/net1/s3")
}
