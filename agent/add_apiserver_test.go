//go:build apiserver

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam/store/apitest"
)

const nets = "k8s.v1.cni.cncf.io/networks=vlan910, store"

func TestVerbs(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.7"], gateway: 10.6.0.1}, {cidr: "2001:db8::/64", ips: ["2001:db8::7"]}]}`)
	if info, err := os.Stat(r.socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
	p := r.pod("web", nets, "berth.dev/ippool=$a")
	for range 2 { // ADD again is the same
		if got := r.add(p, "s1", "net1"); got != "10.6.0.7 2001:db8::7" {
			t.Fatal(got)
		}
		r.wantBound("10.6.0.7 web/net1/s1", "2001:db8::7 web/net1/s1")
	}
	if got := fmt.Sprint(r.path.list()); got != "[10.6.0.7 eth0 02:00:00:00:00:01 2001:db8::7 eth0 02:00:00:00:00:01]" {
		t.Errorf("service path: %s", got)
	}
	l, err := r.leases.Get(t.Context(), r.name+".10.6.0.7", metav1.GetOptions{})
	want := v1alpha1.LeaseHolder{Namespace: r.name, Pod: "web", UID: p.UID, Node: r.name, ContainerID: "s1", Interface: "net1",
		Attachment: "vlan910", Parent: "eth0", MAC: "02:00:00:00:00:01", GracePeriodSeconds: 30}
	if err != nil || *l.Spec.Holder != want || l.Spec.Pool != r.name+"-a" {
		t.Errorf("%+v, %v; want the holder %+v", l.Spec, err, want)
	}

	check := func(sandbox, prev string, code uint) {
		t.Helper()
		conf := strings.Replace(macvlan, "{", `{"prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "`+prev+`"}]}, `, 1)
		_, err := r.call(t.Context(), delegate.PathCheck, request(p, sandbox, "net1", conf))
		if code == 0 && err != nil {
			t.Error(err)
		} else if code != 0 {
			checkError(t, nil, err, code, "delete the pod so that it is made anew")
		}
	}
	check("s1", "10.6.0.7/24", 0)
	check("s1", "10.6.0.8/24", delegate.CodeNotBound)
	check("s2", "10.6.0.7/24", delegate.CodeNotBound)
	if _, err := r.call(t.Context(), delegate.PathStatus, &delegate.Request{Config: []byte(macvlan)}); err != nil {
		t.Error(err)
	}

	for range 2 { // DEL again is nothing
		r.del(p, "s1", "net1")
		r.wantBound()
		if got := r.path.list(); len(got) != 0 {
			t.Errorf("service path: %v", got)
		}
	}
	check("s1", "10.6.0.7/24", delegate.CodeNotBound)
	// DEL without a pod, and of a configuration that ADD refuses.
	bad := request(p, "s1", "net1", `{"name": "x"}`)
	bad.Args = ""
	if _, err := r.call(t.Context(), delegate.PathDel, bad); err != nil {
		t.Error(err)
	}
}

// Each bad input has one error, with its code and what to do, and an event on the pod; and nothing is left.
func TestBadInput(t *testing.T) {
	r := newRig(t,
		`a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.7-10.6.0.8"]}]}`,
		`off: {disabled: true, subnets: [{cidr: 10.7.0.0/24}]}`,
		`b: {subnets: [{cidr: 10.8.0.0/24}], nodeAffinity: {matchLabels: {zone: b}}}`,
		`full: {subnets: [{cidr: 10.9.0.0/24, ips: ["10.9.0.1"]}]}`)
	r.add(r.pod("holder", "berth.dev/ippool=$full"), "s0", "eth0")
	in := func(ipam string) string { return strings.Replace(macvlan, `{"type": "berth"}`, ipam, 1) }
	for i, tc := range []struct {
		name        string
		annotations []string
		ifName      string // default net1
		conf        string
		args        string // appended
		code        uint
		reason      string
		want        []string
	}{
		{name: "unknown pool", annotations: []string{"berth.dev/ippool=nowhere"}, code: 100, want: []string{`pool "nowhere" does not exist; correct the name, or create it`}},
		{name: "no pool at all", code: 100, want: []string{"no pool is marked default; name one by the annotation berth.dev/ippool"}},
		{name: "malformed annotation", annotations: []string{`berth.dev/ippool={"ipv4": ["$a"], "ipv5": []}`}, code: 103, want: []string{"pod annotation berth.dev/ippool", "ipv5"}},
		{name: "malformed networks", annotations: []string{"k8s.v1.cni.cncf.io/networks=[{]"}, code: 103, want: []string{"k8s.v1.cni.cncf.io/networks"}},
		{name: "interface that the pod has not", annotations: []string{nets, "berth.dev/ippools=net7=$a"}, code: 103,
			want: []string{"names interface net7, but the pod has eth0, net1, net2; correct it"}},
		{name: "no pool of the family", annotations: []string{`berth.dev/ippool={"ipv6": ["$a"]}`}, code: 100, want: []string{"has no IPv6 addresses"}},
		{name: "disabled", annotations: []string{"berth.dev/ippool=$off"}, code: 100, want: []string{"-off", "is disabled"}},
		{name: "another zone", annotations: []string{"berth.dev/ippool=$b"}, code: 100, want: []string{"does not serve node", "nodeAffinity zone=b"}},
		{name: "exhausted", annotations: []string{"berth.dev/ippool=$full"}, code: 101, want: []string{"has no free address for node", "(IPv4: 1 of 1 in use); add a range or a pool, or free an address"}},
		{name: "all exhausted or worse", annotations: []string{"berth.dev/ippool=$off, $full"}, code: 101, want: []string{"no free address"}},
		{name: "asked for outside", annotations: []string{"berth.dev/ippool=$a"}, args: ";IP=10.6.0.99", code: 103,
			want: []string{"10.6.0.99 asked for, but not given out by pool", "ask for an address inside, or name its pool"}},
		{name: "asked for and taken", annotations: []string{"berth.dev/ippool=$full"}, args: ";IP=10.9.0.1", code: 102,
			want: []string{"address 10.9.0.1 asked for is Bound, held by pod", "/holder on node", "ask for another or free it"}},
		{name: "asked for of another family", annotations: []string{`berth.dev/ippool={"ipv4": ["$a"]}`}, args: ";IP=2001:db8::1", code: 103, want: []string{"2001:db8::1 asked for, but no pool of that family is"}},
		{name: "asked for in vain", annotations: []string{"berth.dev/ippool=$a"}, args: ";IP=x", code: 103, reason: "-", want: []string{`CNI_ARGS: IP=x: "x" is no IP address`}},
		{name: "no ipam section", conf: in("null"), code: 7, reason: "BadNetworkConfiguration", want: []string{`network "vlan910": no ipam section; add "ipam": {"type": "berth"}`}},
		{name: "another ipam", conf: in(`{"type": "whereabouts"}`), code: 7, reason: "BadNetworkConfiguration", want: []string{`ipam type is "whereabouts", want "berth"`}},
		{name: "unknown key", conf: in(`{"type": "berth", "range": "10.0.0.0/24"}`), code: 7, reason: "BadNetworkConfiguration", want: []string{"ipam range: unknown key"}},
		{name: "bad steering", annotations: []string{"berth.dev/ippool=$a", "berth.dev/steering=perhaps"}, code: 103, want: []string{`steering "perhaps" is none of Auto, Always, Never`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := *r
			r.T = t
			p := r.pod(fmt.Sprintf("bad-%d", i), append(tc.annotations, "x=y")...)
			if tc.conf == "" {
				tc.conf = macvlan
			}
			req := request(p, fmt.Sprint("s-", i), "net1", tc.conf)
			req.Args += tc.args
			r.refused(req, tc.code, tc.want...)
			r.wantBound("10.9.0.1 holder/eth0/s0")
			if tc.reason != "-" {
				if tc.reason == "" {
					tc.reason = "AddressNotAssigned"
				}
				r.event(p.Name, tc.reason, tc.want...)
			}
		})
	}

	p := r.pod("there", "berth.dev/ippool=$a")
	gone := request(p, "s", "net1", macvlan)
	gone.Args = strings.Replace(gone.Args, "=there", "=away", 1)
	r.refused(gone, 103, "pod "+r.name+"/away does not exist")
	old := request(p, "s", "net1", macvlan)
	old.Args = strings.Replace(old.Args, string(p.UID), "4711", 1)
	r.refused(old, 103, "has UID", "not 4711", "an earlier pod of that name")
	r.refused(&delegate.Request{ContainerID: "s", IfName: "net1", Config: []byte(macvlan)}, 103, "CNI_ARGS name no pod")
	r.refused(&delegate.Request{Config: []byte("[]")}, 7)

	// The API server away, or worse; then it is back.
	for _, fault := range []apitest.Fault{apitest.Cut, apitest.Broken} {
		r.faults.Set("POST", fault)
		r.refused(request(p, "s1", "net1", macvlan), 11, "the Kubernetes API is not available")
		r.event("there", "AddressNotAssigned", "the Kubernetes API is not available")
	}
	r.faults.Set("POST", apitest.Panic)
	r.refused(request(p, "s1", "net1", macvlan), 999, "panic in berth-agent")
	r.faults.Set("POST", apitest.None)
	r.add(p, "s1", "net1")
	r.del(p, "s1", "net1")
	r.wantBound("10.9.0.1 holder/eth0/s0")
}

// A verb before the agent knows anything.
func TestNotReady(t *testing.T) {
	r := newRig(t)
	r.stop()
	a, err := newAgent(Config{NodeName: r.name, Socket: r.socket}, r.cfg, newFakePath(), r.log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- a.serve(ctx) }()
	apitest.Eventually(t, "the socket", func() error { _, err := os.Stat(r.socket); return err })
	p := r.pod("web")
	for verb, code := range map[string]uint{delegate.PathStatus: 50, delegate.PathAdd: 11, delegate.PathDel: 11, delegate.PathCheck: 11, delegate.PathGC: 11} {
		_, err := r.call(ctx, verb, request(p, "s", "net1", macvlan))
		checkError(t, nil, err, code, "has not yet read the pools and leases from the Kubernetes API; try again in a moment")
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// Options are all or nothing, in order.
func TestFallback(t *testing.T) {
	r := newRig(t,
		`a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.5"]}, {cidr: "2001:db8::/64", ips: ["2001:db8::1"]}]}`,
		`b: {subnets: [{cidr: 10.7.0.0/24, ips: ["10.7.0.1"]}, {cidr: "2001:db8:7::/64", ips: ["2001:db8:7::1"]}]}`)
	one := r.add(r.pod("one", "berth.dev/ippool=$a, $b"), "s1", "net1")
	if !strings.HasPrefix(one, "10.6.0.") || !strings.HasSuffix(one, " 2001:db8::1") {
		t.Fatal(one)
	}
	two := r.pod("two", "berth.dev/ippool=$a, $b, nowhere")
	if got := r.add(two, "s2", "net1"); got != "10.7.0.1 2001:db8:7::1" {
		t.Fatal(got)
	}
	r.event("two", "PoolNotFound", `pool "nowhere" does not exist`, "the others of pod annotation berth.dev/ippool are used")
	if got := r.bound(); len(got) != 4 { // nothing of pool a for pod two
		t.Errorf("bound: %v", got)
	}
	r.refused(request(r.pod("three", "berth.dev/ippool=$a, $b"), "s3", "net1", macvlan), 101, "-a\" has no free address", "IPv6: 1 of 1", "-b\" has no free address")
	if got := r.bound(); len(got) != 4 {
		t.Errorf("bound: %v", got)
	}
	r.del(two, "s2", "net1")
	if got := r.add(r.pod("four", "berth.dev/ippool=$a, $b"), "s4", "net1"); got != "10.7.0.1 2001:db8:7::1" {
		t.Fatal(got)
	}
}

// The second interface of a pod never gets an address. The kubelet tries again and again, with a sandbox made anew each time, and
// at its worst without a DEL. The pool of the first interface must not notice.
func TestRetriesDrainNoPool(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.3"]}]}`, `full: {subnets: [{cidr: 10.9.0.0/24, ips: ["10.9.0.1"]}]}`)
	r.add(r.pod("holder", "berth.dev/ippool=$full"), "s0", "eth0")
	p := r.pod("web", nets, "berth.dev/ippools=net1=$a; net2=$full")
	first := ""
	for i := range 8 {
		sandbox := fmt.Sprint("s", i+1)
		got := r.add(p, sandbox, "net1")
		if first == "" {
			first = got
		}
		if got != first {
			t.Errorf("sandbox %s gets %s, the first got %s", sandbox, got, first)
		}
		r.refused(request(p, sandbox, "net2", macvlan), 101)
		r.wantBound(first+" web/net1/"+sandbox, "10.9.0.1 holder/eth0/s0")
		if i%2 == 1 {
			r.del(p, sandbox, "net2")
			r.del(p, sandbox, "net1")
		}
	}
}

// A sandbox is made anew, before or after the DEL of the old, while its pool changes.
func TestSandboxMadeAnew(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.9"]}]}`, `b: {subnets: [{cidr: 10.7.0.0/24}]}`)
	p := r.pod("web", "berth.dev/ippool=$a, $b")
	first := r.add(p, "s1", "net1")
	r.del(p, "s1", "net1")
	if got := r.add(p, "s2", "net1"); got != first { // DEL came first
		t.Errorf("after its DEL the pod gets %s, had %s", got, first)
	}
	if got := r.add(p, "s3", "net1"); got != first {
		t.Errorf("without a DEL the pod gets %s, had %s", got, first)
	}
	r.del(p, "s2", "net1") // late
	r.wantBound(first + " web/net1/s3")

	// The pool is edited so that the address is not in it, then disabled, then serves another zone.
	for i, edit := range []func(*v1alpha1.IPPoolSpec){
		func(s *v1alpha1.IPPoolSpec) { s.Subnets[0].IPs = []string{"10.6.0.100"} },
		func(s *v1alpha1.IPPoolSpec) { s.Disabled = true },
		func(s *v1alpha1.IPPoolSpec) {
			s.Disabled = false
			s.NodeAffinity = &metav1.LabelSelector{MatchLabels: map[string]string{"zone": "b"}}
		},
	} {
		r.edit("a", edit)
		if got := r.add(p, fmt.Sprint("t", i), "net1"); got != first {
			t.Errorf("edit %d: the pod gets %s, had %s", i, got, first)
		}
		other := r.add(r.pod(fmt.Sprint("other-", i), "berth.dev/ippool=$a, $b"), fmt.Sprint("o", i), "net1")
		if i == 0 && other != "10.6.0.100" || i > 0 && !strings.HasPrefix(other, "10.7.0.") {
			t.Errorf("edit %d: another pod gets %s", i, other)
		}
	}
	// Once it is given up it is gone.
	r.del(p, "t2", "net1")
	if got := r.add(p, "t3", "net1"); !strings.HasPrefix(got, "10.7.0.") {
		t.Errorf("after a DEL the pool that serves it no more gives %s", got)
	}
	// The annotation names another pool by now: the old address is given back, and leaves the service path.
	r.edit("a", func(s *v1alpha1.IPPoolSpec) { s.NodeAffinity.MatchLabels = map[string]string{"rig": r.name} })
	p.Annotations["berth.dev/ippool"] = r.name + "-a"
	if _, err := r.kube.CoreV1().Pods(r.name).Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the annotation is seen", func() error {
		got, err := r.pods.pod(t.Context(), delegate.Args{Namespace: r.name, Pod: "web", UID: string(p.UID)})
		if err != nil || got.Annotations["berth.dev/ippool"] != r.name+"-a" {
			return errors.Join(errors.New("not yet"), err)
		}
		return nil
	})
	r.edit("a", func(s *v1alpha1.IPPoolSpec) { s.Subnets[0].IPs = []string{"10.6.0.200"} })
	if got := r.add(p, "t4", "net1"); got != "10.6.0.200" {
		t.Errorf("%s of the pool named now", got)
	}
	for _, b := range append(r.bound(), r.path.list()...) {
		if strings.Contains(b, "web/net1/t3") {
			t.Errorf("left: %s", b)
		}
	}
	if got := r.path.list(); len(got) != 4 { // web and the three others
		t.Errorf("service path: %v", got)
	}
}

// The service path fails: fatal only if the interface is to be steered.
func TestServicePathFails(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24}]}`)
	r.path.setOnAttach(func() error { return errors.New("no vmac today") })
	p := r.pod("steered", "berth.dev/ippool=$a", "berth.dev/steering=always")
	r.refused(request(p, "s1", "net1", macvlan), types.ErrInternal, "service path: no vmac today")
	r.wantBound()
	p = r.pod("plain", "berth.dev/ippool=$a")
	r.add(p, "s2", "net1")
	r.event("plain", "ServicePathFailed", "interface net1 is not reachable from its own node: no vmac today")

	r.path.setOnAttach(func() error { panic("vmac on fire") })
	r.refused(request(r.pod("hot", "berth.dev/ippool=$a"), "s3", "net1", macvlan), types.ErrInternal, "panic in berth-agent: vmac on fire")
	r.path.setOnAttach(nil)
	r.del(p, "s2", "net1")
	r.del(r.pod("hot2"), "s3", "net1") // what the kubelet does after a failed ADD
	r.wantBound()
	if len(r.lock.held) != 0 {
		t.Errorf("locks: %v", r.lock.held)
	}
}

// The plugin is killed while its ADD is on the way: nobody hears the answer, and nothing leaks.
func TestCallerGone(t *testing.T) {
	r := newRig(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1"]}, {cidr: "2001:db8::/64"}]}`)
	reached, goOn := make(chan struct{}), make(chan struct{})
	r.path.setOnAttach(func() error { close(reached); <-goOn; return nil })
	ctx, kill := context.WithCancel(t.Context())
	go func() {
		<-reached
		kill()
	}()
	p := r.pod("web", "berth.dev/ippool=$a")
	if _, err := r.call(ctx, delegate.PathAdd, request(p, "s1", "net1", macvlan)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if got := r.bound(); len(got) != 2 {
		t.Fatalf("bound on the way: %v", got)
	}
	// The agent notices by its connection; a DEL meanwhile waits for the ADD.
	deleted := make(chan error)
	go func() {
		_, err := r.call(t.Context(), delegate.PathDel, request(p, "s1", "net1", macvlan))
		deleted <- err
	}()
	close(goOn)
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	r.wantBound()
	r.event("web", "AddressNotAssigned", "the plugin went away before its answer")
	if got := r.path.list(); len(got) != 0 {
		t.Errorf("service path: %v", got)
	}
	r.path.setOnAttach(nil)
	r.add(r.pod("next", "berth.dev/ippool=$a"), "s2", "net1")
}

func TestBurst(t *testing.T) {
	const n = 60
	r := newRig(t, fmt.Sprintf(`a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.1-10.6.0.%d"]}]}`, n))
	var wg sync.WaitGroup
	for i := range n {
		p := r.pod(fmt.Sprint("pod-", i), "berth.dev/ippool=$a")
		wg.Go(func() {
			if _, err := r.call(t.Context(), delegate.PathAdd, request(p, fmt.Sprint("s", i), "net1", macvlan)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, b := range r.bound() {
		_, who, _ := strings.Cut(b, " ")
		seen[who] = true
	}
	if len(seen) != n || len(r.path.list()) != n {
		t.Errorf("%d pods have an address, %d are on the service path; want %d", len(seen), len(r.path.list()), n)
	}
}
