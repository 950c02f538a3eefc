//go:build apiserver

package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/testr"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	clientgo "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// cluster is a real API server with Berth's CRDs, Multus' CRD, Berth's roles, and the REST API beside it.
type cluster struct {
	admin client.Client
	url   string
	http  *http.Client
	spec  *spec
	// namespace of the test's own, and what its objects are called.
	namespace, name string

	config  *clientgo.Config
	certDir string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	cfg := apitest.Config(t)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, nadv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	bare, err := client.New(cfg, client.Options{Scheme: runtime.NewScheme()})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"deploy/manifests/00-namespace.yaml", "deploy/manifests/20-controller-rbac.yaml", "tests/cluster/manifests/yaml/network-attachment-definition.yaml"} {
		apply(t, bare, "../../"+file)
	}
	c := &cluster{config: cfg, spec: readSpec(t), name: apitest.Unique("rest")}
	c.namespace = c.name
	if c.admin, err = client.New(cfg, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "attachments are served", func() error { return c.admin.List(t.Context(), &nadv1.NetworkAttachmentDefinitionList{}) })
	c.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.namespace}})
	c.serve(t, cfg, func(s *Server) {})
	return c
}

// serve the REST API with the rights of the controller's account, and no others.
func (c *cluster) serve(t *testing.T, cfg *clientgo.Config, change func(*Server)) {
	t.Helper()
	rc := clientgo.CopyConfig(cfg)
	rc.Impersonate = clientgo.ImpersonationConfig{
		UserName: "system:serviceaccount:berth-system:berth-controller",
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:berth-system", "system:authenticated"},
	}
	s, err := New(rc, Config{Address: "127.0.0.1:0", CertDir: c.certDir, Namespace: "berth-system"}, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	change(s)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	roots := x509.NewCertPool()
	cert, err := s.cert.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(cert.Leaf)
	c.url = "https://" + s.Addr().String()
	c.http = &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}}
	t.Cleanup(c.http.CloseIdleConnections)
}

func testLog(t *testing.T) logr.Logger { return testr.NewWithOptions(t, testr.Options{}) }

func apply(t *testing.T, c client.Client, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq(string(data), "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatal(err)
		}
		if u.Object == nil {
			continue
		}
		if err := c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("test"), client.ForceOwnership); err != nil {
			t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
	}
}

// create an object for the length of the test.
func (c *cluster) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := c.admin.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	c.cleanUp(t, o)
}

// cleanUp an object that the test makes, or has made for it.
func (c *cluster) cleanUp(t *testing.T, all ...client.Object) {
	t.Helper()
	t.Cleanup(func() {
		for _, o := range all {
			if err := c.admin.Delete(context.Background(), o, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		}
	})
}

func named1(kind client.Object, name string) client.Object {
	kind.SetName(name)
	return kind
}

// user is somebody with a token.
type user struct {
	c     *cluster
	token string
}

// user with these rules bound to a service account of his own; nil: those of berth-network-admin.
func (c *cluster) user(t *testing.T, rules ...rbacv1.PolicyRule) *user {
	t.Helper()
	name := apitest.Unique(c.name)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: c.namespace}}
	c.create(t, account)
	role := "berth-network-admin"
	if rules != nil {
		role = name
		c.create(t, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: role}, Rules: rules})
	}
	c.create(t, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: c.namespace, Name: name}}})
	if rules == nil {
		rules = []rbacv1.PolicyRule{allow(subnets, "create")} // that role has it among others
	}
	for _, rule := range rules { // the API server's authorizer follows roles by a watch
		c.granted(t, account, rule)
	}
	return &user{c: c, token: c.token(t, account, 3600)}
}

func (c *cluster) granted(t *testing.T, account *corev1.ServiceAccount, rule rbacv1.PolicyRule) {
	t.Helper()
	apitest.Eventually(t, "the right is known", func() error {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:" + account.Namespace + ":" + account.Name,
			Groups:             []string{"system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{Group: rule.APIGroups[0], Resource: rule.Resources[0], Verb: rule.Verbs[0]},
		}}
		if err := c.admin.Create(t.Context(), review); err != nil {
			return err
		}
		if !review.Status.Allowed {
			return errors.New("not yet")
		}
		return nil
	})
}

func (c *cluster) token(t *testing.T, account *corev1.ServiceAccount, seconds int64) string {
	t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	if err := c.admin.SubResource("token").Create(t.Context(), account, request); err != nil {
		t.Fatal(err)
	}
	return request.Status.Token
}

// allow is a rule.
func allow(kind resource, verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{kind.group}, Resources: []string{kind.plural}, Verbs: verbs}
}

// said is an answer.
type said struct {
	status int
	header http.Header
	body   []byte
}

// ask and check the answer against the document.
func (u *user) ask(t testing.TB, method, path string, body any, header ...string) said {
	t.Helper()
	var text []byte
	switch b := body.(type) {
	case nil:
	case string:
		text = []byte(b)
	case []byte:
		text = b
	default:
		var err error
		if text, err = json.Marshal(b); err != nil {
			t.Fatal(err)
		}
	}
	r, err := http.NewRequest(method, u.c.url+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if u.token != "" {
		r.Header.Set("Authorization", "Bearer "+u.token)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := u.c.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	u.c.spec.check(t, r, resp, data)
	return said{resp.StatusCode, resp.Header, data}
}

// want the status and these words, and decode the answer into to unless that is nil.
func (s said) want(t testing.TB, status int, to any, words ...string) said {
	t.Helper()
	if s.status != status {
		t.Fatalf("status %d, want %d: %s", s.status, status, s.body)
	}
	for _, w := range words {
		if !strings.Contains(string(s.body), w) {
			t.Errorf("%q is not in %s", w, s.body)
		}
	}
	if status >= 400 && !strings.HasPrefix(s.header.Get("Content-Type"), problemType) {
		t.Errorf("content type %q of a problem", s.header.Get("Content-Type"))
	}
	if to != nil {
		if err := json.Unmarshal(s.body, to); err != nil {
			t.Fatalf("%v: %s", err, s.body)
		}
	}
	return s
}

// exist says which of these objects are there.
func (c *cluster) exist(t *testing.T, all ...client.Object) (names []string) {
	t.Helper()
	for _, o := range all {
		err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(o), o)
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		if err == nil {
			names = append(names, fmt.Sprintf("%T", o))
		}
	}
	return names
}
