package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgo "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// everybody may do everything.
type everybody struct{ client.Client }

func (everybody) Create(_ context.Context, o client.Object, _ ...client.CreateOption) error {
	switch o := o.(type) {
	case *authenticationv1.TokenReview:
		o.Status.Authenticated, o.Status.User.Username = true, "anybody"
	case *authorizationv1.SubjectAccessReview:
		o.Status.Allowed = true
	}
	return nil
}

// backend is what stands for the API server: it takes what it is given, has nothing, and counts writes.
type backend struct {
	mu     sync.Mutex
	writes int
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodGet {
		if parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/"); len(parts) > 4 {
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404,"message":"not found"}`)
			return
		}
		_, _ = io.WriteString(w, `{"items":[]}`)
		return
	}
	if r.URL.Query().Get("dryRun") == "" {
		b.mu.Lock()
		b.writes++
		b.mu.Unlock()
	}
	_, _ = io.Copy(w, r.Body)
}

// newTestServer answers without Kubernetes.
func newTestServer(t testing.TB) (http.Handler, *backend) {
	t.Helper()
	b := &backend{}
	srv := httptest.NewServer(b)
	t.Cleanup(srv.Close)
	callers, err := newCallers(&clientgo.Config{Host: srv.URL, ContentConfig: clientgo.ContentConfig{ContentType: runtime.ContentTypeJSON}})
	if err != nil {
		t.Fatal(err)
	}
	a := &api{door: newDoor(everybody{}), client: callers, log: logr.Discard()}
	return a.handler(), b
}

func send(h http.Handler, method, path string, body io.Reader, header ...string) (*http.Request, *http.Response, []byte) {
	r := httptest.NewRequest(method, path, body)
	r.Header.Set("Authorization", "Bearer token")
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return r, w.Result(), w.Body.Bytes()
}

func TestBodies(t *testing.T) {
	h, b := newTestServer(t)
	spec := readSpec(t)
	good := `{"name": "n", "subnet": {"cidrs": [{"cidr": "10.6.0.0/24"}]}}`
	for _, tc := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		says                     string
	}{
		{"empty", "POST", "/v1/networks", "", nil, 400, "body"},
		{"no JSON", "POST", "/v1/networks", "{", nil, 400, "one JSON object"},
		{"rest behind it", "POST", "/v1/networks", good + "}", nil, 400, "one JSON object"},
		{"a list", "POST", "/v1/networks", "[]", nil, 422, "expected object"},
		{"null", "POST", "/v1/networks", "null", nil, 422, "expected object"},
		{"a key twice", "POST", "/v1/networks", `{"name": "a", "name": "b", "subnet": {"cidrs": [{"cidr": "10.6.0.0/24"}]}}`, nil, 400, "duplicate"},
		{"other case", "POST", "/v1/networks", `{"Name": "n", "subnet": {"cidrs": [{"cidr": "10.6.0.0/24"}]}}`, nil, 422, `"field":"Name"`},
		{"too large", "POST", "/v1/networks", `{"name": "` + strings.Repeat("n", maxBody) + `"}`, nil, 413, "too large"},
		{"deep", "POST", "/v1/networks", strings.Repeat("[", 100_000), nil, 400, ""},
		{"form", "POST", "/v1/networks", "name=n", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "send application/json"},
		{"number too large", "PATCH", "/v1/pools/a", `{"size": 99999999999999999999}`, nil, 422, "size"},
		{"half a number", "PATCH", "/v1/pools/a", `{"size": 1.5}`, nil, 422, "size"},
		{"bad name", "PATCH", "/v1/pools/Upper_case", `{"size": 1}`, nil, 422, "path.name"},
		{"bad dry run", "POST", "/v1/networks?dryRun=maybe", good, nil, 422, "query.dryRun"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, resp, body := send(h, tc.method, tc.path, strings.NewReader(tc.body), tc.header...)
			if resp.StatusCode != tc.status || !strings.Contains(string(body), tc.says) {
				t.Errorf("status %d, want %d with %q: %.500s", resp.StatusCode, tc.status, tc.says, body)
			}
			if len(body) > 4096 {
				t.Errorf("an answer of %d bytes", len(body))
			}
			spec.check(t, r, resp, body)
		})
	}
	if b.writes != 0 {
		t.Errorf("%d writes by requests that were refused", b.writes)
	}
	if _, resp, body := send(h, "POST", "/v1/networks", strings.NewReader(good)); resp.StatusCode != http.StatusCreated || b.writes != 1 {
		t.Errorf("status %d, %d writes: %s", resp.StatusCode, b.writes, body)
	}
}

func TestNoRoute(t *testing.T) {
	h, _ := newTestServer(t)
	for _, tc := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/", 404, ""},
		{"GET", "/v1/secrets", 404, ""},
		{"GET", "/v1/networks/a/b/c", 404, ""},
		{"GET", "/v1/pools/..%2fsecrets", 422, ""},
		{"PUT", "/v1/networks", 405, "GET, HEAD, POST"},
		{"DELETE", "/v1/pools", 405, "GET, HEAD, POST"},
	} {
		_, resp, body := send(h, tc.method, tc.path, nil)
		var p Problem
		if err := json.Unmarshal(body, &p); err != nil || resp.StatusCode != tc.status || p.Status != tc.status || resp.Header.Get("Allow") != tc.allow ||
			resp.Header.Get("Content-Type") != problemType {
			t.Errorf("%s %s: %d %v %s", tc.method, tc.path, resp.StatusCode, resp.Header, body)
		}
	}
}

// TestConcurrent: more requests than are served are told to come again.
func TestConcurrent(t *testing.T) {
	a := &api{door: newDoor(everybody{}), log: logr.Discard()}
	var entered sync.WaitGroup
	entered.Add(maxConcurrent)
	leave := make(chan struct{})
	h := a.guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { entered.Done(); <-leave }))
	var done sync.WaitGroup
	for range maxConcurrent {
		done.Go(func() { send(h, "GET", "/", nil) })
	}
	entered.Wait()
	if _, resp, body := send(h, "GET", "/", nil); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	close(leave)
	done.Wait()
}

// FuzzBodies: whatever is sent gets an answer that the document describes, never a failure of the server, and a refusal writes nothing.
func FuzzBodies(f *testing.F) {
	routes := []struct{ method, path string }{
		{"POST", "/v1/networks"}, {"POST", "/v1/pools"}, {"PATCH", "/v1/pools/a"}, {"POST", "/v1/applications/demo/Deployment/web/addresses"},
	}
	for i := range routes {
		for _, body := range []string{"", "{}", "[1]", `{"size": 3}`, `{"name": "n", "subnet": {"cidrs": [{"cidr": "10.6.0.0/24"}]}}`,
			`{"name":"n","subnet":{"vlan":910,"cidrs":[{"cidr":"fd00::/64","reserved":["fd00::1"]}],"attachments":{"namespaces":["a"]}},"links":{"bond":{"name":"bond0","members":["a","b"]},"vlans":[1]}}`,
			`{"name": "p", "spec": {"subnets": [{"cidr": "10.6.0.0/24"}], "delegate": {"type": "dhcp", "config": {"a": [1]}}}}`,
			`{"addresses": ["10.6.0.1", "fd00::1"], "network": "a", "pod": "x"}`, `{"count": 3, "pool": "p"}`, "\x00", `{"name": null}`} {
			f.Add(i, []byte(body))
		}
	}
	h, b := newTestServer(f)
	spec := readSpec(f)
	f.Fuzz(func(t *testing.T, route int, body []byte) {
		to := routes[uint(route)%uint(len(routes))]
		before := b.writes
		r, resp, answer := send(h, to.method, to.path, bytes.NewReader(body))
		if resp.StatusCode >= 500 {
			t.Errorf("%d: %s", resp.StatusCode, answer)
		}
		if resp.StatusCode >= 400 && b.writes != before {
			t.Errorf("refused, and written: %s", answer)
		}
		spec.check(t, r, resp, answer)
	})
}
