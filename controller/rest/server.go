package rest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/go-logr/logr"
	clientgo "k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
)

// Config of the server.
type Config struct {
	// Address to serve on, HTTPS only; "0" or "" for none.
	Address string
	// CertDir has tls.crt and tls.key; "" or empty: a certificate made at each start.
	CertDir string
	// Namespace of the Service, for the names in such a certificate.
	Namespace string
}

// Off as an address: no server.
const Off = "0"

// What a client can take of the server.
const (
	requestTimeout = 30 * time.Second
	headerTimeout  = 5 * time.Second
	maxHeader      = 64 << 10 // bytes
	maxConcurrent  = 64       // requests; who is more is told to come again
	maxBody        = 1 << 20  // bytes
)

// Server of the API. It needs no leader.
type Server struct {
	cfg      Config
	log      logr.Logger
	cert     *certificate
	api      *api
	handler  http.Handler
	listener net.Listener
}

// Add the server to the manager, if it is to run.
func Add(mgr ctrl.Manager, cfg Config) error {
	if cfg.Address == "" || cfg.Address == Off {
		return nil
	}
	s, err := New(mgr.GetConfig(), cfg, mgr.GetLogger().WithName("rest"))
	if err != nil {
		return err
	}
	return mgr.Add(s)
}

// New server, which listens from now on and serves from Start on. The account of rc may create TokenReviews and SubjectAccessReviews;
// for anything else it is not used.
func New(rc *clientgo.Config, cfg Config, log logr.Logger) (*Server, error) {
	cert, err := newCertificate(cfg.CertDir, cfg.Namespace, time.Now())
	if err != nil {
		return nil, fmt.Errorf("REST API: %w", err)
	}
	reviews, err := newReviews(rc)
	if err != nil {
		return nil, fmt.Errorf("REST API: %w", err)
	}
	callers, err := newCallers(rc)
	if err != nil {
		return nil, fmt.Errorf("REST API: %w", err)
	}
	a := &api{door: newDoor(reviews), client: callers, log: log, now: time.Now}
	s := &Server{cfg: cfg, log: log, cert: cert, api: a, handler: a.handler()}
	if s.listener, err = net.Listen("tcp", cfg.Address); err != nil {
		return nil, fmt.Errorf("REST API: %w; --rest-address names another address, or 0 for none", err)
	}
	return s, nil
}

// Addr that the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// NeedLeaderElection implements manager.LeaderElectionRunnable: each replica serves.
func (s *Server) NeedLeaderElection() bool { return false }

// Start serves until ctx ends, and lets requests that are under way come to their end.
func (s *Server) Start(ctx context.Context) error {
	if s.cert.watch != nil {
		go func() {
			if err := s.cert.watch(ctx); err != nil {
				s.log.Error(err, "a renewed certificate will not be seen; restart the controller then", "dir", s.cfg.CertDir)
			}
		}()
	} else {
		s.log.Info("serving with a certificate of this process; give one by a Secret for clients that verify", "pinnedpubkey", s.cert.pin)
	}
	srv := &http.Server{
		Handler:           s.handler,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.cert.get, NextProtos: []string{"h2", "http/1.1"}},
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      2 * requestTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(logr.ToSlogHandler(s.log.V(1)), slog.LevelDebug), // who breaks off a handshake is no news
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = srv.Shutdown(end) // what takes longer is cut off
	}()
	if err := srv.ServeTLS(s.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("REST API: %w", err)
	}
	<-done
	return nil
}

// guard lets in at most maxConcurrent requests of known callers, each for requestTimeout.
func (a *api) guard(next http.Handler) http.Handler {
	slots := make(chan struct{}, maxConcurrent)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			problem(http.StatusServiceUnavailable, "%d requests are being served; try again", maxConcurrent).with("Retry-After", "1").write(w)
			return
		}
		defer func() {
			if p := recover(); p != nil {
				a.log.Error(fmt.Errorf("%v", p), "panic while serving; please report it", "method", r.Method, "path", r.URL.Path, "stack", string(debug.Stack()))
				problem(http.StatusInternalServerError, "a bug: %v; please report it", p).write(w)
			}
		}()
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		r = r.WithContext(ctx)
		if r.URL.Path != documentPath {
			c, p := a.door.enter(r)
			if p != nil {
				p.write(w)
				return
			}
			r = r.WithContext(context.WithValue(ctx, callerKey{}, c))
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody+1)
		next.ServeHTTP(w, r)
	})
}
