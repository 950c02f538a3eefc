package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/berthdev/berth/agent/journal"
	"github.com/berthdev/berth/delegate"
)

// verbTimeout bounds a verb. It is below the plugin's own, so that the answer says what was waited for.
const verbTimeout = 30 * time.Second

// serve the plugin on the socket until ctx ends.
func (a *Agent) serve(ctx context.Context) error {
	l, err := listen(a.cfg.Socket)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	for path, verb := range map[string]verb{
		delegate.PathAdd:    a.addInVersion,
		delegate.PathDel:    func(c call) (any, error) { return nothing{}, a.del(c) },
		delegate.PathCheck:  func(c call) (any, error) { return nothing{}, a.check(c) },
		delegate.PathGC:     func(c call) (any, error) { return nothing{}, a.gc(c) },
		delegate.PathStatus: func(c call) (any, error) { return nothing{}, a.status(c) },
	} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { a.handle(w, r, verb) })
	}
	mux.HandleFunc("GET "+delegate.PathState, a.tellState)

	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx) // lets running verbs end
	})()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", a.cfg.Socket, err)
	}
	<-ended // Serve does not wait for Shutdown
	return nil
}

// call of a verb. What it has begun to write it ends, even if the plugin is killed meanwhile (the kubelet's patience is
// limited): a write given up half way would leave in doubt whether the address is given.
type call struct {
	context.Context // ends after verbTimeout
	*delegate.Request
	caller context.Context // ends when the plugin goes away
}

type verb func(call) (any, error)

type nothing struct{}

// addInVersion answers in the version that the configuration asks for: the plugin prints it as it is.
func (a *Agent) addInVersion(c call) (any, error) {
	res, err := a.add(c)
	if err != nil {
		return nil, err
	}
	return delegate.InVersionOf(c.Config, res)
}

// status: an agent that does not know the API yet serves those whom its journal knows.
func (a *Agent) status(c call) error {
	if a.isReady() {
		return a.statusOf(c)
	}
	if slices.ContainsFunc(a.journal.Entries(), (*journal.Entry).Answered) {
		return nil
	}
	return errNotReady
}

// aliveTimeout bounds how long the socket may take to say anything.
const aliveTimeout = 5 * time.Second

// alive asks for STATUS as the plugin does. Any answer will do: an agent that waits for the API server is alive.
func (a *Agent) alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, aliveTimeout)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.cfg.Socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://berth"+delegate.PathStatus, strings.NewReader("{}"))
	if err != nil {
		return err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("the socket does not answer: %w", err)
	}
	return res.Body.Close()
}

// listen on a unix socket that only root may open.
func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier run: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", socket, err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (a *Agent) handle(w http.ResponseWriter, r *http.Request, verb verb) {
	begin := time.Now()
	answer, err := a.do(r, verb)
	code := http.StatusOK
	if runs := (toRun)(nil); errors.As(err, &runs) {
		answer, code = runs, delegate.StatusRun
	} else if err != nil {
		e := cniError(err, r.URL.Path == delegate.PathStatus)
		a.log.Warn("refused", "verb", r.URL.Path, "code", e.Code, "err", err)
		answer, code = e, http.StatusInternalServerError
		a.metrics.request(r.URL.Path, fmt.Sprint(e.Code), begin)
	} else {
		a.metrics.request(r.URL.Path, "0", begin)
	}
	body, err := json.Marshal(answer)
	if err != nil {
		a.log.Error("answer", "verb", r.URL.Path, "err", err)
		body, code = []byte("{}"), http.StatusInternalServerError // which the plugin calls malformed
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(code)
	if _, err := w.Write(body); err != nil {
		a.log.Warn("answer not delivered", "verb", r.URL.Path, "err", err)
	}
}

// do a verb.
func (a *Agent) do(r *http.Request, verb verb) (answer any, err error) {
	err = a.caught(func() (err error) {
		answer, err = a.try(r, verb)
		return err
	})()
	return answer, err
}

// caught makes a panic of f its error: one pod must not take the agent of all with it.
func (a *Agent) caught(f func() error) func() error {
	return func() (err error) {
		defer func() {
			if p := recover(); p != nil {
				a.log.Error("panic", "panic", p, "stack", string(debug.Stack()))
				err = fmt.Errorf("panic in berth-agent: %v; its log has the stack, please report it", p)
			}
		}()
		return f()
	}
}

func (a *Agent) try(r *http.Request, verb verb) (any, error) {
	var req delegate.Request
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return nil, badConfig{fmt.Errorf("request: %w", err)}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), verbTimeout)
	defer cancel()
	return verb(call{ctx, &req, r.Context()})
}
