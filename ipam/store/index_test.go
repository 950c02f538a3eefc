package store

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

const (
	bound    = v1alpha1.LeaseBound
	released = v1alpha1.LeaseReleased
)

func indexPool(t *testing.T, name string, ips ...string) *ipam.Pool {
	t.Helper()
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	p.Spec.Network, p.Spec.Subnets = "n", []v1alpha1.PoolSubnet{{CIDR: "10.0.0.0/24", IPs: ips}}
	c, err := ipam.Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lease of 10.0.0.<last> at a resource version, of a pod on a node.
func lease(last int, pool string, version string, phase v1alpha1.LeasePhase, node, pod string) *v1alpha1.IPLease {
	a := fmt.Sprint("10.0.0.", last)
	l := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: "n." + a, ResourceVersion: version}}
	l.Spec.Network, l.Spec.Address, l.Spec.Pool, l.Spec.Phase = "n", a, pool, phase
	l.Spec.Holder = &v1alpha1.LeaseHolder{UID: "uid", Pod: pod, Node: node, ContainerID: pod, Interface: "net1"}
	if phase == released {
		l.Spec.ReleasedAt = &metav1.Time{Time: time.Unix(int64(last), 0)}
	}
	return l
}

// News of a lease come by writes, lists and watches, in any order. Only what is newer counts.
func TestNewsInAnyOrder(t *testing.T) {
	for _, tc := range []struct {
		name string
		news func(*index)
		want string // holder and phase; "" if no lease is known
	}{
		{"written, then the watch is behind", func(x *index) {
			x.put(lease(1, "p", "50", bound, "me", "b"))
			x.put(lease(1, "p", "40", released, "me", "a"))
		}, "b Bound"},
		{"nine is before ten", func(x *index) {
			x.put(lease(1, "p", "10", bound, "me", "b"))
			x.put(lease(1, "p", "9", bound, "me", "a"))
		}, "b Bound"},
		{"made anew, then the old deletion", func(x *index) {
			x.put(lease(1, "p", "50", bound, "me", "b"))
			x.deleted("p", lease(1, "p", "45", bound, "me", "a"))
		}, "b Bound"},
		{"deleted", func(x *index) {
			x.put(lease(1, "p", "50", bound, "me", "b"))
			x.deleted("p", lease(1, "p", "51", bound, "me", "b"))
		}, ""},
		{"deleted, as the last version seen", func(x *index) {
			x.put(lease(1, "p", "50", bound, "me", "b"))
			x.deleted("p", lease(1, "p", "50", bound, "me", "b"))
		}, ""},
		{"left the watch of p for that of q", func(x *index) {
			x.put(lease(1, "q", "50", bound, "me", "b"))
			x.deleted("p", lease(1, "p", "50", released, "me", "a"))
		}, "b Bound"},
		{"listed", func(x *index) {
			x.put(lease(1, "p", "50", bound, "you", "b"))
			x.replace("p", "60", []v1alpha1.IPLease{*lease(1, "p", "55", bound, "you", "c")})
		}, "c Bound"},
		{"not listed", func(x *index) {
			x.put(lease(1, "p", "50", bound, "me", "b"))
			x.replace("p", "60", nil)
		}, ""},
		{"written after the list", func(x *index) {
			x.put(lease(1, "p", "61", bound, "me", "b"))
			x.replace("p", "60", nil)
		}, "b Bound"},
		{"the list of another pool", func(x *index) {
			x.put(lease(1, "p", "50", bound, "you", "b"))
			x.replace("q", "60", nil)
		}, "b Bound"},
		{"met, of a pool that is not followed", func(x *index) {
			x.put(lease(1, "other", "50", bound, "you", "b"))
			x.replace("p", "60", nil)
		}, ""},
		{"own, of a pool that is not followed", func(x *index) {
			x.put(lease(1, "other", "50", bound, "me", "b"))
			x.replace("p", "60", nil)
		}, "b Bound"},
		{"intended update, then the watch is behind", func(x *index) {
			x.put(lease(1, "p", "50", released, "me", "a"))
			x.intend(lease(1, "p", "50", bound, "me", "b"))
			x.put(lease(1, "p", "50", released, "me", "a"))
		}, "b Bound"},
		{"intended update, then news", func(x *index) {
			x.put(lease(1, "p", "50", released, "me", "a"))
			x.intend(lease(1, "p", "50", bound, "me", "b"))
			x.put(lease(1, "p", "51", bound, "you", "c"))
		}, "c Bound"},
		{"intended update, and listed as it was", func(x *index) {
			x.intend(lease(1, "p", "50", bound, "me", "b"))
			x.replace("p", "60", []v1alpha1.IPLease{*lease(1, "p", "50", released, "me", "a")})
		}, "a Released"},
		{"intended creation, then news", func(x *index) {
			x.intend(lease(1, "p", "", bound, "me", "b"))
			x.put(lease(1, "p", "7", bound, "you", "c"))
		}, "c Bound"},
		{"intended creation, and not listed", func(x *index) {
			x.intend(lease(1, "p", "", bound, "me", "b"))
			x.replace("p", "60", nil)
		}, ""},
		{"intended, of another pool than the list", func(x *index) {
			x.intend(lease(1, "q", "", bound, "me", "b"))
			x.replace("p", "60", nil)
		}, "b Bound"},
		{"another node's, and the pool goes", func(x *index) {
			x.put(lease(1, "p", "50", bound, "you", "b"))
			x.dropPool("p")
		}, ""},
		{"own, and the pool goes", func(x *index) {
			x.put(lease(1, "p", "50", bound, "me", "b"))
			x.dropPool("p")
		}, "b Bound"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newIndex("me", func(*v1alpha1.IPLease) {})
			p := indexPool(t, "p", "10.0.0.1")
			x.setPool(p)
			x.setPool(indexPool(t, "q", "10.0.0.1"))
			tc.news(x)
			got := ""
			if l := x.leases["n.10.0.0.1"]; l != nil {
				got = l.Spec.Holder.Pod + " " + string(l.Spec.Phase)
			}
			if got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
			// The keys and the spaces say the same.
			for _, pod := range []string{"a", "b", "c"} {
				if held := len(x.held(sandboxKey(pod, "net1"))) == 1; held != (got == pod+" Bound" && x.leases["n.10.0.0.1"].Spec.Holder.Node == "me") {
					t.Errorf("sandbox %s holds it: %t", pod, held)
				}
			}
			for name, s := range x.pools {
				if phase := s.families[ipam.IPv4].Phase(netip.MustParseAddr("10.0.0.1")); string(phase) != got[strings.Index(got, " ")+1:] {
					t.Errorf("pool %s: %q", name, phase)
				}
			}
			if got == "" && len(x.keyed)+len(x.intended) > 0 {
				t.Errorf("left: %v, %v", x.keyed, x.intended)
			}
		})
	}
}

// While one ADD tries an address no other does, whatever is heard of it.
func TestInFlight(t *testing.T) {
	x, h := newIndex("me", func(*v1alpha1.IPLease) {}), &v1alpha1.LeaseHolder{UID: "new", Interface: "net1"}
	p := indexPool(t, "p", "10.0.0.1-10.0.0.2")
	x.setPool(p)
	a, known, err := begin(x, p, h)
	if err != nil || known != nil {
		t.Fatal(known, err)
	}
	b, _, err := begin(x, p, h)
	if err != nil || a == b {
		t.Fatal(a, b, err)
	}
	name := ipam.LeaseName("n", a)
	for range 2 {
		if _, _, err := begin(x, p, h); !errors.Is(err, ipam.ErrExhausted) {
			t.Error(err)
		}
		if _, ok := x.beginAt(name); ok {
			t.Error("begun twice")
		}
		x.setPool(p) // the pool is edited meanwhile
		x.put(lease(1, "p", "5", released, "you", "x"))
		x.put(lease(2, "p", "5", released, "you", "y"))
	}
	x.end(name)
	if c, known, err := begin(x, p, h); err != nil || c != a || known == nil || known.Spec.Phase != released {
		t.Errorf("%s, %v, %v", c, known, err)
	}
	if _, ok := x.beginAt("n.10.0.0.9"); !ok { // asked for, beside the pool
		t.Error("not begun")
	}
	if _, ok := x.beginAt("n.10.0.0.9"); ok {
		t.Error("asked for twice at once")
	}
}

// The last of several addresses that a pod had is its first choice, if it is of the pool and free.
func TestLastAddress(t *testing.T) {
	x := newIndex("me", func(*v1alpha1.IPLease) {})
	p := indexPool(t, "p", "10.0.0.1-10.0.0.5")
	x.setPool(p)
	for _, l := range []*v1alpha1.IPLease{
		lease(3, "p", "6", released, "me", "a"), lease(4, "p", "7", released, "me", "a"), lease(2, "p", "5", released, "me", "a"),
		lease(5, "p", "5", released, "you", "a"), // was another node's: it cannot be the same pod
		lease(9, "p", "5", released, "me", "a"),  // not in the pool any more
	} {
		x.put(l)
	}
	h := &v1alpha1.LeaseHolder{UID: "uid", Interface: "net1"}
	for _, want := range []string{"10.0.0.4", "10.0.0.3", "10.0.0.2", "10.0.0.1", "10.0.0.5"} {
		if a, _, err := begin(x, p, h); err != nil || a.String() != want {
			t.Errorf("%s, %v; want %s", a, err, want)
		}
	}
}

// A pool of more addresses than have numbers (ipam.Space): whose one without is, is known all the same.
func TestAddressWithoutNumber(t *testing.T) {
	m := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	m.Spec.Network, m.Spec.Subnets = "n", []v1alpha1.PoolSubnet{{CIDR: "2001:db8::/48"}}
	p, err := ipam.Compile(m)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddr("2001:db8:0:ffff::7")
	pick := ipam.Pick{Family: ipam.IPv6, OneOf: []netip.Addr{at}}
	c := ipam.Claimant{Holder: v1alpha1.LeaseHolder{UID: "uid", Interface: "net1"}}
	x := newIndex("me", func(*v1alpha1.IPLease) {})
	x.setPool(p)
	known := func(version string, phase v1alpha1.LeasePhase, node string) {
		l := lease(1, "p", version, phase, node, "a")
		l.Name, l.Spec.Address = ipam.LeaseName("n", at), at.String()
		x.put(l)
	}
	known("1", bound, "you")
	if got, err := x.begin(p, pick, c, 0, time.Now()); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("bound: %+v, %v", got, err)
	}
	known("2", released, "me")
	if got, err := x.begin(p, ipam.Pick{Family: ipam.IPv6}, c, 0, time.Now()); err != nil || got.address != at {
		t.Errorf("the pod's last one is %s: %s, %v", at, got.address, err)
	}
	if got, err := x.begin(p, pick, c, 0, time.Now()); !errors.Is(err, ipam.ErrTaken) {
		t.Errorf("in flight: %+v, %v", got, err)
	}
}

// Of two leases that are reserved for an identity, one counts.
func TestPrefer(t *testing.T) {
	reserved := func(version, uid string, bound int64) *v1alpha1.IPLease {
		l := lease(1, "p", version, v1alpha1.LeaseReserved, "me", "a")
		l.Spec.Identity = &v1alpha1.LeaseIdentity{Ends: v1alpha1.EndsWithOwner}
		l.Spec.Holder.UID, l.Spec.BoundAt = types.UID(uid), &metav1.Time{Time: time.Unix(bound, 0)}
		return l
	}
	operators := reserved("1", "x", 1)
	operators.Spec.Identity.Ends = ""
	held := reserved("99", "x", 99)
	held.Spec.Phase = bound
	for name, pair := range map[string][2]*v1alpha1.IPLease{
		"a person's before the identity's":               {operators, reserved("9", "x", 9)},
		"what is reserved before what is held":           {reserved("1", "x", 1), held},
		"of several pods, what was written last":         {reserved("9", "x", 1), reserved("8", "y", 2)},
		"of one pod, what it claimed last":               {reserved("8", "x", 2), reserved("9", "x", 1)},
		"of one pod, claimed at once, what is newer":     {reserved("9", "x", 1), reserved("8", "x", 1)},
		"of several pods, whatever the clocks say of it": {reserved("9", "x", 1), reserved("8", "y", 1000)},
	} {
		if !prefer(pair[0], pair[1]) || prefer(pair[1], pair[0]) {
			t.Error(name)
		}
	}
}

// What this node holds no longer, or by another link, is told once, with the link that it had.
func TestLost(t *testing.T) {
	with := func(l *v1alpha1.IPLease, mac string) *v1alpha1.IPLease {
		l.Spec.Holder.MAC = mac
		return l
	}
	for _, tc := range []struct {
		name string
		news func(*index)
		want []string // MACs
	}{
		{"released", func(x *index) { x.put(with(lease(1, "p", "6", released, "me", "a"), "m1")) }, []string{"m1"}},
		{"deleted", func(x *index) { x.deleted("p", lease(1, "p", "6", bound, "me", "a")) }, []string{"m1"}},
		{"another node's", func(x *index) { x.put(with(lease(1, "p", "6", bound, "you", "b"), "m2")) }, []string{"m1"}},
		{"another link", func(x *index) { x.put(with(lease(1, "p", "6", bound, "me", "a"), "m2")) }, []string{"m1"}},
		{"another sandbox, the same link", func(x *index) { x.put(with(lease(1, "p", "6", bound, "me", "b"), "m1")) }, nil},
		{"old news", func(x *index) { x.put(lease(1, "p", "4", released, "me", "a")) }, nil},
		{"never ours", func(x *index) { x.put(lease(2, "p", "6", released, "you", "b")) }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := newIndex("me", func(*v1alpha1.IPLease) {})
			var got []string
			x.lost = func(l *v1alpha1.IPLease) { got = append(got, l.Spec.Holder.MAC) }
			x.put(with(lease(1, "p", "5", bound, "me", "a"), "m1"))
			tc.news(x)
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("lost %q, want %q", got, tc.want)
			}
		})
	}
}

func begin(x *index, p *ipam.Pool, h *v1alpha1.LeaseHolder) (netip.Addr, *v1alpha1.IPLease, error) {
	c, err := x.begin(p, anyIPv4, ipam.Claimant{Holder: *h}, 0, time.Now())
	return c.address, c.lease, err
}
