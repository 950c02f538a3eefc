//go:build apiserver

package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/tests/plugins"
)

// The tests here run the real plugin berth against an agent on a real API server, and the real host-local and static, or a fake that
// fails in all the ways that a plugin can.

// delegating is a rig whose verbs go through the plugin.
type delegating struct {
	*rig
	bin   string // CNI_PATH
	state string // of the fake plugin
}

// newDelegating rig; in pools, %s is the state of the fake plugin or the data directory of host-local.
func newDelegating(t *testing.T, pools ...string) *delegating {
	d := &delegating{bin: plugins.Build(t, "berth", "host-local", "static"), state: t.TempDir()}
	for i := range pools {
		pools[i] = strings.ReplaceAll(pools[i], "%s", d.state)
	}
	d.rig = newRig(t, pools...)
	d.bin += string(filepath.ListSeparator) + plugins.Fake(t)
	return d
}

// cni runs the plugin. more is put into the network configuration.
func (d *delegating) cni(command string, p *corev1.Pod, sandbox, more string) (*types100.Result, error) {
	d.Helper()
	berth, _, _ := strings.Cut(d.bin, string(filepath.ListSeparator))
	cmd := exec.Command(filepath.Join(berth, "berth"))
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_PATH=" + d.bin, plugins.FakeEnv}
	if p != nil {
		cmd.Env = append(cmd.Env, "CNI_CONTAINERID="+sandbox, "CNI_IFNAME=net1", "CNI_NETNS=/no/such/netns",
			"CNI_ARGS="+request(p, sandbox, "net1", "").Args)
	}
	conf := fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "vlan910", "type": "macvlan", "master": "eth0", "ipam": {"type": "berth", "socket": %q}%s}`,
		d.socket, more)
	cmd.Stdin = strings.NewReader(conf)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		e := &delegate.Error{}
		if json.Unmarshal(stdout.Bytes(), e) != nil {
			d.Fatalf("%s: %v\n%s%s", command, err, &stdout, &stderr)
		}
		return nil, e
	}
	if command != "ADD" {
		return nil, nil
	}
	res := &types100.Result{}
	if err := json.Unmarshal(stdout.Bytes(), res); err != nil {
		d.Fatalf("%v: %s", err, &stdout)
	}
	return res, nil
}

// gets checks the addresses of an ADD.
func (d *delegating) gets(p *corev1.Pod, sandbox string, want ...string) *types100.Result {
	d.Helper()
	res, err := d.cni("ADD", p, sandbox, "")
	if err != nil {
		d.Fatal(err)
	}
	var got []string
	for _, ip := range res.IPs {
		got = append(got, ip.Address.String())
	}
	if !slices.Equal(got, want) {
		d.Fatalf("got %v, want %v", got, want)
	}
	return res
}

// does a verb that must succeed.
func (d *delegating) does(command string, p *corev1.Pod, sandbox string) {
	d.Helper()
	if _, err := d.cni(command, p, sandbox, ""); err != nil {
		d.Errorf("%s: %v", command, err)
	}
}

// fails a verb.
func (d *delegating) fails(command string, p *corev1.Pod, sandbox string, code uint, messages ...string) {
	d.Helper()
	res, err := d.cni(command, p, sandbox, "")
	checkError(d, res, err, code, messages...)
}

// calls of the fake plugin since the last time.
func (d *delegating) calls(want ...string) {
	d.Helper()
	got, _ := plugins.Calls(d, d.state)
	if !slices.Equal(got, want) {
		d.Errorf("calls\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	os.Remove(filepath.Join(d.state, "log"))
}

// holds checks what the fake plugin has given, and that a note speaks of it.
func (d *delegating) holds(want ...string) {
	d.Helper()
	if _, got := plugins.Calls(d, d.state); !slices.Equal(got, want) {
		d.Errorf("the delegate has given %v, want %v", got, want)
	}
}

func (d *delegating) noNotes() {
	d.Helper()
	if all, err := d.notes.all(); err != nil || len(all) > 0 {
		d.Errorf("notes %+v, %v", all, err)
	}
}

const fakePool = `{delegate: {type: fake, config: {state: %s, result: {cniVersion: "1.0.0",
	ips: [{address: 192.0.2.7/24, gateway: 192.0.2.1}], routes: [{dst: 0.0.0.0/0}, {dst: 198.51.100.0/24, gw: 192.0.2.9}],
	dns: {nameservers: [192.0.2.53]}}}}}`

// fakeWith a mode: "ADD: fail".
func fakeWith(mode string) string {
	return strings.Replace(fakePool, "result:", "mode: {"+mode+"}, result:", 1)
}

// The life of an interface with an address of host-local.
func TestHostLocal(t *testing.T) {
	d := newDelegating(t, `office: {delegate: {type: host-local, config: {dataDir: %s, ranges: [[{subnet: 192.0.2.0/24, rangeStart: 192.0.2.8}],
		[{subnet: "2001:db8::/64", rangeStart: "2001:db8::8"}]], routes: [{dst: 198.51.100.0/24}]}}}`)
	p := d.pod("web", nets, "berth.dev/ippool=$office")
	res := d.gets(p, "s1", "192.0.2.8/24", "2001:db8::8/64")
	if len(res.Routes) != 1 || res.Routes[0].Dst.String() != "198.51.100.0/24" || !res.Routes[0].GW.Equal(net.IPv4(192, 0, 2, 1)) {
		t.Errorf("routes %v", res.Routes)
	}
	d.wantBound("192.0.2.8 web/net1/s1", "2001:db8::8 web/net1/s1")
	l, err := d.leases.Get(t.Context(), d.name+".192.0.2.8", metav1.GetOptions{})
	if err != nil || l.Spec.Pool != d.name+"-office" {
		t.Errorf("%+v, %v", l.Spec, err)
	}
	d.does("CHECK", p, "s1")

	// An ADD tried again: host-local refuses a second one, so the first is given back.
	d.gets(p, "s1", "192.0.2.9/24", "2001:db8::9/64")
	d.wantBound("192.0.2.9 web/net1/s1", "2001:db8::9 web/net1/s1")

	// A new sandbox of the pod; the late DEL of the old one frees what that one has.
	d.gets(p, "s2", "192.0.2.10/24", "2001:db8::a/64")
	d.does("DEL", p, "s1")
	d.wantBound("192.0.2.10 web/net1/s2", "2001:db8::a web/net1/s2")

	d.stop()
	d.start() // finds it all again
	d.does("CHECK", p, "s2")
	d.deletePod("web")
	for range 2 {
		d.does("DEL", p, "s2")
		d.wantBound()
	}
	d.fails("CHECK", p, "s2", delegate.CodeNotBound)
	files, err := filepath.Glob(filepath.Join(d.state, "vlan910", "[12]*.*"))
	if err != nil || len(files) > 0 {
		t.Errorf("host-local keeps %v, %v", files, err)
	}
	d.noNotes()
}

// static gives an address to the pod, whichever its sandbox, and to no other pod as long as that has it.
func TestStatic(t *testing.T) {
	d := newDelegating(t, `office: {delegate: {type: static, config: {addresses: [{address: 192.0.2.7/24, gateway: 192.0.2.1}]}}}`)
	p, other := d.pod("web", "berth.dev/ippool=$office"), d.pod("other", "berth.dev/ippool=$office")
	d.gets(p, "s1", "192.0.2.7/24")
	d.fails("ADD", other, "s3", delegate.CodeAddressTaken, `pool "`+d.name+`-office": IPAM plugin static gave an address that cannot be recorded`, "held by pod "+d.name+"/web")
	d.gets(p, "s2", "192.0.2.7/24")
	d.does("DEL", p, "s1")
	d.wantBound("192.0.2.7 web/net1/s2")
	d.does("DEL", p, "s2")
	d.gets(other, "s4", "192.0.2.7/24")
}

// What a delegate gives beside addresses, as second interface and as the pod's default network.
func TestDelegateResult(t *testing.T) {
	d := newDelegating(t, "office: "+fakePool)
	res := d.gets(d.pod("second", nets, "berth.dev/ippool=$office"), "s1", "192.0.2.7/24")
	if len(res.Routes) != 1 || res.Routes[0].Dst.String() != "198.51.100.0/24" || len(res.DNS.Nameservers) != 1 {
		t.Errorf("%+v: want no default route but the pod's", res)
	}
	d.calls("ADD s1 net1")
	d.holds("s1@net1")
}

// From pool to pool: a delegate is asked only if the pools before it are full, and those behind it if it fails.
func TestDelegateFallback(t *testing.T) {
	d := newDelegating(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.7"]}]}`, "office: "+fakePool, "broken: "+fakeWith("ADD: fail"),
		`b: {subnets: [{cidr: 10.6.1.0/24, ips: ["10.6.1.7"]}]}`)
	d.gets(d.pod("one", "berth.dev/ippool=$a,$office"), "s1", "10.6.0.7/24")
	two := d.pod("two", "berth.dev/ippool=$a,$office")
	d.gets(two, "s2", "192.0.2.7/24")
	d.calls("ADD s2 net1")
	three := d.pod("three", "berth.dev/ippool=$broken,$b")
	d.gets(three, "s3", "10.6.1.7/24")
	d.calls("ADD s3 net1", "DEL s3 net1")
	d.does("DEL", three, "s3") // the note is still there
	d.calls("DEL s3 net1")

	// The delegate's address is another's: it goes back, and the next pool serves.
	d.gets(d.pod("four", "berth.dev/ippool=$office,$b"), "s4", "10.6.1.7/24")
	d.calls("ADD s4 net1", "DEL s4 net1")
	d.holds("s2@net1")
	d.wantBound("10.6.0.7 one/net1/s1", "10.6.1.7 four/net1/s4", "192.0.2.7 two/net1/s2")

	// All fail.
	five := d.pod("five", "berth.dev/ippool=$a,$broken,$b")
	d.fails("ADD", five, "s5", delegate.CodeExhausted, "-a\" has no free address", "IPAM plugin fake: ADD fails", "-b\" has no free address")
	d.calls("ADD s5 net1", "DEL s5 net1")
	d.event("five", "AddressNotAssigned", "IPAM plugin fake: ADD fails")
}

// Families by different pools, in one interface: all or none.
func TestDelegateAndOwnPool(t *testing.T) {
	d := newDelegating(t, `six: {subnets: [{cidr: "2001:db8::/64", ips: ["2001:db8::7"]}]}`, "office: "+fakePool)
	p := d.pod("web", `ipam.spidernet.io/ippool={"ipv4":["$office"],"ipv6":["$six"]}`)
	d.gets(p, "s1", "192.0.2.7/24", "2001:db8::7/64")
	d.wantBound("192.0.2.7 web/net1/s1", "2001:db8::7 web/net1/s1")
	d.does("DEL", p, "s1")
	d.wantBound()
	d.calls("ADD s1 net1", "DEL s1 net1")

	wrong := d.pod("wrong", `ipam.spidernet.io/ippool={"ipv6":["$office"]}`)
	d.fails("ADD", wrong, "s2", delegate.CodeDelegate, "it gave no IPv6 address, only 192.0.2.7")
	d.gets(d.pod("taker", "berth.dev/ippool=$six"), "s3", "2001:db8::7/64")
	full := d.pod("full", `ipam.spidernet.io/ippool={"ipv4":["$office"],"ipv6":["$six"]}`)
	d.fails("ADD", full, "s4", delegate.CodeExhausted)
	d.wantBound("2001:db8::7 taker/net1/s3")
	d.holds()
}

func TestAskedOfDelegate(t *testing.T) {
	d := newDelegating(t, "office: "+fakePool)
	ask := func(name, ip string) *corev1.Pod {
		return d.pod(name, fmt.Sprintf(`k8s.v1.cni.cncf.io/networks=[{"name":"vlan910","interface":"net1","ips":["%s/24"]}]`, ip), "berth.dev/ippool=$office")
	}
	d.gets(ask("right", "192.0.2.7"), "s1", "192.0.2.7/24")
	d.fails("ADD", ask("wrong", "192.0.2.8"), "s2", delegate.CodeDelegate, "it gave 192.0.2.7, not 192.0.2.8, which was asked for")
	d.holds("s1@net1")
}

// A plugin fails in many ways, and none leaves anything behind once the DEL has come that a failed ADD is followed by.
func TestDelegateFails(t *testing.T) {
	for _, tc := range []struct {
		mode string
		code uint
		want string
	}{
		{"ADD: fail", delegate.CodeDelegate, "IPAM plugin fake: ADD fails of fake"},
		{"ADD: garbage", delegate.CodeDelegate, "it printed something that is no JSON object <html>"},
		{"ADD: die", delegate.CodeDelegate, "exit status 3, without a CNI error"},
		{"ADD: flood", 11, "it printed too much and was killed"},
	} {
		t.Run(tc.mode, func(t *testing.T) {
			d := newDelegating(t, "office: "+fakeWith(tc.mode))
			p := d.pod("web", "berth.dev/ippool=$office")
			d.fails("ADD", p, "s1", tc.code, tc.want)
			d.calls("ADD s1 net1", "DEL s1 net1")
			d.holds()
			d.wantBound()
			d.does("DEL", p, "s1")
			d.noNotes()
		})
	}
	t.Run("no such plugin", func(t *testing.T) {
		d := newDelegating(t, `office: {delegate: {type: nonesuch}}`, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.7"]}]}`)
		p, q := d.pod("web", "berth.dev/ippool=$office"), d.pod("other", "berth.dev/ippool=$office,$a")
		d.fails("ADD", p, "s1", delegate.CodeDelegate, "there is no plugin nonesuch in CNI_PATH")
		d.gets(q, "s2", "10.6.0.7/24")
		d.does("DEL", p, "s1") // else the pods would never go away
		d.does("DEL", q, "s2")
		d.noNotes()
		d.wantBound()
	})
	t.Run("no such plugin any more", func(t *testing.T) {
		d := newDelegating(t, "office: "+fakePool)
		p := d.pod("web", "berth.dev/ippool=$office")
		d.gets(p, "s1", "192.0.2.7/24")
		all := d.bin
		d.bin, _, _ = strings.Cut(all, string(filepath.ListSeparator))
		d.fails("DEL", p, "s1", delegate.CodeDelegate, "there is no plugin fake in CNI_PATH")
		d.wantBound("192.0.2.7 web/net1/s1")
		d.bin = all
		d.does("DEL", p, "s1")
		d.noNotes()
	})
}

// The API server fails when the address is to be recorded: the delegate takes it back.
func TestDelegatedNotRecorded(t *testing.T) {
	d := newDelegating(t, "office: "+fakePool)
	p := d.pod("web", "berth.dev/ippool=$office")
	for sandbox, f := range map[string]apitest.Fault{"s1": apitest.Cut, "s2": apitest.Broken} {
		d.faults.Set("POST", f)
		d.fails("ADD", p, sandbox, 11, "is not available")
		d.calls("ADD "+sandbox+" net1", "DEL "+sandbox+" net1")
		d.holds()
	}
	d.faults.Set("POST", apitest.Lost) // it was recorded, as only the API server knows
	d.fails("ADD", p, "s3", 11)
	d.faults.Set("POST", apitest.None)
	d.holds()
	d.gets(p, "s4", "192.0.2.7/24")
	d.wantBound("192.0.2.7 web/net1/s4")
}

// The service path fails, which the pod's default network cannot do without: nothing stays.
func TestDelegatedWithoutPath(t *testing.T) {
	d := newDelegating(t, "office: "+strings.Replace(fakePool, "{delegate", "{steering: Always, delegate", 1))
	d.path.setOnAttach(func() error { return errors.New("no vmac today") })
	p := d.pod("web", "berth.dev/ippool=$office")
	req := request(p, "s1", "net1", macvlan)
	if _, err := d.call(t.Context(), delegate.PathAdd, req); err == nil {
		t.Fatal("want an instruction")
	}
	req.Ran = []delegate.Ran{{Run: delegate.Run{Pool: d.name + "-office", Type: "fake", Command: "ADD"},
		Result: json.RawMessage(`{"cniVersion":"1.0.0","ips":[{"address":"192.0.2.7/24"}]}`)}}
	_, err := d.call(t.Context(), delegate.PathAdd, req)
	checkError(t, nil, err, 999, "no vmac today")
	d.wantBound()
	d.path.setOnAttach(nil)
	res, err := d.call(t.Context(), delegate.PathAdd, req)
	if err != nil || len(d.path.list()) != 1 {
		t.Errorf("%v, %v; on the path: %v", res, err, d.path.list())
	}
}

// The plugin is killed between the delegate's ADD and its record; then the agent is restarted. DEL finds what was given.
func TestPluginKilled(t *testing.T) {
	d := newDelegating(t, "office: "+fakePool)
	p := d.pod("web", "berth.dev/ippool=$office")
	if _, err := d.call(t.Context(), delegate.PathAdd, request(p, "s1", "net1", macvlan)); err == nil {
		t.Fatal("want an instruction")
	}
	if err := os.WriteFile(filepath.Join(d.state, "s1@net1"), nil, 0o600); err != nil { // what the delegate did
		t.Fatal(err)
	}
	d.stop()
	d.start()
	d.does("DEL", p, "s1")
	d.calls("DEL s1 net1")
	d.holds()
	d.noNotes()
	d.does("DEL", p, "s1")
}

// A DEL that the delegate fails is the runtime's to try again; the address stays recorded until then.
func TestDelegateKeeps(t *testing.T) {
	d := newDelegating(t, "office: "+fakeWith("DEL: fail"), `a: {subnets: [{cidr: "2001:db8::/64", ips: ["2001:db8::7"]}]}`)
	p := d.pod("web", `ipam.spidernet.io/ippool={"ipv4":["$office"],"ipv6":["$a"]}`)
	d.gets(p, "s1", "192.0.2.7/24", "2001:db8::7/64")
	d.deletePod("web")
	d.fails("DEL", p, "s1", delegate.CodeDelegate, "IPAM plugin fake: DEL fails")
	d.wantBound("192.0.2.7 web/net1/s1") // Berth's own is free
	if all, err := d.notes.all(); err != nil || len(all) != 1 {
		t.Errorf("notes %+v, %v", all, err)
	}

	// The controller frees the lease of a pod that is gone; the delegate still has to take its address back.
	if err := d.leases.Delete(t.Context(), d.name+".192.0.2.7", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	d.fails("DEL", p, "s1", delegate.CodeDelegate, "IPAM plugin fake: DEL fails")
	d.calls("ADD s1 net1", "DEL s1 net1", "DEL s1 net1")
}

func TestDelegateCheck(t *testing.T) {
	d := newDelegating(t, "office: "+fakePool, "old: "+strings.ReplaceAll(fakeWith("CHECK: fail"), "192.0.2.7", "192.0.2.8"))
	p := d.pod("web", "berth.dev/ippool=$office")
	d.gets(p, "s1", "192.0.2.7/24")
	d.does("CHECK", p, "s1")
	os.Remove(filepath.Join(d.state, "s1@net1"))
	d.fails("CHECK", p, "s1", delegate.CodeDelegate, "s1@net1: no such file")
	other := d.pod("other", "berth.dev/ippool=$old")
	d.gets(other, "s2", "192.0.2.8/24")
	d.fails("CHECK", other, "s2", delegate.CodeDelegate, "CHECK fails")
}

// STATUS: the network cannot serve if all its pools are delegates' that cannot; a pool of Berth's own can, be it full.
func TestDelegateStatus(t *testing.T) {
	d := newDelegating(t, `a: {subnets: [{cidr: 10.6.0.0/24, ips: ["10.6.0.7"]}]}`, "office: "+fakePool, "ill: "+fakeWith("STATUS: fail"))
	d.gets(d.pod("one", "berth.dev/ippool=$a"), "s1", "10.6.0.7/24")
	for pools, ill := range map[string]bool{"a": false, "office": false, "ill": true, "ill,office": false, "ill,a": false} {
		conf := strings.Replace(macvlan, `"berth"`, fmt.Sprintf(`"berth", "socket": %q, "ippools": %q`, d.socket, d.name+"-"+strings.ReplaceAll(pools, ",", ","+d.name+"-")), 1)
		berth, _, _ := strings.Cut(d.bin, ":")
		cmd := exec.Command(filepath.Join(berth, "berth"))
		cmd.Env, cmd.Stdin = []string{"CNI_COMMAND=STATUS", "CNI_PATH=" + d.bin, plugins.FakeEnv}, strings.NewReader(conf)
		out, err := cmd.Output()
		if ill != (err != nil) || ill && !(strings.Contains(string(out), `"code":50`) && strings.Contains(string(out), "STATUS fails")) {
			t.Errorf("%s: %v, %s", pools, err, out)
		}
	}
}

// GC has delegates take back what dead interfaces have, one by one, and forwards what is alive by Berth's own judgement.
func TestDelegateGC(t *testing.T) {
	d := newDelegating(t, "office: "+fakePool, "later: "+strings.ReplaceAll(fakePool, "192.0.2.7", "192.0.2.8"))
	live, dead, killed := d.pod("live", "berth.dev/ippool=$office"), d.pod("dead", "berth.dev/ippool=$later"), d.pod("killed", "berth.dev/ippool=$later")
	d.gets(live, "s1", "192.0.2.7/24")
	d.gets(dead, "s2", "192.0.2.8/24")
	if _, err := d.call(t.Context(), delegate.PathAdd, request(killed, "s3", "net1", macvlan)); err == nil {
		t.Fatal("want an instruction")
	}
	gc := func(want ...string) {
		t.Helper()
		if _, err := d.cni("GC", nil, "", `, "cni.dev/valid-attachments": []`); err != nil {
			t.Error(err)
		}
		d.calls(want...)
		d.suspect.mu.Lock() // as if the observations were long apart
		defer d.suspect.mu.Unlock()
		for name, s := range d.suspect.since {
			s.since = s.since.Add(-2 * apart)
			d.suspect.since[name] = s
		}
	}
	all := `[{"containerID":"s1","ifname":"net1"},{"containerID":"s2","ifname":"net1"},{"containerID":"s3","ifname":"net1"}]`
	os.Remove(filepath.Join(d.state, "log"))
	gc("GC   "+all, "GC   "+all)
	d.deletePod("dead")
	d.deletePod("killed")
	gc("DEL s2 net1", "DEL s3 net1", `GC   [{"containerID":"s1","ifname":"net1"}]`, `GC   [{"containerID":"s1","ifname":"net1"}]`)
	d.holds("s1@net1")
	d.wantBound("192.0.2.7 live/net1/s1")
	if all, err := d.notes.all(); err != nil || len(all) != 1 {
		t.Errorf("notes %+v, %v", all, err)
	}
}

// A pool gone by force leaves its note, by which DEL still finds the plugin.
func TestDelegatePoolGone(t *testing.T) {
	d := newDelegating(t, "office: "+fakePool)
	p := d.pod("web", "berth.dev/ippool=$office")
	d.gets(p, "s1", "192.0.2.7/24")
	if err := d.ippools.Delete(t.Context(), d.name+"-office", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the pool is gone", func() error {
		if d.pools.named(d.name+"-office") != nil {
			return errors.New("not yet")
		}
		return nil
	})
	d.does("DEL", p, "s1")
	d.holds()
	d.wantBound()
}
