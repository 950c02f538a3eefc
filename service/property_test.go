package service

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"

	"github.com/berthdev/berth/ipam"
)

// drawSpec of few addresses and ports, so that Services meet.
func drawSpec(t *rapid.T, name string) *Spec {
	s := &Spec{Name: name, Created: int64(rapid.IntRange(0, 2).Draw(t, "created"))}
	addr := func(label string) netip.Addr {
		return netip.AddrFrom4([4]byte{10, 96, 0, byte(rapid.IntRange(1, 4).Draw(t, label))})
	}
	s.clusterIPs = []netip.Addr{addr("cluster IP")}
	for range rapid.IntRange(0, 2).Draw(t, "external IPs") {
		s.externalIPs = append(s.externalIPs, addr("external IP"))
	}
	for range rapid.IntRange(0, 1).Draw(t, "load balancers") {
		s.balancerIPs = append(s.balancerIPs, addr("load balancer"))
	}
	if rapid.Bool().Draw(t, "ranges") {
		s.sources = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	}
	for i := range rapid.IntRange(1, 2).Draw(t, "ports") {
		s.ports = append(s.ports, specPort{name: fmt.Sprint(i), port: uint16(80 + i), protocol: TCP, nodePort: uint16(rapid.SampledFrom([]int{0, 30000 + i}).Draw(t, "node port"))})
	}
	s.internalLocal, s.externalLocal = rapid.Bool().Draw(t, "internal"), rapid.Bool().Draw(t, "external")
	return s
}

func drawSlice(t *rapid.T, name string) *Slice {
	s := &Slice{Name: name, is4: true, ports: []slicePort{{"0", uint16(rapid.IntRange(1, 2).Draw(t, "target")), TCP}, {"1", 9, TCP}}}
	for range rapid.IntRange(0, 6).Draw(t, "endpoints") {
		h := &discoveryv1.EndpointHints{}
		for _, z := range rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b"}), 0, 2).Draw(t, "zones") {
			h.ForZones = append(h.ForZones, discoveryv1.ForZone{Name: z})
		}
		s.endpoints = append(s.endpoints, endpoint{netip.AddrFrom4([4]byte{10, 6, 0, byte(rapid.IntRange(1, 6).Draw(t, "address"))}),
			zonesOf(h), condition(rapid.IntRange(0, 63).Draw(t, "condition"))})
	}
	return s
}

// TestBuildHolds checks what is true of any Service that is built.
func TestBuildHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := NewView("n", []*Node{{Name: "n", Zone: "a"}}, nil)
		c := NewClaims()
		specs := []*Spec{drawSpec(t, "a"), drawSpec(t, "b"), drawSpec(t, "c")}
		for _, s := range specs {
			c.Replace(nil, s)
		}
		list := []*Slice{drawSlice(t, "x"), drawSlice(t, "y")}
		owner := map[Frontend]string{}
		for _, s := range specs {
			built, _ := Build(s, list, v, c)
			again, _ := Build(s, []*Slice{list[1], list[0]}, v, c)
			if a, b := fmt.Sprint(built), fmt.Sprint(again); a != b {
				t.Fatalf("the order of slices matters:\n%s\n%s", a, b)
			}
			for _, p := range built.Ports {
				for _, f := range p.Frontends {
					if o, taken := owner[f]; taken {
						t.Fatalf("%s is of %s and of %s", f, o, s.Name)
					}
					owner[f] = s.Name
				}
				checkPort(t, p, list)
			}
		}
		for f := range c.owner {
			if owner[f] != c.Owner(f) {
				t.Fatalf("%s is built for %q, and owned by %q", f, owner[f], c.Owner(f))
			}
		}
	})
}

func checkPort(t *rapid.T, p Port, list []*Slice) {
	if len(p.Frontends) == 0 || p.Drop && (len(p.Backends) > 0 || p.Steered == "") || p.Sources != nil && p.Steered == "" {
		t.Fatalf("%+v", p)
	}
	if !slices.IsSortedFunc(p.Backends, func(a, b Backend) int {
		if c := a.Address.Compare(b.Address); c != 0 {
			return c
		}
		return int(a.Port) - int(b.Port)
	}) {
		t.Fatalf("not sorted: %v", p.Backends)
	}
	if len(slices.Compact(slices.Clone(p.Backends))) != len(p.Backends) {
		t.Fatalf("twice: %v", p.Backends)
	}
	for _, b := range p.Backends {
		if !slices.ContainsFunc(list, func(s *Slice) bool {
			return slices.ContainsFunc(s.endpoints, func(e endpoint) bool { return e.address == b.Address && (e.is.all(ready) || e.is.all(draining)) })
		}) {
			t.Fatalf("%s neither ready nor draining", b.Address)
		}
	}
}

// TestPlace checks the table of a View against asking each pool.
func TestPlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var pools []*ipam.Pool
		for range rapid.IntRange(0, 4).Draw(t, "pools") {
			from := rapid.IntRange(0, 15).Draw(t, "from")
			to := rapid.IntRange(from, 15).Draw(t, "to")
			net := rapid.SampledFrom([]string{"255.255.255.%d", "10.0.0.%d", "::%x", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff%x"}).Draw(t, "net")
			off := 0
			if net == "255.255.255.%d" {
				off = 240
			}
			cidr := netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf(net, off)), map[bool]int{true: 28, false: 124}[net[0] != ':' && net[0] != 'f'])
			pools = append(pools, poolOf(t, fmt.Sprintf("%s %s "+net+"-"+net, rapid.SampledFrom([]string{"red", "blue"}).Draw(t, "network"), cidr, off+from, off+to)))
		}
		v := NewView("n", nil, pools)
		for _, text := range []string{"255.255.255.240", "255.255.255.247", "255.255.255.255", "10.0.0.0", "10.0.0.7", "10.0.0.15", "10.0.0.16", "::", "::7", "::f", "::10",
			"ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "0.0.0.0"} {
			a, of := netip.MustParseAddr(text), map[string]bool{}
			want := ""
			for _, p := range pools {
				if p.Contains(a) {
					of[p.Network], want = true, p.Network
				}
			}
			if len(of) > 1 {
				want = ""
			}
			if got := v.place(a); got != (place{network: want}) {
				t.Fatalf("%s: got %+v, want network %q; pools %v", a, got, want, pools)
			}
		}
	})
}

// FuzzBuild takes objects as the API might give them. None makes it panic, and whatever comes out is fit for maps and rules.
func FuzzBuild(f *testing.F) {
	for _, spec := range []string{plain, outer, "clusterIP: 'fd00::1', externalIPs: ['::ffff:1.2.3.4', x], loadBalancerSourceRanges: ['::/0', '1.2.3.4/33'], ports: [{port: 1}]"} {
		svc, _ := json.Marshal(serviceOf(f, spec))
		for _, text := range []string{"s p=8080: 10.0.1.1 zones=a nodes=n; 10.0.1.1 terminating", "t p=1/UDP: fd00::2; ::1", "u: 10.0.0.1"} {
			slice, _ := json.Marshal(sliceOf(f, text))
			f.Add(svc, slice)
		}
	}
	v := NewView("n", []*Node{{Name: "n", Zone: "a"}}, nil)
	f.Fuzz(func(t *testing.T, svc, slice []byte) {
		var s corev1.Service
		var e discoveryv1.EndpointSlice
		if json.Unmarshal(svc, &s) != nil || json.Unmarshal(slice, &e) != nil {
			return
		}
		list := []*Slice{}
		if one, _ := ReadSlice(&e, "n"); one != nil {
			list = append(list, one)
		}
		spec, _ := ReadSpec(&s)
		if spec == nil {
			return
		}
		built, _ := Build(spec, list, v, nil)
		seen := map[Frontend]bool{}
		for _, p := range built.Ports {
			if len(p.Frontends) == 0 {
				t.Fatalf("no frontend: %+v", p)
			}
			for _, fe := range p.Frontends {
				if seen[fe] || fe.Port == 0 || !fe.NodePort() && special(fe.Address) != "" || fe.Address.Is4In6() || fe.Address.Is4() != p.Frontends[0].Address.Is4() {
					t.Fatalf("frontend %s: %+v", fe, built)
				}
				seen[fe] = true
			}
			for _, b := range p.Backends {
				if b.Port == 0 || special(b.Address) != "" || b.Address.Is4In6() || b.Address.Is4() != p.Frontends[0].Address.Is4() {
					t.Fatalf("backend %v: %+v", b, built)
				}
			}
			for _, r := range p.Sources {
				if !r.IsValid() || r.Bits() == 0 || r != r.Masked() || r.Addr().Is4() != p.Frontends[0].Address.Is4() {
					t.Fatalf("source %s: %+v", r, built)
				}
			}
		}
	})
}
