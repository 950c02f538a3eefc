package ipam

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/berthdev/berth/api/v1alpha1"
)

var (
	web   = v1alpha1.PoolOwner{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "ns", Name: "web"}
	webRS = v1alpha1.PoolOwner{APIVersion: "apps/v1", Kind: "ReplicaSet", Namespace: "ns", Name: "web-6d4f"}
	other = v1alpha1.PoolOwner{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "ns", Name: "other"}
)

const ofWeb = "owner: {apiVersion: apps/v1beta1, kind: Deployment, namespace: ns, name: web}"

// kindPools: one of each kind, for two netspaces.
func kindPools(t testing.TB) []*Pool {
	const s = "subnets: [{cidr: 10.6.0.0/24}]"
	return []*Pool{
		pool(t, "default", s, "default: true"),
		pool(t, "named", s),
		pool(t, "a", s, "netspace: a"),
		pool(t, "b", s, "netspace: b"),
		pool(t, "web", s, ofWeb),
		pool(t, "web-a", s, ofWeb, "netspace: a"),
	}
}

// Every kind of pool against every kind of pod: which serve it if they are named, which if none is, and why the others do not.
func TestKinds(t *testing.T) {
	pools := kindPools(t)
	for _, tc := range []struct {
		name     string
		owners   []v1alpha1.PoolOwner
		netspace string
		named    string // those that serve it if named
		unnamed  string
		refused  map[string]string
	}{
		{name: "a pod of nothing", named: "default named", unnamed: "default", refused: map[string]string{
			"a":     `is of netspace "a", and pod "ns/web-0" is of none; add namespace "ns" to the netspace, or name the netspace in the pod annotation berth.dev/netspace`,
			"b":     `is of netspace "b"`,
			"web":   `is of Deployment "ns/web" alone, and pod "ns/web-0" is not of it; name another pool`,
			"web-a": `is of Deployment "ns/web" alone`,
		}},
		{name: "a pod of the workload", owners: []v1alpha1.PoolOwner{webRS, web}, named: "default named web", unnamed: "default", refused: map[string]string{
			"a": `is of netspace "a"`, "b": `is of netspace "b"`, "web-a": `is of netspace "a", and pod "ns/web-0" is of none`,
		}},
		{name: "a pod of another workload", owners: []v1alpha1.PoolOwner{other}, named: "default named", unnamed: "default", refused: map[string]string{
			"a": "netspace", "b": "netspace", "web": "alone", "web-a": "alone",
		}},
		{name: "a pod of a netspace", netspace: "a", named: "a", unnamed: "a", refused: map[string]string{
			"default": `is of no netspace, and pod "ns/web-0" is of netspace "a", which is served by its own pools alone; name one of those, or none`,
			"named":   `is of no netspace`,
			"b":       `is of netspace "b", and pod "ns/web-0" is of netspace "a", which is served by its own pools alone; name one of those, or none`,
			"web":     `is of Deployment "ns/web" alone`, "web-a": `is of Deployment "ns/web" alone`,
		}},
		{name: "a pod of the workload, in a netspace", owners: []v1alpha1.PoolOwner{webRS, web}, netspace: "a", named: "a web-a", unnamed: "a",
			refused: map[string]string{"default": "no netspace", "named": "no netspace", "b": `netspace "b"`, "web": "is of no netspace"}},
		{name: "a pod of the workload, in another netspace", owners: []v1alpha1.PoolOwner{web}, netspace: "b", named: "b", unnamed: "b",
			refused: map[string]string{"default": "no netspace", "named": "no netspace", "a": `netspace "a"`, "web": "no netspace", "web-a": `netspace "a"`}},
		{name: "a pod of a netspace without pools", netspace: "c",
			refused: map[string]string{"default": "no netspace", "named": "no netspace", "a": `netspace "a"`, "b": `netspace "b"`, "web": "alone", "web-a": "alone"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			target := nodeA
			target.Owners, target.Netspace = tc.owners, tc.netspace
			var named []string
			for _, p := range pools {
				_, _, err := Plan(pools, []Want{want("", p.Name)}, Asked{}, target)
				if err == nil {
					named = append(named, p.Name)
					continue
				}
				if why := tc.refused[p.Name]; why == "" || !errors.Is(err, ErrNoPool) || !strings.Contains(err.Error(), why) {
					t.Errorf("pool %s: %v; want %q", p.Name, err, why)
				}
			}
			if got := strings.Join(named, " "); got != tc.named {
				t.Errorf("served by %q, want %q", got, tc.named)
			}
			for _, w := range []Want{{}, want("", "*")} { // whatever is asked for, nothing else comes
				plan, _, err := Plan(pools, []Want{w}, Asked{}, target)
				if want := tc.named; err != nil && want != "" {
					t.Errorf("%s: %v", w.of(target), err)
				} else if err == nil {
					for _, o := range plan[0] {
						if !slices.Contains(strings.Fields(want), o.Pool.Name) {
							t.Errorf("%s: %s", w.of(target), o.Pool.Name)
						}
					}
				}
			}
			var unnamed []string
			for _, w := range DefaultWants(pools, target) {
				plan, _, err := Plan(pools, []Want{w}, Asked{}, target)
				if err != nil && tc.unnamed != "" {
					t.Error(err)
				}
				for _, options := range plan {
					for _, o := range options {
						unnamed = append(unnamed, o.Pool.Name)
					}
				}
			}
			if got := strings.Join(unnamed, " "); got != tc.unnamed {
				t.Errorf("unnamed %q, want %q", got, tc.unnamed)
			}
		})
	}
}

// What a pod of a netspace that names no pool is told.
func TestKindsUnnamed(t *testing.T) {
	target := nodeA
	target.Netspace = "a"
	check := func(pools []*Pool, want string) {
		t.Helper()
		_, _, err := Plan(pools, DefaultWants(pools, target), Asked{}, target)
		if !errors.Is(err, ErrNoPool) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	check(testPools(t), `no pool of the pools of netspace "a" serves this interface on node "n1": netspace "a" has no pool for it; see the netspace's condition Ready`)
	target.NetspaceDeleting = true
	check(kindPools(t), `pool "a" is of netspace "a", which is being deleted and gives nothing new; move the pod to another namespace`)
}

func TestVLANs(t *testing.T) {
	pools := []*Pool{
		pool(t, "any", "subnets: [{cidr: 10.6.0.0/24}]"),
		pool(t, "910", "subnets: [{cidr: 10.7.0.0/24}]", "vlan: 910"),
		pool(t, "911", "subnets: [{cidr: 10.8.0.0/24}]", "vlan: 911"),
	}
	for _, tc := range []struct {
		parent Parent
		want   string
		why    string // of pool 911
	}{
		{Parent{Name: "bond0.910", VLAN: 910}, "910(4), any(4)", `pool "911" is of VLAN 911, and the interface's parent bond0.910 is on VLAN 910; name a pool of VLAN 910, or a network whose master is on VLAN 911`},
		{Parent{Name: "bond0.911", VLAN: 911}, "911(4), any(4)", ""},
		{Parent{Name: "eth0", Why: "the parent eth0 is none; remedy"}, "any(4)", `pool "911" is of VLAN 911, and the parent eth0 is none; remedy`},
	} {
		target := nodeA
		target.Parent = tc.parent
		plan, _, err := Plan(pools, []Want{want("", "910", "911", "any")}, Asked{}, target)
		if got := text(plan); err != nil || got != tc.want {
			t.Errorf("%+v: %s, %v; want %s", tc.parent, got, err, tc.want)
		}
		if _, _, err = Plan(pools, []Want{want("", "911")}, Asked{}, target); tc.why == "" && err != nil || tc.why != "" && !strings.Contains(fmt.Sprint(err), tc.why) {
			t.Errorf("%+v: %v, want %q", tc.parent, err, tc.why)
		}
	}
}

// What an interface holds it keeps, though the pool would refuse it today; but nothing new comes from there.
func TestKindsHeld(t *testing.T) {
	pools := append(kindPools(t), pool(t, "910", "subnets: [{cidr: 10.7.0.0/24}]", "vlan: 910"))
	for _, held := range []string{"default", "b", "web", "910"} {
		target := holding(nodeA, "10.6.0.9", held)
		target.Netspace = "a"
		for _, w := range []Want{want("", held, "a"), {}} {
			plan, _, err := Plan(pools, []Want{w}, Asked{}, target)
			if diff := cmp.Diff(held+"(4)!, a(4)", text(plan)); err != nil || diff != "" {
				t.Errorf("%v (-want +got)\n%s", err, diff)
			}
		}
	}
}

func TestCompileKind(t *testing.T) {
	var got []string
	for _, p := range kindPools(t) {
		got = append(got, p.Name+" "+string(p.Kind))
	}
	broken := CompileOrRefuse(manifest(t, "broken", "{netspace: a, subnets: [{cidr: 10.6.0.1/24}]}"))
	got = append(got, fmt.Sprint(broken.Kind, " ", broken.Netspace))
	want := []string{"default Shared", "named Shared", "a Netspace", "b Netspace", "web Application", "web-a Application", "Netspace a"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	empty := pool(t, "empty", "{subnet: office, size: 4, pairing: index}")
	if empty.Refusal != `has no address of subnet "office" yet; see its condition Carved` {
		t.Error(empty.Refusal)
	}
}
