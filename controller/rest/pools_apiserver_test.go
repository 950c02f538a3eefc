//go:build apiserver

package rest

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

var addr = netip.MustParseAddr

func TestPoolLifecycle(t *testing.T) {
	c := newCluster(t)
	u := c.user(t)
	c.subnet(t, "10.6.0.0/24", "fd00:6::/120")
	name := c.name + "-p"
	made := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	c.cleanUp(t, made)
	body := map[string]any{"name": name, "spec": map[string]any{"network": c.name, "subnet": c.name, "size": 20}}

	u.ask(t, "POST", "/v1/pools?dryRun=true", body).want(t, 201, nil)
	if there := c.exist(t, made); there != nil {
		t.Fatal("a dry run has made the pool")
	}
	var p Pool
	u.ask(t, "POST", "/v1/pools", body).want(t, 201, &p)
	if *p.Spec.Size != 20 || p.Spec.Subnet != c.name || p.Spec.Steering != v1alpha1.SteeringAuto {
		t.Errorf("made %+v", p.Spec)
	}
	c.exist(t, made)
	if made.Labels[v1alpha1.LabelManagedBy] != manager {
		t.Errorf("labels %v", made.Labels)
	}
	u.ask(t, "POST", "/v1/pools", body).want(t, 409, nil, "exists")
	u.ask(t, "PATCH", "/v1/pools/"+name, map[string]any{"size": 30}).want(t, 200, &p)
	if *p.Spec.Size != 30 {
		t.Errorf("size %d", *p.Spec.Size)
	}
	u.ask(t, "PATCH", "/v1/pools/"+name, map[string]any{"size": 300}).want(t, 409, nil, `"field":"size"`, `"value":300`, "free")
	u.ask(t, "PATCH", "/v1/pools/"+name, map[string]any{"size": -1}).want(t, 422, nil, `"field":"size"`)
	u.ask(t, "PATCH", "/v1/pools/"+name, map[string]any{"size": 5, "spec": 3}).want(t, 422, nil, `"field":"spec"`)
	u.ask(t, "PATCH", "/v1/pools/absent-"+name, map[string]any{"size": 5}).want(t, 404, nil, "not found")
	u.ask(t, "GET", "/v1/pools/"+name, nil).want(t, 200, &p)
	if *p.Spec.Size != 30 {
		t.Errorf("after refusals size %d", *p.Spec.Size)
	}
	var gone Deletion
	u.ask(t, "DELETE", "/v1/pools/"+name+"?dryRun=true", nil).want(t, 200, nil)
	u.ask(t, "DELETE", "/v1/pools/"+name, nil).want(t, 200, &gone)
	if !gone.Gone {
		t.Errorf("%+v", gone)
	}
	u.ask(t, "DELETE", "/v1/pools/"+name, nil).want(t, 404, nil)
	for _, tc := range []struct {
		name string
		spec map[string]any
		want int
		says string
	}{
		{"larger than the network", map[string]any{"network": c.name, "subnet": c.name, "size": 255}, 409, `"field":"spec.size"`},
		{"no such network", map[string]any{"subnet": "absent", "size": 2}, 422, `"field":"spec.subnet"`},
		{"subnet without size", map[string]any{"subnet": c.name}, 422, "subnet and size go together"},
		{"nothing", map[string]any{}, 422, "subnets is empty"},
		{"unknown field", map[string]any{"subnet": c.name, "size": 2, "seize": 3}, 422, `"field":"spec.seize"`},
		{"size in words", map[string]any{"subnet": c.name, "size": "two"}, 422, `"field":"spec.size"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u.ask(t, "POST", "/v1/pools", map[string]any{"name": name, "spec": tc.spec}).want(t, tc.want, nil, tc.says)
			if there := c.exist(t, made); there != nil {
				t.Error("refused, and made")
			}
		})
	}
}

// TestPoolInUse: what is in use is kept.
func TestPoolInUse(t *testing.T) {
	c := newCluster(t)
	u := c.user(t)
	c.subnet(t, "10.6.0.0/24")
	c.pool(t, 10)
	for i := 1; i <= 4; i++ {
		c.lease(t, fmt.Sprintf("10.6.0.%d", i), v1alpha1.LeaseBound, nil)
	}
	u.ask(t, "PATCH", "/v1/pools/"+c.name, map[string]any{"size": 3}).want(t, 409, nil, "4 IPv4 addresses", "in use", "at least 4")
	u.ask(t, "PATCH", "/v1/pools/"+c.name, map[string]any{"size": 4}).want(t, 200, nil)
	p := &v1alpha1.IPPool{ObjectMeta: metav1.ObjectMeta{Name: c.name}}
	c.exist(t, p)
	p.Finalizers = []string{"berth.dev/in-use"}
	if err := c.admin.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	var gone Deletion
	u.ask(t, "DELETE", "/v1/pools/"+c.name, nil).want(t, 200, &gone, "in use")
	if gone.Gone {
		t.Errorf("%+v", gone)
	}
	c.exist(t, p)
	p.Finalizers = nil
	if err := c.admin.Update(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

func TestFree(t *testing.T) {
	c := newCluster(t)
	u := c.user(t)
	c.subnet(t, "10.6.0.0/24")
	c.pool(t, 10)
	c.lease(t, "10.6.0.1", v1alpha1.LeaseBound, nil)
	c.lease(t, "10.6.0.4", v1alpha1.LeaseReserved, nil)
	c.lease(t, "10.6.0.5", v1alpha1.LeaseReleased, nil)
	var got Families
	u.ask(t, "GET", "/v1/pools/"+c.name+"/free", nil).want(t, 200, &got)
	want := Families{Name: c.name, Families: []Free{{Family: ipam.IPv4, Total: "10", Free: "8", Next: []string{"10.6.0.2-10.6.0.3", "10.6.0.5-10.6.0.10"}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	u.ask(t, "GET", "/v1/pools/"+c.name+"/free?limit=1", nil).want(t, 200, &got)
	if !got.Families[0].More || len(got.Families[0].Next) != 1 {
		t.Errorf("%+v", got)
	}
	got = Families{}
	u.ask(t, "GET", "/v1/networks/"+c.name+"/free", nil).want(t, 200, &got)
	want = Families{Name: c.name, Families: []Free{{Family: ipam.IPv4, Total: "254", Free: "244", Next: []string{"10.6.0.11-10.6.0.254"}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var try Carve
	u.ask(t, "GET", "/v1/networks/"+c.name+"/carve?size=20", nil).want(t, 200, &try)
	if diff := cmp.Diff(Carve{Network: c.name, Size: 20, Take: []string{"10.6.0.11-10.6.0.30"}, Return: []string{}}, try); diff != "" {
		t.Error(diff)
	}
	try = Carve{}
	u.ask(t, "GET", "/v1/networks/"+c.name+"/carve?size=12&pool="+c.name, nil).want(t, 200, &try)
	if diff := cmp.Diff(Carve{Network: c.name, Pool: c.name, Size: 12, Take: []string{"10.6.0.11-10.6.0.12"}, Return: []string{}}, try); diff != "" {
		t.Error(diff)
	}
	try = Carve{}
	u.ask(t, "GET", "/v1/networks/"+c.name+"/carve?size=1&pool="+c.name, nil).want(t, 200, &try)
	if diff := cmp.Diff(Carve{Network: c.name, Pool: c.name, Size: 1, Take: []string{}, Return: []string{"10.6.0.2-10.6.0.3", "10.6.0.5-10.6.0.10"}, Kept: 1}, try); diff != "" {
		t.Error(diff)
	}
	u.ask(t, "GET", "/v1/networks/"+c.name+"/carve?size=245", nil).want(t, 409, nil, `"field":"query.size"`, "244 are free")
	u.ask(t, "GET", "/v1/networks/"+c.name+"/carve", nil).want(t, 422, nil, "query.size")
	u.ask(t, "GET", "/v1/networks/absent/carve?size=1", nil).want(t, 404, nil, "not found")
}

func TestWho(t *testing.T) {
	c := newCluster(t)
	u := c.user(t)
	c.subnet(t, "10.6.0.0/24")
	c.pool(t, 10)
	c.lease(t, "10.6.0.1", v1alpha1.LeaseBound, nil)
	for _, tc := range []struct {
		address, state string
		part           bool
	}{
		{"10.6.0.1", "Bound", true},
		{"10.6.0.2", "Free", true},
		{"10.6.0.200", "NotGivenOut", false},
		{"fd00::1", "NotGivenOut", false},
	} {
		var a Address
		u.ask(t, "GET", "/v1/addresses/"+tc.address+"?network="+c.name, nil).want(t, 200, &a)
		if a.State != tc.state || (a.Part != nil) != tc.part || (a.Lease != nil) != (tc.state == "Bound") || tc.part && a.Part.Pool != c.name {
			t.Errorf("%s: %+v", tc.address, a)
		}
	}
	u.ask(t, "GET", "/v1/addresses/10.6.0.300", nil).want(t, 422, nil, `"field":"path.address"`, "10.6.0.300")
	u.ask(t, "GET", "/v1/addresses/10.6.0.1%25eth0", nil).want(t, 422, nil, "path.address")
	var list List[Lease]
	u.ask(t, "GET", "/v1/addresses?pool="+c.name+"&phase=Bound&network="+c.name, nil).want(t, 200, &list)
	if len(list.Items) != 1 || list.Items[0].Spec.Holder.Pod != "web-1" {
		t.Errorf("%+v", list)
	}
	u.ask(t, "GET", "/v1/addresses?phase=bound", nil).want(t, 422, nil, "query.phase")
}

func TestFixedAddresses(t *testing.T) {
	c := newCluster(t)
	u := c.user(t)
	c.subnet(t, "10.6.0.0/24")
	c.pool(t, 10)
	app := "/v1/applications/" + c.namespace + "/Deployment/web/addresses"
	lease := func(last int) *v1alpha1.IPLease {
		return &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s.10.6.0.%d", c.name, last)}}
	}
	for i := 1; i <= 10; i++ {
		c.cleanUp(t, lease(i))
	}
	of := func(addresses ...string) map[string]any {
		return map[string]any{"network": c.name, "addresses": addresses}
	}
	var list List[Lease]
	u.ask(t, "POST", app+"?dryRun=true", of("10.6.0.3")).want(t, 201, nil)
	if there := c.exist(t, lease(3)); there != nil {
		t.Fatal("a dry run has reserved")
	}
	u.ask(t, "POST", app, of("10.6.0.3", "10.6.0.4")).want(t, 201, &list)
	l := lease(3)
	c.exist(t, l)
	want := v1alpha1.IPLeaseSpec{Network: c.name, Address: "10.6.0.3", Pool: c.name, Phase: v1alpha1.LeaseReserved,
		Identity: &v1alpha1.LeaseIdentity{Kind: "Deployment", Namespace: c.namespace, Name: "web"}}
	if diff := cmp.Diff(want, l.Spec); diff != "" {
		t.Error(diff)
	}
	if l.Labels[v1alpha1.LabelPool] != c.name || l.Labels[v1alpha1.LabelFamily] != "IPv4" || l.Labels[v1alpha1.LabelIdentity] == "" {
		t.Errorf("labels %v", l.Labels)
	}
	// All or none: 10.6.0.4 is taken, so 10.6.0.5 stays free.
	u.ask(t, "POST", app, of("10.6.0.5", "10.6.0.4")).want(t, 409, nil, `"field":"addresses[1]"`, "reserved for Deployment "+c.namespace+"/web")
	if there := c.exist(t, lease(5)); there != nil {
		t.Error("half of it was reserved")
	}
	for _, tc := range []struct {
		name string
		body map[string]any
		says string
	}{
		{"outside", of("10.6.0.77"), "no pool of network"},
		{"other network", map[string]any{"addresses": []string{"10.6.0.6"}}, `no pool of network \"default\"`},
		{"no address", of("web"), `"value":"web"`},
		{"twice", of("10.6.0.6", "10.6.0.6"), "is there twice"},
		{"nothing", of(), "either addresses or a count"},
		{"both", map[string]any{"addresses": []string{"10.6.0.6"}, "count": 1, "pool": c.name}, "either addresses or a count"},
		{"count of nothing", map[string]any{"count": 1}, "count needs a pool"},
		{"no such pool", map[string]any{"addresses": []string{"10.6.0.6"}, "pool": "absent-pool"}, "no such pool"},
		{"pool of another network", map[string]any{"addresses": []string{"10.6.0.6"}, "pool": c.name, "network": "other"}, `"field":"network"`},
	} {
		t.Run(tc.name, func(t *testing.T) { u.ask(t, "POST", app, tc.body).want(t, 422, nil, tc.says) })
	}
	u.ask(t, "POST", app, map[string]any{"pool": c.name, "count": 9}).want(t, 409, nil, `"field":"count"`, "8 free")
	size := int32(5)
	empty := named1(&v1alpha1.IPPool{}, c.name+"-empty").(*v1alpha1.IPPool) // not carved yet
	empty.Spec.Network, empty.Spec.Subnet, empty.Spec.Size = c.name, c.name, &size
	c.create(t, empty)
	u.ask(t, "POST", app, map[string]any{"pool": empty.Name, "count": 2}).want(t, 409, nil, `"field":"pool"`, empty.Name, "has no addresses", "try again when")

	// What a pod had may be fixed; what it has may not.
	c.lease(t, "10.6.0.7", v1alpha1.LeaseReleased, nil)
	c.lease(t, "10.6.0.8", v1alpha1.LeaseBound, nil)
	u.ask(t, "POST", app, of("10.6.0.7")).want(t, 201, nil)
	u.ask(t, "POST", app, of("10.6.0.8")).want(t, 409, nil, "pod "+c.namespace+"/web-8 has it")
	l = lease(7)
	if c.exist(t, l); l.Spec.Phase != v1alpha1.LeaseReserved || l.Spec.Holder == nil {
		t.Errorf("%+v", l.Spec)
	}
	u.ask(t, "GET", app, nil).want(t, 200, &list)
	if len(list.Items) != 3 {
		t.Errorf("fixed are %+v", list.Items)
	}

	var gone Deletion
	path := func(last int) string { return fmt.Sprintf("%s/10.6.0.%d?network=%s", app, last, c.name) }
	u.ask(t, "DELETE", path(3), nil).want(t, 200, &gone)
	if there := c.exist(t, lease(3)); there != nil || !gone.Gone {
		t.Errorf("%v is there, %+v", there, gone)
	}
	u.ask(t, "DELETE", path(3), nil).want(t, 404, nil, "not found")
	u.ask(t, "DELETE", path(8), nil).want(t, 409, nil, "is not fixed to Deployment")
	c.lease(t, "10.6.0.9", v1alpha1.LeaseBound, &v1alpha1.LeaseIdentity{Kind: "Deployment", Namespace: c.namespace, Name: "web"})
	u.ask(t, "DELETE", path(9), nil).want(t, 200, &gone, "web-9 has it")
	l = lease(9)
	if c.exist(t, l); gone.Gone || l.Spec.Phase != v1alpha1.LeaseBound || l.Spec.Identity != nil || l.Labels[v1alpha1.LabelIdentity] != "" {
		t.Errorf("%+v: %+v", gone, l)
	}
}

// TestFixedTogether: many take free addresses of one pool at once, and no address is given twice.
func TestFixedTogether(t *testing.T) {
	c := newCluster(t)
	u := c.user(t)
	c.subnet(t, "10.6.0.0/24")
	c.pool(t, 10)
	var mu sync.Mutex
	var got []string
	refusals := 0
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s := u.ask(t, "POST", fmt.Sprintf("/v1/applications/%s/Deployment/web-%d/addresses", c.namespace, i), map[string]any{"pool": c.name, "count": 2})
			mu.Lock()
			defer mu.Unlock()
			if s.status == 409 {
				refusals++
				return
			}
			var list List[Lease]
			s.want(t, 201, &list)
			for _, l := range list.Items {
				got = append(got, l.Spec.Address)
			}
		})
	}
	wg.Wait()
	var all v1alpha1.IPLeaseList
	if err := c.admin.List(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	var there []string
	for i := range all.Items {
		if all.Items[i].Spec.Network == c.name {
			c.cleanUp(t, &all.Items[i])
			there = append(there, all.Items[i].Spec.Address)
		}
	}
	slices.Sort(got)
	slices.Sort(there)
	if diff := cmp.Diff(got, there); diff != "" || len(slices.Compact(got)) != len(there) || len(there) != 2*(8-refusals) {
		t.Errorf("%d refusals; answers and leases differ: %s", refusals, diff)
	}
}

// TestFixedUnheard: an address that is fixed, though the API server's answer was lost, is named.
func TestFixedUnheard(t *testing.T) {
	c := newCluster(t)
	u := c.user(t)
	c.subnet(t, "10.6.0.0/24")
	c.pool(t, 10)
	c.faulty(t, at(lost, "create ipleases"))
	app := "/v1/applications/" + c.namespace + "/Deployment/web/addresses"
	u.ask(t, "POST", app, map[string]any{"addresses": []string{"10.6.0.3"}, "pool": c.name}).want(t, 503, nil, "not available", "10.6.0.3 may be reserved", app)
	var list List[Lease]
	u.ask(t, "GET", app, nil).want(t, 200, &list)
	if len(list.Items) != 1 {
		t.Errorf("fixed are %+v", list.Items)
	}
	u.ask(t, "DELETE", app+"/10.6.0.3?network="+c.name, nil).want(t, 200, nil)
}

// lease of the test's pool.
func (c *cluster) lease(t *testing.T, address string, phase v1alpha1.LeasePhase, identity *v1alpha1.LeaseIdentity) {
	t.Helper()
	l := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: ipam.LeaseName(c.name, addr(address))}}
	l.Spec = v1alpha1.IPLeaseSpec{Network: c.name, Address: address, Pool: c.name, Phase: phase, Identity: identity}
	now := metav1.Now()
	switch phase {
	case v1alpha1.LeaseReleased:
		l.Spec.ReleasedAt = &now
		fallthrough
	case v1alpha1.LeaseBound:
		l.Spec.Holder = &v1alpha1.LeaseHolder{Namespace: c.namespace, Pod: "web-" + address[len("10.6.0."):], UID: "u", Node: "n", ContainerID: "c", Interface: "net1"}
	}
	c.create(t, l)
}
