//go:build apiserver

package apitest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Faults between a client and the API server.
type Faults struct {
	mu   sync.Mutex
	away bool
	do   map[string]Fault
	gate chan struct{} // nil: watches flow
	held string        // part of the URIs of those that do not

	waits map[string]chan struct{} // by method: closed when its requests may go on

	refused string // part of a path
	code    int

	version string // of lists; "": as they are
}

// Fault of one kind of request.
type Fault int

// What may go wrong.
const (
	None   Fault = iota
	Lost         // the server carries it out, the answer is lost
	Cut          // the server never sees it
	Broken       // 500
	Denied       // 403
	Panic        // of the client itself
)

// ErrFault is what the client sees of Lost and Cut.
var ErrFault = errors.New("connection lost, says the test")

// Set what happens to all requests of a method ("POST", "PUT", "GET") from now on.
func (f *Faults) Set(method string, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.do == nil {
		f.do = map[string]Fault{}
	}
	f.do[method] = fault
}

// Refuse all requests whose path has this in it, watches too, with 403 or 404; 0 ends that.
func (f *Faults) Refuse(path string, code int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused, f.code = path, code
}

func (f *Faults) refuses(r *http.Request) *http.Response {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.code == 0 || !strings.Contains(r.URL.Path, f.refused):
		return nil
	case f.code == http.StatusForbidden:
		return status(r, f.code, metav1.StatusReasonForbidden)
	}
	return status(r, f.code, metav1.StatusReasonNotFound)
}

// Restore the server from a backup of this version, as far as lists of leases say.
func (f *Faults) Restore(version string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version = version
}

var listVersion = regexp.MustCompile(`"metadata":\{[^{}]*"resourceVersion":"[0-9]+"`)

// aged is the answer as a restored server gives it.
func (f *Faults) aged(resp *http.Response) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.version == "" {
		return resp, nil
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if first := listVersion.FindIndex(body); err == nil && first != nil {
		body = slices.Concat(body[:first[0]], []byte(`"metadata":{"resourceVersion":"`+f.version+`"`), body[first[1]:])
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp, err
}

// SetAway has no request of any kind reach the server, and no watch tell anything, until it is set back.
func (f *Faults) SetAway(away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = away
}

func (f *Faults) isAway() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.away
}

// HoldWatches keeps back what watches tell whose URI has this in it, until the function returned is called.
func (f *Faults) HoldWatches(uri string) (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	gate := make(chan struct{})
	f.gate, f.held = gate, uri
	return sync.OnceFunc(func() { close(gate) })
}

// Hold all requests of a method for leases, before the server sees them, until the function returned is called.
func (f *Faults) Hold(method string) (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	gate := make(chan struct{})
	if f.waits == nil {
		f.waits = map[string]chan struct{}{}
	}
	f.waits[method] = gate
	return sync.OnceFunc(func() { close(gate) })
}

// Into a client's configuration.
func (f *Faults) Into(cfg *rest.Config) *rest.Config {
	return Wrap(cfg, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
		if f.isAway() {
			return nil, ErrFault
		}
		if resp := f.refuses(r); resp != nil {
			return resp, nil
		}
		if r.URL.Query().Get("watch") != "" {
			resp, err := next.RoundTrip(r)
			if err == nil {
				resp.Body = &gated{resp.Body, f, r}
			}
			return resp, err
		}
		f.mu.Lock()
		fault, gate := f.do[r.Method], f.waits[r.Method]
		f.mu.Unlock()
		if !strings.Contains(r.URL.Path, "/ipleases") {
			fault, gate = None, nil
		}
		if gate != nil {
			select {
			case <-gate:
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
		switch fault {
		case Cut:
			return nil, ErrFault
		case Broken:
			return status(r, 500, metav1.StatusReasonInternalError), nil
		case Panic:
			panic("says the test")
		case Denied:
			return status(r, 403, metav1.StatusReasonForbidden), nil
		}
		resp, err := next.RoundTrip(r)
		if fault == Lost && err == nil {
			resp.Body.Close()
			return nil, ErrFault
		}
		if err == nil && r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/ipleases") {
			return f.aged(resp)
		}
		return resp, err
	})
}

// Wrap a client's requests.
func Wrap(cfg *rest.Config, trip func(next http.RoundTripper, r *http.Request) (*http.Response, error)) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) { return trip(next, r) })
	})
	return cfg
}

// Count requests of a kind.
func Count(n *atomic.Int64, of func(*http.Request) bool) func(*rest.Config) *rest.Config {
	return func(cfg *rest.Config) *rest.Config {
		return Wrap(cfg, func(next http.RoundTripper, r *http.Request) (*http.Response, error) {
			if of(r) {
				n.Add(1)
			}
			return next.RoundTrip(r)
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func status(r *http.Request, code int, reason metav1.StatusReason) *http.Response {
	body := fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"says the test","reason":%q,"code":%d}`, reason, code)
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader([]byte(body)))}
}

// gated holds back the bytes of a watch.
type gated struct {
	io.ReadCloser
	faults  *Faults
	request *http.Request
}

func (g *gated) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	if g.faults.isAway() {
		return 0, ErrFault
	}
	g.faults.mu.Lock()
	gate, held := g.faults.gate, g.faults.held
	g.faults.mu.Unlock()
	if gate != nil && strings.Contains(g.request.URL.RequestURI(), held) {
		select {
		case <-gate:
		case <-g.request.Context().Done():
		}
	}
	return n, err
}
