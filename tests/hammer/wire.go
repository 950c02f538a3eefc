package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
)

// errWire is what a client sees of a connection that broke.
var errWire = errors.New("connection lost, says the hammer")

// wire between one program and the API server, with faults. Each life of the program has a conn of its own.
type wire struct {
	calm  atomic.Bool // no faults from now on
	cut   atomic.Bool // nothing goes through
	count func(what string)
	late  sync.WaitGroup // requests that arrive when their sender has long given up

	mu  sync.Mutex
	rng *rand.Rand
}

// conn is a wire as one life of a program has it: it ends with the program.
type conn struct {
	*wire
	dead  atomic.Bool
	ended chan struct{}
	end   func()

	killIn atomic.Int64 // writes until the program dies; 0: never
	answer atomic.Bool  // it dies between the write and its answer, not before the write
}

func (w *wire) connect() *conn {
	c := &conn{wire: w, ended: make(chan struct{})}
	c.end = sync.OnceFunc(func() { c.dead.Store(true); close(c.ended) })
	return c
}

// into a client's configuration.
func (c *conn) into(cfg *rest.Config) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			c.alive()
			resp, err := c.trip(next, r)
			c.alive()
			return resp, err
		})
	})
	return cfg
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// alive returns in a live program only. In a killed one the goroutine ends here, as all do when a process is killed: nothing that it
// would do next happens.
func (c *conn) alive() {
	if c.dead.Load() {
		runtime.Goexit()
	}
}

// chance takes the first fault whose share of a thousand contains the next random number.
func (w *wire) chance(faults ...fault) fault {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.rng.IntN(1000)
	for _, f := range faults {
		if n -= f.permille; n < 0 {
			if f.upTo > 0 {
				f.delay = time.Duration(w.rng.Int64N(int64(f.upTo)))
			}
			return f
		}
	}
	return fault{}
}

type fault struct {
	name     string
	permille int
	upTo     time.Duration // of delay
	delay    time.Duration
}

var (
	readFaults = []fault{{name: "delayed", permille: 30, upTo: 200 * time.Millisecond}, {name: "cut", permille: 10}, {name: "lost", permille: 5}}
	// Each fault of a write leaves the client in another doubt.
	writeFaults = []fault{
		{name: "delayed", permille: 60, upTo: 200 * time.Millisecond}, // the order of writes changes
		{name: "cut", permille: 15},                                   // the server never sees it
		{name: "lost", permille: 20},                                  // the server carries it out, the answer is lost
		{name: "late", permille: 10, upTo: 2 * time.Second},           // the server carries it out when the client has given up
		{name: "twice", permille: 15, upTo: 100 * time.Millisecond},   // the server gets it twice; the client has the first answer
		{name: "again", permille: 15},                                 // the server gets it twice; the client has the second answer
		{name: "broken", permille: 10},                                // 500, not carried out
		{name: "timeout", permille: 10},                               // 504, carried out
	}
	watchFaults = []fault{{name: "watch refused", permille: 20}}
	// of each piece of news
	newsFaults = []fault{{name: "watch stalled", permille: 6, upTo: 2 * time.Second}, {name: "watch cut", permille: 2}}
)

// isLock says whether a path is of leases, blocks or pools: what decides by its writes who has what.
func isLock(path string) bool {
	return !strings.HasSuffix(path, "/status") &&
		(strings.Contains(path, "/ipleases") || strings.Contains(path, "/ipblocks") || strings.Contains(path, "/ippools"))
}

func (c *conn) trip(next http.RoundTripper, r *http.Request) (*http.Response, error) {
	write := r.Method != http.MethodGet
	locks := isLock(r.URL.Path)
	if write && locks && c.killIn.Load() > 0 && c.killIn.Add(-1) == 0 {
		if c.answer.Load() {
			if resp, err := next.RoundTrip(r); err == nil {
				resp.Body.Close()
			}
		}
		c.end()
		c.alive()
	}
	for c.cut.Load() {
		if err := c.sleep(r.Context(), 50*time.Millisecond); err != nil || r.URL.Query().Get("watch") == "" {
			return nil, errors.Join(errWire, err)
		}
	}
	switch {
	case c.calm.Load():
		return next.RoundTrip(r)
	case r.URL.Query().Get("watch") != "":
		if f := c.chance(watchFaults...); f.name != "" {
			c.count(f.name)
			return nil, errWire
		}
		resp, err := next.RoundTrip(r)
		if err == nil {
			resp.Body = &news{resp.Body, c, r.Context()}
		}
		return resp, err
	case write && locks:
		return c.write(next, r, c.chance(writeFaults...))
	}
	return c.write(next, r, c.chance(readFaults...))
}

func (c *conn) write(next http.RoundTripper, r *http.Request, f fault) (*http.Response, error) {
	if f.name != "" {
		c.count("request " + f.name)
	}
	switch f.name {
	case "delayed":
		if err := c.sleep(r.Context(), f.delay); err != nil {
			return nil, err
		}
	case "cut":
		return nil, errWire
	case "lost":
		return nil, send(next, r)
	case "late", "twice":
		copied, err := copyOf(r, true)
		if err != nil {
			return nil, err
		}
		c.late.Go(func() {
			time.Sleep(f.delay)
			_ = send(next, copied)
		})
		if f.name == "late" {
			if t := httptrace.ContextClientTrace(r.Context()); t != nil && t.GotConn != nil {
				t.GotConn(httptrace.GotConnInfo{}) // what arrives has left: the client knows that it may
			}
			return nil, errWire
		}
	case "again":
		copied, err := copyOf(r, false)
		if err != nil {
			return nil, err
		}
		_ = send(next, copied)
	case "broken":
		return status(r, http.StatusInternalServerError, "InternalError"), nil
	case "timeout":
		_ = send(next, r)
		return status(r, http.StatusGatewayTimeout, "Timeout"), nil
	}
	return next.RoundTrip(r)
}

// send and lose the answer.
func send(next http.RoundTripper, r *http.Request) error {
	resp, err := next.RoundTrip(r)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return errWire
}

// copyOf a request, to be sent besides; one that outlives its sender ends by itself.
func copyOf(r *http.Request, outlives bool) (*http.Request, error) {
	ctx := r.Context()
	if outlives {
		ctx = context.WithoutCancel(ctx)
	}
	copied := r.Clone(ctx)
	if r.Body == nil {
		return copied, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body, copied.Body = io.NopCloser(bytes.NewReader(body)), io.NopCloser(bytes.NewReader(body))
	return copied, nil
}

func status(r *http.Request, code int, reason string) *http.Response {
	body := fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"says the hammer","reason":%q,"code":%d}`, reason, code)
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body))}
}

// sleep until d is over, ctx ends or the program dies.
func (c *conn) sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ended:
		return errWire
	case <-time.After(d):
		return nil
	}
}

// news are the bytes of a watch: they may come late, or no more.
type news struct {
	io.ReadCloser
	conn *conn
	ctx  context.Context
}

func (n *news) Read(p []byte) (int, error) {
	k, err := n.ReadCloser.Read(p)
	for n.conn.cut.Load() && n.conn.sleep(n.ctx, 50*time.Millisecond) == nil {
	}
	if n.conn.dead.Load() {
		return 0, io.ErrUnexpectedEOF
	}
	if n.conn.calm.Load() {
		return k, err
	}
	switch f := n.conn.chance(newsFaults...); f.name {
	case "watch stalled":
		n.conn.count(f.name)
		_ = n.conn.sleep(n.ctx, f.delay)
	case "watch cut":
		n.conn.count(f.name)
		return 0, io.ErrUnexpectedEOF
	}
	return k, err
}
