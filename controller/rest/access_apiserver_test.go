//go:build apiserver

package rest

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/carve"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/tests/tokens"
)

func TestTokens(t *testing.T) {
	c := newCluster(t)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: apitest.Unique("gone"), Namespace: c.namespace}}
	c.create(t, account)
	gone := c.token(t, account, 600)
	if err := c.admin.Delete(t.Context(), account); err != nil {
		t.Fatal(err)
	}
	good := c.user(t).token
	key := filepath.Join(filepath.Dir(os.Getenv("KUBECONFIG_APISERVER")), "pki", "service-accounts.key")
	ending := func(in time.Duration) string {
		token, err := tokens.Ending(good, key, time.Now().Add(in))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	parts := strings.Split(good, ".")
	for _, tc := range []struct{ name, header, says string }{
		{"none", "", "no token"},
		{"empty", "Bearer ", "no token"},
		{"other scheme", "Basic dXNlcjpwYXNz", "no token"},
		{"rubbish", "Bearer rubbish", "not, or no longer, valid"},
		{"two words", "Bearer a b", "none of the Kubernetes API"},
		{"too long", "Bearer " + strings.Repeat("a", longest+1), "none of the Kubernetes API"},
		{"signature of another", "Bearer " + parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])), "not, or no longer, valid"},
		{"account deleted", "Bearer " + gone, "not, or no longer, valid"},
		{"expired", "Bearer " + ending(-5*time.Minute), "expired"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for range 2 { // from the API server, and from what is remembered of it
				var header []string
				if tc.header != "" {
					header = []string{"Authorization", tc.header}
				}
				s := (&user{c: c}).ask(t, "GET", "/v1/pools", nil, header...).want(t, 401, nil, tc.says, "kubectl create token")
				if !strings.HasPrefix(s.header.Get("WWW-Authenticate"), "Bearer") {
					t.Errorf("WWW-Authenticate %q", s.header.Get("WWW-Authenticate"))
				}
			}
		})
	}
	for _, token := range []string{good, ending(time.Minute)} {
		(&user{c: c, token: token}).ask(t, "GET", "/v1/pools", nil).want(t, 200, nil)
	}
	// The document is for everybody.
	resp, err := c.http.Get(c.url + documentPath)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", resp, err)
	}
	resp.Body.Close()
}

// TestAccess: each operation asks for rights on the very objects that it touches, and a caller without one is told which. One who has
// exactly these rights gets through.
func TestAccess(t *testing.T) {
	c := newCluster(t)
	c.cleanUp(t, c.objects()...)
	c.subnet(t, "10.6.0.0/24")
	c.pool(t, 10)
	lease := &v1alpha1.IPLease{ObjectMeta: metav1.ObjectMeta{Name: c.name + ".10.6.0.9"}}
	lease.Spec = v1alpha1.IPLeaseSpec{Network: c.name, Address: "10.6.0.9", Phase: v1alpha1.LeaseReserved,
		Identity: &v1alpha1.LeaseIdentity{Kind: "Deployment", Namespace: c.namespace, Name: "web"}}
	c.create(t, lease)
	other := c.name + "-x"
	app := "/v1/applications/" + c.namespace + "/Deployment/web/addresses"
	ledger := []rbacv1.PolicyRule{allow(subnets, "get"), allow(blocks, "list"), allow(pools, "list")}
	for _, tc := range []struct {
		method, path string
		body         any
		need         []rbacv1.PolicyRule
		status       int
	}{
		{"GET", "/v1/networks", nil, []rbacv1.PolicyRule{allow(subnets, "list")}, 200},
		{"GET", "/v1/networks/" + c.name, nil, []rbacv1.PolicyRule{allow(subnets, "get"), allow(hostNetworks, "list"), allow(attachments, "list"), allow(pools, "list")}, 200},
		{"GET", "/v1/networks/" + c.name + "/free", nil, ledger, 200},
		{"GET", "/v1/networks/" + c.name + "/carve?size=3", nil, ledger, 200},
		{"POST", "/v1/networks?dryRun=true", map[string]any{"name": other, "subnet": map[string]any{"network": other, "cidrs": []any{map[string]any{"cidr": "10.6.0.0/24"}}}},
			[]rbacv1.PolicyRule{allow(subnets, "list"), allow(subnets, "create")}, 201},
		{"DELETE", "/v1/networks/" + c.name + "?dryRun=true", nil, []rbacv1.PolicyRule{allow(subnets, "get"), allow(subnets, "delete"), allow(pools, "list"),
			allow(hostNetworks, "list"), allow(attachments, "list")}, 409},
		{"GET", "/v1/pools", nil, []rbacv1.PolicyRule{allow(pools, "list")}, 200},
		{"GET", "/v1/pools/" + c.name, nil, []rbacv1.PolicyRule{allow(pools, "get")}, 200},
		{"GET", "/v1/pools/" + c.name + "/free", nil, []rbacv1.PolicyRule{allow(pools, "get"), allow(leases, "list")}, 200},
		{"POST", "/v1/pools?dryRun=true", map[string]any{"name": other, "spec": map[string]any{"network": c.name, "subnet": c.name, "size": 4}},
			append([]rbacv1.PolicyRule{allow(pools, "create")}, ledger...), 201},
		{"PATCH", "/v1/pools/" + c.name + "?dryRun=true", map[string]any{"size": 20}, append([]rbacv1.PolicyRule{allow(pools, "get"), allow(pools, "patch")}, ledger...), 200},
		{"PATCH", "/v1/pools/" + c.name + "?dryRun=true", map[string]any{"size": 5}, []rbacv1.PolicyRule{allow(pools, "get"), allow(pools, "patch"), allow(leases, "list")}, 200},
		{"DELETE", "/v1/pools/" + c.name + "?dryRun=true", nil, []rbacv1.PolicyRule{allow(pools, "get"), allow(pools, "delete")}, 200},
		{"GET", "/v1/addresses", nil, []rbacv1.PolicyRule{allow(leases, "list")}, 200},
		{"GET", "/v1/addresses/10.6.0.9?network=" + c.name, nil, []rbacv1.PolicyRule{allow(leases, "get"), allow(blocks, "get"), allow(pools, "list")}, 200},
		{"GET", app, nil, []rbacv1.PolicyRule{allow(leases, "list")}, 200},
		{"POST", app + "?dryRun=true", map[string]any{"addresses": []string{"10.6.0.5"}, "network": c.name},
			[]rbacv1.PolicyRule{allow(pools, "list"), allow(leases, "get"), allow(leases, "create"), allow(leases, "update"), allow(leases, "delete")}, 201},
		{"DELETE", app + "/10.6.0.9?dryRun=true&network=" + c.name, nil, []rbacv1.PolicyRule{allow(leases, "get"), allow(leases, "delete"), allow(leases, "update")}, 200},
	} {
		t.Run(tc.method+" "+tc.path, func(t *testing.T) {
			c.user(t, tc.need...).ask(t, tc.method, tc.path, tc.body).want(t, tc.status, nil)
			for i, missing := range tc.need {
				rest := append(append([]rbacv1.PolicyRule{}, tc.need[:i]...), tc.need[i+1:]...)
				if len(rest) == 0 {
					rest = []rbacv1.PolicyRule{allow(resource{"", "pods"}, "get")}
				}
				c.user(t, rest...).ask(t, tc.method, tc.path, tc.body).
					want(t, 403, nil, "may not "+missing.Verbs[0]+" "+missing.Resources[0]+"."+missing.APIGroups[0], "system:serviceaccount:"+c.namespace)
			}
		})
	}
}

// TestOwnRights: the controller's account may ask who calls, and not read or write for him.
func TestOwnRights(t *testing.T) {
	c := newCluster(t)
	u := c.user(t, allow(resource{"", "pods"}, "get"))
	// The door lets everything pass; the API server does not.
	c.serve(t, apitest.Connect(t), func(s *Server) { s.api.door.reviews = yes{s.api.door.reviews} })
	for _, path := range []string{"/v1/pools", "/v1/networks", "/v1/addresses"} {
		u.ask(t, "GET", path, nil).want(t, 403, nil, "forbidden", "system:serviceaccount:"+c.namespace)
	}
}

// yes is an API server that allows everything, if it is only asked.
type yes struct{ client.Client }

func (y yes) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	if review, ok := o.(*authorizationv1.SubjectAccessReview); ok {
		review.Status.Allowed = true
		return nil
	}
	return y.Client.Create(ctx, o, opts...)
}

// subnet of the test's own L2 domain.
func (c *cluster) subnet(t *testing.T, cidrs ...string) {
	t.Helper()
	s := named1(&v1alpha1.Subnet{}, c.name).(*v1alpha1.Subnet)
	s.Spec.Network = c.name
	for _, cidr := range cidrs {
		s.Spec.CIDRs = append(s.Spec.CIDRs, v1alpha1.SubnetCIDR{CIDR: cidr})
	}
	c.create(t, s)
}

// pool with the addresses .1 to .size of 10.6.0.0/24, and the block that says so: what the controller would have carved.
func (c *cluster) pool(t *testing.T, size int32) {
	t.Helper()
	p := named1(&v1alpha1.IPPool{}, c.name).(*v1alpha1.IPPool)
	first, last := addr("10.6.0.1"), addr("10.6.0.0")
	for range size {
		last = last.Next()
	}
	ips := ipam.Range{From: first, To: last}.String()
	p.Spec.Network, p.Spec.Subnet, p.Spec.Size = c.name, c.name, &size
	p.Spec.Subnets = []v1alpha1.PoolSubnet{{CIDR: "10.6.0.0/24", IPs: []string{ips}}}
	c.create(t, p)
	b := named1(&v1alpha1.IPBlock{}, carve.Name(c.name, addr("10.6.0.0"))).(*v1alpha1.IPBlock)
	b.Spec = v1alpha1.IPBlockSpec{Network: c.name, First: "10.6.0.0", Parts: []v1alpha1.IPBlockPart{{IPs: ips, Subnet: c.name, Pool: c.name}}}
	c.create(t, b)
}
