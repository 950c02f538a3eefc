//go:build apiserver

package rest

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// network of the test: an L2 domain of its own, a bond, a VLAN, an attachment.
func (c *cluster) network(cidr string) map[string]any {
	return map[string]any{
		"name": c.name,
		"subnet": map[string]any{"network": c.name, "vlan": 910, "cidrs": []any{map[string]any{"cidr": cidr, "gateway": "10.6.0.1"}},
			"attachments": map[string]any{"namespaces": []string{c.namespace}}},
		"links": map[string]any{"bond": map[string]any{"name": "bond0", "members": []string{"eth1", "eth2"}}},
	}
}

func (c *cluster) objects() []client.Object {
	at := &nadv1.NetworkAttachmentDefinition{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: c.name}}
	return []client.Object{named1(&v1alpha1.Subnet{}, c.name), named1(&v1alpha1.HostNetwork{}, c.name), at}
}

func TestNetworkLifecycle(t *testing.T) {
	c := newCluster(t)
	u := c.user(t)
	c.cleanUp(t, c.objects()...)
	var n Network

	u.ask(t, "POST", "/v1/networks?dryRun=true", c.network("10.6.0.0/24")).want(t, 201, &n, "bond0.910")
	if there := c.exist(t, c.objects()...); there != nil {
		t.Fatalf("a dry run has made %v", there)
	}
	u.ask(t, "POST", "/v1/networks", c.network("10.6.0.0/24")).want(t, 201, &n)
	if n.Subnet.Spec.Parent != "bond0.910" || len(n.Links.Spec.VLANs) != 1 || n.Links.Spec.Bond.Mode != "active-backup" || len(n.Attachments) != 1 {
		t.Errorf("made %+v", n)
	}
	all := c.objects()
	if there := c.exist(t, all...); len(there) != 3 {
		t.Fatalf("only %v are there", there)
	}
	for _, o := range all {
		if o.GetLabels()[v1alpha1.LabelManagedBy] == "" || o.GetManagedFields()[0].Manager != manager {
			t.Errorf("%T has labels %v and manager %q", o, o.GetLabels(), o.GetManagedFields()[0].Manager)
		}
	}
	u.ask(t, "POST", "/v1/networks", c.network("10.6.0.0/24")).want(t, 409, nil, "exists")
	other := c.network("10.6.0.128/25")
	other["name"] = c.name + "-b"
	u.ask(t, "POST", "/v1/networks", other).want(t, 409, nil, "subnet.cidrs[0].cidr", "overlaps 10.6.0.0/24")
	wire := c.network("10.6.1.0/24")
	wire["subnet"].(map[string]any)["cidrs"] = []any{map[string]any{"cidr": "10.6.1.0/24"}}
	wire["name"], wire["subnet"].(map[string]any)["network"] = c.name+"-b", c.name+"-b"
	u.ask(t, "POST", "/v1/networks", wire).want(t, 409, nil, `"field":"subnet.vlan"`, `"value":910`, "VLAN 910 on bond0.910 is of the L2 domain", "take another VLAN, or write subnet.network: "+c.name)

	u.ask(t, "GET", "/v1/networks/"+c.name, nil).want(t, 200, &n, `"type":"macvlan"`, `"master":"bond0.910"`)
	if n.Links == nil || len(n.Attachments) != 1 || n.Attachments[0].Namespace != c.namespace || n.Pools != nil {
		t.Errorf("inspected %+v", n)
	}
	var list List[Network]
	u.ask(t, "GET", "/v1/networks?limit=500", nil).want(t, 200, &list)
	if !slices.ContainsFunc(list.Items, func(n Network) bool { return n.Name == c.name }) {
		t.Errorf("%s is not in the list", c.name)
	}

	pool := named1(&v1alpha1.IPPool{}, c.name).(*v1alpha1.IPPool)
	size := int32(10)
	pool.Spec.Network, pool.Spec.Subnet, pool.Spec.Size = c.name, c.name, &size
	c.create(t, pool)
	u.ask(t, "DELETE", "/v1/networks/"+c.name, nil).want(t, 409, nil, "pools are carved from", c.name)
	if there := c.exist(t, c.objects()...); len(there) != 3 {
		t.Fatalf("refused, and yet only %v are there", there)
	}
	if err := c.admin.Delete(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	var gone Deletion
	u.ask(t, "DELETE", "/v1/networks/"+c.name+"?dryRun=true", nil).want(t, 200, &gone)
	if there := c.exist(t, c.objects()...); len(there) != 3 {
		t.Fatalf("after a dry run only %v are there", there)
	}
	s := named1(&v1alpha1.Subnet{}, c.name)
	c.exist(t, s)
	s.SetFinalizers([]string{"test.berth.dev/wait"})
	if err := c.admin.Update(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	u.ask(t, "DELETE", "/v1/networks/"+c.name, nil).want(t, 200, &gone)
	if there := c.exist(t, c.objects()...); gone.Gone || len(there) != 3 {
		t.Errorf("%+v, and only %v are there while the Subnet waits", gone, there)
	}
	c.exist(t, s)
	s.SetFinalizers(nil)
	if err := c.admin.Update(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	u.ask(t, "DELETE", "/v1/networks/"+c.name, nil).want(t, 404, nil)
	c.withRest(t, u)
}

// withRest makes the network anew and deletes it: what it is made of goes at once.
func (c *cluster) withRest(t *testing.T, u *user) {
	t.Helper()
	for _, o := range c.objects()[1:] { // Kubernetes would collect them; there is no such controller here
		if err := c.admin.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	u.ask(t, "POST", "/v1/networks", c.network("10.6.0.0/24")).want(t, 201, nil)
	var gone Deletion
	u.ask(t, "DELETE", "/v1/networks/"+c.name, nil).want(t, 200, &gone)
	if there := c.exist(t, c.objects()...); !gone.Gone || there != nil {
		t.Errorf("%+v, and there are %v", gone, there)
	}
	u.ask(t, "GET", "/v1/networks/"+c.name, nil).want(t, 404, nil, "not found")
}

// TestNetworkHalfWay: what cannot be made whole is not made at all.
func TestNetworkHalfWay(t *testing.T) {
	c := newCluster(t)
	c.cleanUp(t, c.objects()...)
	u := c.user(t)
	at := c.objects()[2].(*nadv1.NetworkAttachmentDefinition)
	at.Spec.Config = `{"somebody": "else's"}`
	c.create(t, at)
	u.ask(t, "POST", "/v1/networks", c.network("10.6.0.0/24")).want(t, 409, nil, "NetworkAttachmentDefinition", "exists", `"field":"subnet.attachments.namespaces"`)
	if there := c.exist(t, c.objects()[:2]...); there != nil {
		t.Errorf("there are %v", there)
	}
	if there := c.exist(t, at); there == nil || at.Spec.Config != `{"somebody": "else's"}` {
		t.Errorf("what was somebody else's is %+v", at)
	}

	// No attachment may be made in this namespace: refused before anything is begun.
	n := c.network("10.6.0.0/24")
	poor := c.user(t, allow(subnets, "*"), allow(hostNetworks, "*"))
	poor.ask(t, "POST", "/v1/networks", n).want(t, 403, nil, "create network-attachment-definitions.k8s.cni.cncf.io in namespace")
	noUndo := c.user(t, allow(subnets, "*"), allow(hostNetworks, "create"), allow(attachments, "*"))
	noUndo.ask(t, "POST", "/v1/networks", n).want(t, 403, nil, "delete hostnetworks.berth.dev")
	n["subnet"].(map[string]any)["attachments"] = map[string]any{"namespaces": []string{"absent-" + c.name}}
	u.ask(t, "POST", "/v1/networks", n).want(t, 404, nil, "absent-"+c.name)
	if there := c.exist(t, c.objects()[:2]...); there != nil {
		t.Errorf("there are %v", there)
	}
}

// TestNetworkFailsAtTheEnd: the API server refuses the attachment when the Subnet and the HostNetwork are there already.
func TestNetworkFailsAtTheEnd(t *testing.T) {
	for _, tc := range []struct {
		name   string
		fault  func(verb string, r resource) fault
		status int
		says   string
		left   int
	}{
		{"refused", at(refused, "create network-attachment-definitions"), 403, "says the test", 0},
		{"links refused", at(refused, "create hostnetworks"), 403, "says the test", 0},
		{"answer lost", at(lost, "create network-attachment-definitions"), 503, "not available", 0},
		{"not even deleted", at(refused, "create network-attachment-definitions", "delete subnets"), 403, "could not be deleted again: subnets", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCluster(t)
			c.cleanUp(t, c.objects()...)
			u := c.user(t)
			c.faulty(t, tc.fault)
			u.ask(t, "POST", "/v1/networks", c.network("10.6.0.0/24")).want(t, tc.status, nil, tc.says)
			if there := c.exist(t, c.objects()...); len(there) != tc.left {
				t.Errorf("there are %v, want %d", there, tc.left)
			}
		})
	}
}

// TestNetworkTogether: of many identical creations at once one wins, and the others leave nothing.
func TestNetworkTogether(t *testing.T) {
	c := newCluster(t)
	c.cleanUp(t, c.objects()...)
	u := c.user(t)
	var mu sync.Mutex
	count := map[int]int{}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			s := u.ask(t, "POST", "/v1/networks", c.network("10.6.0.0/24"))
			mu.Lock()
			defer mu.Unlock()
			count[s.status]++
		})
	}
	wg.Wait()
	if count[201] != 1 || count[409] != 19 {
		t.Errorf("statuses %v, want 1 time 201 and 19 times 409", count)
	}
	if there := c.exist(t, c.objects()...); len(there) != 3 {
		t.Errorf("there are %v", there)
	}
}

func TestNetworkRefused(t *testing.T) {
	c := newCluster(t)
	u := c.user(t)
	for _, tc := range []struct {
		name   string
		change func(n, subnet, links map[string]any)
		status int
		says   []string
	}{
		{"host bits", func(_, s, _ map[string]any) { s["cidrs"] = []any{map[string]any{"cidr": "10.6.0.1/24"}} }, 422,
			[]string{`"field":"subnet.cidrs[0].cidr"`, `"value":"10.6.0.1/24"`, `"remedy":"write 10.6.0.0/24"`}},
		{"gateway outside", func(_, s, _ map[string]any) {
			s["cidrs"] = []any{map[string]any{"cidr": "10.6.0.0/24", "gateway": "10.7.0.1"}}
		}, 422, []string{`"field":"subnet.cidrs[0].gateway"`, `"detail":"gateway 10.7.0.1 is not inside the cidr 10.6.0.0/24"`, `"remedy":"name the address that the router has there"`}},
		{"VLAN", func(_, s, _ map[string]any) { s["vlan"] = 4095 }, 422, []string{`"field":"subnet.vlan"`, `"value":4095`}},
		{"bond of one", func(_, _, l map[string]any) {
			l["bond"] = map[string]any{"name": "bond0", "members": []string{"eth1"}}
		}, 422, []string{`"field":"links.bond.members"`}},
		{"unknown field", func(n, _, _ map[string]any) { n["color"] = "red" }, 422, []string{`"field":"color"`, "remove it"}},
		{"unknown field below", func(_, s, _ map[string]any) { s["vlanID"] = 3 }, 422, []string{`"field":"subnet.vlanID"`}},
		{"other case", func(_, s, _ map[string]any) { s["VLAN"] = 3 }, 422, []string{`"field":"subnet.VLAN"`}},
		{"no name", func(n, _, _ map[string]any) { delete(n, "name") }, 422, []string{"name"}},
		{"bad name", func(n, _, _ map[string]any) { n["name"] = "Web_1" }, 422, []string{`"field":"name"`, `"value":"Web_1"`}},
		{"no CIDR", func(_, s, _ map[string]any) { s["cidrs"] = []any{} }, 422, []string{`"field":"subnet.cidrs"`}},
		{"VLAN of no link", func(_, _, l map[string]any) { l["vlans"] = []int{911} }, 422, []string{`"field":"links.vlans"`, "add 910"}},
		{"other parent", func(_, s, _ map[string]any) { s["parent"] = "eth0" }, 422, []string{`"field":"subnet.parent"`, "write bond0.910"}},
		{"no parent", func(n, _, _ map[string]any) { delete(n, "links") }, 422, []string{`"field":"subnet.attachments"`, "name it in parent"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := c.network("10.6.0.0/24")
			tc.change(n, n["subnet"].(map[string]any), n["links"].(map[string]any))
			u.ask(t, "POST", "/v1/networks", n).want(t, tc.status, nil, tc.says...)
			if there := c.exist(t, c.objects()...); there != nil {
				t.Errorf("there are %v", there)
			}
		})
	}
}

func TestNetworkPages(t *testing.T) {
	c := newCluster(t)
	u := c.user(t)
	for i := range 5 {
		s := named1(&v1alpha1.Subnet{}, fmt.Sprintf("%s-%d", c.name, i)).(*v1alpha1.Subnet)
		s.Spec = v1alpha1.SubnetSpec{Network: c.name, CIDRs: []v1alpha1.SubnetCIDR{{CIDR: fmt.Sprintf("10.7.%d.0/24", i)}}}
		c.create(t, s)
	}
	seen := map[string]int{}
	for path, last := "/v1/networks?limit=2", false; !last; {
		var list List[Network]
		u.ask(t, "GET", path, nil).want(t, 200, &list)
		for _, n := range list.Items {
			seen[n.Name]++
		}
		path, last = "/v1/networks?limit=2&continue="+list.Continue, list.Continue == ""
	}
	for i := range 5 {
		if n := seen[fmt.Sprintf("%s-%d", c.name, i)]; n != 1 {
			t.Errorf("network %d was seen %d times", i, n)
		}
	}
	u.ask(t, "GET", "/v1/networks?limit=0", nil).want(t, 422, nil, `"field":"query.limit"`)
	u.ask(t, "GET", "/v1/networks?limits=3", nil).want(t, 422, nil, "query.limits")
	u.ask(t, "GET", "/v1/networks?continue=rubbish", nil).want(t, 400, nil, "continue")
}
