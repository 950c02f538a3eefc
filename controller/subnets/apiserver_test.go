//go:build apiserver

package subnets

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/carve"
	"github.com/berthdev/berth/ipam/store/apitest"
)

func TestPoolFollowsItsSize(t *testing.T) {
	w := newWorld(t)
	w.start(w.rc, Config{ReturnAfter: short})
	s := w.subnet("", "10.6.0.0/16", "fd00:6::/64")
	p := w.pool(s, 5)
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.5 fd00:6::1-fd00:6::5")
	q := w.pool(s, 3)
	w.wantIPs(q.Name, "10.6.0.6-10.6.0.8 fd00:6::6-fd00:6::8")
	w.resize(p, 7)
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.5 10.6.0.9-10.6.0.10 fd00:6::1-fd00:6::5 fd00:6::9-fd00:6::a")
	w.wantFree(s.Name, "65524 + 2^64")
	w.resize(p, 2)
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.2 fd00:6::1-fd00:6::2")
	w.check()
	w.wantFree(s.Name, "65529 + 2^64")
	w.remove(p)
	w.remove(q)
	w.wantNoBlocks()
	w.wantFree(s.Name, "65534 + 2^64")
	w.wantReady(s.Name, "True Serving")
	if err := w.admin.Delete(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	w.gone(s)
}

func (w *world) change(s *v1alpha1.Subnet, f func(*v1alpha1.SubnetSpec)) {
	w.Helper()
	apitest.Eventually(w.T, "an edit of "+s.Name, func() error {
		if err := w.admin.Get(context.Background(), client.ObjectKeyFromObject(s), s); err != nil {
			return err
		}
		f(&s.Spec)
		return w.admin.Update(context.Background(), s)
	})
}

func TestSubnetRefuses(t *testing.T) {
	w := newWorld(t)
	w.start(w.rc, Config{ReturnAfter: short})
	s := w.subnet("", "10.6.0.0/24")
	p := w.pool(s, 5)
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.5")

	// Another subnet with the same addresses, younger by a second, that of a creation time.
	time.Sleep(time.Second)
	young := w.subnet("", "10.6.0.128/25", "10.8.0.0/24")
	w.wantReady(young.Name, "False OverlapsSubnet", fmt.Sprintf("%q", s.Name), "10.6.0.128-10.6.0.255")
	q := w.pool(young, 1)
	w.wantCarved(q.Name, "False SubnetNotReady: nothing is carved from Subnet")
	w.change(young, func(spec *v1alpha1.SubnetSpec) { spec.CIDRs = spec.CIDRs[1:] })
	w.wantReady(young.Name, "True Serving")
	w.wantIPs(q.Name, "10.8.0.1")

	// A VLAN that another network has on that link, until it has it no longer.
	link := apitest.Unique("b")[:9]
	w.change(s, func(spec *v1alpha1.SubnetSpec) { spec.VLAN, spec.Parent = new(int32(910)), link })
	o := &v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: apitest.Unique("sub")}, Spec: v1alpha1.SubnetSpec{Network: w.network + "-x", VLAN: new(int32(910)), Parent: link,
		CIDRs: []v1alpha1.SubnetCIDR{{CIDR: "10.9.0.0/24"}}}}
	w.create(o)
	w.wantReady(o.Name, "False VLANTaken: vlan 910 on parent "+link+" is of network \""+w.network+"\", by subnet \""+s.Name+"\"", "take another VLAN, or make the subnet anew with network: "+w.network)
	w.wantEvent(o.Name, reasonVLAN)
	x := w.pool(o, 1)
	w.wantCarved(x.Name, "False SubnetNotReady: nothing is carved from Subnet")
	w.change(s, func(spec *v1alpha1.SubnetSpec) { spec.VLAN, spec.Parent = nil, "" })
	w.wantReady(o.Name, "True Serving")
	w.wantIPs(x.Name, "10.9.0.1")
	w.remove(x)
	if err := w.admin.Delete(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	w.gone(o)

	// What is carved is left in it.
	for _, change := range []func(*v1alpha1.SubnetSpec){
		func(spec *v1alpha1.SubnetSpec) { spec.CIDRs[0].CIDR = "10.6.0.128/25" },
		func(spec *v1alpha1.SubnetSpec) { spec.CIDRs[0].Gateway = "10.6.0.3" },
		func(spec *v1alpha1.SubnetSpec) { spec.CIDRs[0].Reserved = []string{"10.6.0.5-10.6.0.9"} },
	} {
		w.change(s, change)
		w.wantReady(s.Name, "False CarvedOutside", fmt.Sprintf("pool %q has 10.6.0.", p.Name), "allow it again, or delete these first")
		if got := ips(w.get(p.Name)); got != "10.6.0.1-10.6.0.5" {
			t.Errorf("the pool has %s", got)
		}
		w.change(s, func(spec *v1alpha1.SubnetSpec) { spec.CIDRs = []v1alpha1.SubnetCIDR{{CIDR: "10.6.0.0/24"}} })
		w.wantReady(s.Name, "True Serving")
	}
	w.wantEvent(s.Name, reasonOutside)

	// What the API server could not see.
	w.change(s, func(spec *v1alpha1.SubnetSpec) { spec.CIDRs[0].Reserved = []string{"10.6.0.9-10.6.0.8"} })
	w.wantReady(s.Name, "False Malformed", "cidrs[0].reserved[0]", `"10.6.0.9-10.6.0.8"`)
	w.change(s, func(spec *v1alpha1.SubnetSpec) { spec.CIDRs[0].Reserved = nil })
	w.wantReady(s.Name, "True Serving")

	// It is not deleted while somebody has a part of it, and nothing more is carved from it.
	if err := w.admin.Delete(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	w.wantReady(s.Name, "False WaitsForPools", fmt.Sprintf("pool %q", p.Name))
	w.wantEvent(s.Name, reasonDeleting)
	late := w.pool(s, 1)
	w.wantCarved(late.Name, "False SubnetNotReady: Subnet")
	w.remove(late)
	w.remove(p)
	w.gone(s)
}

func TestPoolRefused(t *testing.T) {
	w := newWorld(t)
	w.start(w.rc, Config{ReturnAfter: short})
	s := w.subnet("", "10.6.0.0/28")
	a := w.pool(s, 10)
	w.wantCarved(a.Name, "True Carved")

	b := w.pool(s, 5)
	w.wantCarved(b.Name, `False SubnetExhausted: size 5: wants 5 IPv4 addresses more of subnet "`+s.Name+`", in which 4 are free`)
	w.wantEvent(b.Name, reasonShort)
	w.resize(a, 20)
	w.wantCarved(a.Name, "False SubnetExhausted: size 20: wants 10 IPv4")
	if got := ips(w.get(a.Name)); got != "10.6.0.1-10.6.0.10" {
		t.Errorf("it has %s", got)
	}
	w.resize(a, 9)
	w.wantIPs(a.Name, "10.6.0.1-10.6.0.9")
	w.wantCarved(b.Name, "True Carved") // once the tenth has returned
	w.check()

	lost := pool(apitest.Unique("pool"), s, 1)
	lost.Spec.Subnet = "nowhere"
	w.create(lost)
	w.wantCarved(lost.Name, `False NoSuchSubnet: there is no Subnet "nowhere"`)
	other := pool(apitest.Unique("pool"), s, 1)
	other.Spec.Network = "other"
	w.create(other)
	defer w.remove(other)
	w.wantCarved(other.Name, `False OtherNetwork: the pool is of network "other", and Subnet`)

	w.change(s, func(spec *v1alpha1.SubnetSpec) { spec.Netspace = "red" })
	guest := w.pool(s, 1)
	w.wantCarved(guest.Name, fmt.Sprintf(`False OtherNetspace: Subnet %q is netspace "red"'s alone, and the pool is of no netspace`, s.Name))
	w.resize(b, 4)
	w.wantCarved(b.Name, "False OtherNetspace") // it keeps what it has
	if got := w.get(b.Name); len(got.Spec.Subnets) == 0 {
		t.Error("it lost what it had")
	}
	mine := pool(apitest.Unique("pool"), s, 0)
	mine.Spec.Netspace = "red"
	w.create(mine)
	w.wantCarved(mine.Name, "True Carved")
}

// TestKeepsWhatIsInUse: neither a smaller size nor the time takes an address from a pod.
func TestKeepsWhatIsInUse(t *testing.T) {
	w := newWorld(t)
	w.start(w.rc, Config{ReturnAfter: 2 * time.Second})
	s := w.subnet(v1alpha1.PairingIndex, "10.6.0.0/24", "fd00:6::/120")
	p := w.pool(s, 6)
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.6 fd00:6::1-fd00:6::6")
	l := w.lease(p, "fd00:6::6")
	w.lease(p, "10.6.0.1")
	w.resize(p, 1)
	w.wantIPs(p.Name, "10.6.0.1 10.6.0.6 fd00:6::1 fd00:6::6")
	w.wantCarved(p.Name, "True ShrinksLater: size is 1, and the pool keeps 1 addresses more")

	// An agent that had not heard yet claims what was given up.
	late := w.lease(p, "10.6.0.3")
	w.wantIPs(p.Name, "10.6.0.1 10.6.0.3 10.6.0.6 fd00:6::1 fd00:6::3 fd00:6::6")
	for _, l := range []*v1alpha1.IPLease{l, late} {
		if err := w.admin.Delete(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
	w.wantIPs(p.Name, "10.6.0.1 fd00:6::1")
	w.wantCarved(p.Name, "True Carved")

	// The pool is gone, and the address in use is kept until it is not.
	w.remove(p)
	apitest.Eventually(t, "all but one pair", func() error {
		var left []string
		for _, b := range w.blocks() {
			for _, part := range b.Parts {
				if part.Had() {
					return fmt.Errorf("%s is had", part.Range)
				}
				left = append(left, part.Range.String())
			}
		}
		if got := strings.Join(left, " "); got != "10.6.0.1" {
			return errors.New(got)
		}
		return nil
	})
}

// TestOwnAddressesAgain: a pool made anew under its name has the addresses that it had.
func TestOwnAddressesAgain(t *testing.T) {
	w := newWorld(t)
	w.start(w.rc, Config{ReturnAfter: time.Hour})
	s := w.subnet("", "10.6.0.0/24")
	p := w.pool(s, 4)
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.4")
	w.remove(p)
	w.wantFree(s.Name, "250")
	apitest.Eventually(t, "returning", func() error {
		if n := w.status(s.Name).IPv4; n.Returning != "4" {
			return fmt.Errorf("%+v", n)
		}
		return nil
	})
	w.wantIPs(w.pool(s, 2).Name, "10.6.0.5-10.6.0.6")
	w.create(pool(p.Name, s, 4))
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.4")
	w.check()
}

// TestOtherPoolOfTheName: a pool made anew under its name, in another network or with addresses of its own, has nothing of what the one
// before had, also if it comes so soon that nobody saw the name free.
func TestOtherPoolOfTheName(t *testing.T) {
	for what, spec := range map[string]v1alpha1.IPPoolSpec{
		"in another network":         {Network: "other", Subnet: "nowhere", Size: new(int32(4))},
		"with the same ones there":   {Network: "other", Subnets: []v1alpha1.PoolSubnet{{CIDR: "10.6.0.0/24"}}},
		"with addresses of its own":  {Subnets: []v1alpha1.PoolSubnet{{CIDR: "10.7.0.0/24"}}},
		"of a Subnet that is not so": {Subnet: "nowhere", Size: new(int32(4))},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			_, stop := w.start(w.rc, Config{ReturnAfter: short})
			s := w.subnet("", "10.6.0.0/24")
			p := w.pool(s, 4)
			w.wantIPs(p.Name, "10.6.0.1-10.6.0.4")
			stop()
			w.remove(p)
			anew := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Spec: spec}
			if anew.Spec.Network == "" {
				anew.Spec.Network = w.network
			}
			w.create(anew)
			defer w.remove(anew)
			w.start(w.rc, Config{ReturnAfter: short})
			w.wantNoBlocks()
		})
	}
}

// TestEditedPool: what a person writes into the derived fields does not stay there.
func TestEditedPool(t *testing.T) {
	w := newWorld(t)
	w.start(w.rc, Config{ReturnAfter: short})
	s := w.subnet("", "10.6.0.0/24")
	w.change(s, func(spec *v1alpha1.SubnetSpec) { spec.VLAN = new(int32(910)) })
	p := w.pool(s, 4)
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.4")
	apitest.Eventually(t, "an edit", func() error {
		q := w.get(p.Name)
		q.Spec.Subnets[0].IPs = []string{"10.6.0.0/24"}
		q.Spec.VLAN = nil
		return w.admin.Update(t.Context(), q)
	})
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.4")
	if v := w.get(p.Name).Spec.VLAN; v == nil || *v != 910 {
		t.Errorf("VLAN %v", v)
	}
	w.wantEvent(p.Name, eventRestored)

	// An edit of the subnet is no edit of the pool.
	w.change(s, func(spec *v1alpha1.SubnetSpec) { spec.CIDRs[0].Gateway = "10.6.0.254" })
	apitest.Eventually(t, "the gateway", func() error {
		if got := w.get(p.Name).Spec.Subnets[0].Gateway; got != "10.6.0.254" {
			return errors.New(got)
		}
		return nil
	})
}

// Somebody edits a pool all the time, and each time before the controller writes what it has read in its cache.
func TestRestlessPool(t *testing.T) {
	w := newWorld(t)
	s := w.subnet("", "10.6.0.0/24")
	name := apitest.Unique("pool")
	var mu sync.Mutex
	edits, read := 0, false
	rc := apitest.Wrap(w.rc, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case !strings.HasSuffix(r.URL.Path, "/ippools/"+name):
		case r.Method == http.MethodGet:
			read = true
		case r.Method == http.MethodPut && !read:
			edits++
			patch := fmt.Sprintf(`{"metadata":{"labels":{"edits":"%d"}}}`, edits)
			p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
			if err := w.admin.Patch(r.Context(), p, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
				t.Error(err)
			}
		default:
			read = false
		}
		return next.RoundTrip(r)
	})
	w.start(rc, Config{ReturnAfter: time.Hour})
	w.create(pool(name, s, 3))
	w.wantIPs(name, "10.6.0.1-10.6.0.3")
	mu.Lock()
	defer mu.Unlock()
	if edits == 0 {
		t.Error("nobody edited the pool")
	}
}

// TestKeepsAway: what pools have that were not carved is not carved.
func TestKeepsAway(t *testing.T) {
	w := newWorld(t)
	plain := &v1alpha1.IPPool{}
	plain.Name, plain.Spec.Network = apitest.Unique("plain"), w.network
	plain.Spec.Subnets = []v1alpha1.PoolSubnet{{CIDR: "10.6.0.0/24", IPs: []string{"10.6.0.3-10.6.0.200"}}}
	w.create(plain)
	w.start(w.rc, Config{ReturnAfter: short})
	s := w.subnet("", "10.6.0.0/24")
	p := w.pool(s, 10)
	w.wantIPs(p.Name, "10.6.0.201-10.6.0.210")
	w.wantFree(s.Name, "46")
	w.check()
}

// TestShare: a subnet made from another has a CIDR that no pool of the other gets, and returns it when it is gone.
func TestShare(t *testing.T) {
	w := newWorld(t)
	c, _ := w.start(w.rc, Config{ReturnAfter: 3 * time.Second})
	s := w.subnet(v1alpha1.PairingIndex, "10.6.0.0/22", "fd00:6::/118")
	w.wantReady(s.Name, "True")
	p := w.pool(s, 5)
	w.wantIPs(p.Name, "10.6.0.1-10.6.0.5 fd00:6::1-fd00:6::5")
	name := apitest.Unique("red")
	var cidrs []string
	for range 2 { // asked again it gives the same
		prefixes, err := c.Share(t.Context(), s, name, 64)
		if err != nil || fmt.Sprint(prefixes) != "[10.6.0.64/26 fd00:6::40/122]" {
			t.Fatalf("%v (%v)", prefixes, err)
		}
		cidrs = []string{prefixes[0].String(), prefixes[1].String()}
	}
	child := &v1alpha1.Subnet{}
	child.Name, child.Spec.Network, child.Spec.Pairing = name, w.network, v1alpha1.PairingIndex
	for _, cidr := range cidrs {
		child.Spec.CIDRs = append(child.Spec.CIDRs, v1alpha1.SubnetCIDR{CIDR: cidr})
	}
	w.create(child)
	w.wantReady(child.Name, "True Serving")
	w.wantReady(s.Name, "True Serving")
	w.wantFree(s.Name, "953 + 953")
	q := w.pool(child, 60)
	w.wantIPs(q.Name, "10.6.0.65-10.6.0.124 fd00:6::41-fd00:6::7c")
	w.wantIPs(w.pool(s, 200).Name, "10.6.1.0-10.6.1.199 fd00:6::100-fd00:6::1c7")
	w.check()
	if _, err := c.Share(t.Context(), s, "huge", 1024); !errors.Is(err, carve.ErrShort) || !strings.Contains(err.Error(), "no free IPv4 CIDR of 1024 addresses") {
		t.Errorf("%v", err)
	}

	if err := w.admin.Delete(t.Context(), child); err != nil {
		t.Fatal(err)
	}
	w.wantReady(child.Name, "False WaitsForPools")
	w.remove(q)
	w.gone(child)
	w.wantFree(s.Name, "817 + 817")
}

func TestPreview(t *testing.T) {
	w := newWorld(t)
	c, _ := w.start(w.rc, Config{ReturnAfter: short})
	s := w.subnet("", "10.6.0.0/28")
	w.wantReady(s.Name, "True")
	got, err := c.Preview(t.Context(), s, "new", 5)
	if err != nil || len(got) != 1 || strings.Join(got[0].IPs, " ") != "10.6.0.1-10.6.0.5" {
		t.Errorf("%v (%v)", got, err)
	}
	if _, err := c.Preview(t.Context(), s, "new", 15); !errors.Is(err, carve.ErrShort) {
		t.Errorf("%v", err)
	}
	if blocks := w.blocks(); len(blocks) > 0 {
		t.Errorf("it made %d blocks", len(blocks))
	}
}
