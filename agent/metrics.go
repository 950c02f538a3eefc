package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Names of the agent's metrics.
const (
	MetricRequests   = "berth_cni_requests_total"           // by verb and CNI error code, "0" for success
	MetricDuration   = "berth_cni_request_duration_seconds" // by verb
	MetricCollisions = "berth_claim_collisions_total"       // claims that met another holder and took the next address
	MetricEarly      = "berth_addresses_reused_early_total" // given out before their cooldown was over, for want of others
	MetricPackets    = "berth_path_packets_total"           // by vmac and verdict
)

type metrics struct {
	registry   *prometheus.Registry
	requests   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	collisions prometheus.Counter
	early      prometheus.Counter
}

func newMetrics(p servicePath, log *slog.Logger) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: MetricRequests,
			Help: "CNI verbs served, by verb and CNI error code (0: success)."}, []string{"verb", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: MetricDuration,
			Help: "Time that a CNI verb took in the agent.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}, []string{"verb"}),
		collisions: prometheus.NewCounter(prometheus.CounterOpts{Name: MetricCollisions,
			Help: "Claims that met another holder and took the next address."}),
		early: prometheus.NewCounter(prometheus.CounterOpts{Name: MetricEarly,
			Help: "Addresses given out before their cooldown was over, since no other was free."}),
	}
	m.registry.MustRegister(m.requests, m.duration, m.collisions, m.early, packets{p, log},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) request(verbPath, code string, begin time.Time) {
	verb := path.Base(verbPath)
	m.requests.WithLabelValues(verb, code).Inc()
	m.duration.WithLabelValues(verb).Observe(time.Since(begin).Seconds())
}

// packets reads the counters of the programs on vmac when asked.
type packets struct {
	path servicePath
	log  *slog.Logger
}

var packetsDesc = prometheus.NewDesc(MetricPackets, "Packets seen by the program on vmac, by its verdict.", []string{"vmac", "verdict"}, nil)

func (p packets) Describe(ch chan<- *prometheus.Desc) { ch <- packetsDesc }

func (p packets) Collect(ch chan<- prometheus.Metric) {
	all, err := p.path.Counters()
	if err != nil {
		p.log.Warn("packet counters", "err", err)
	}
	for vmac, counters := range all {
		for verdict, n := range counters {
			ch <- prometheus.MustNewConstMetric(packetsDesc, prometheus.CounterValue, float64(n), vmac, verdict)
		}
	}
}

// serve /metrics, /healthz and /readyz until ctx ends.
func (m *metrics) serve(ctx context.Context, address string, alive func(context.Context) error, ready func() bool) error {
	if address == "" {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := alive(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready() {
			http.Error(w, errNotReady.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	srv := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics on %s: %w", address, err)
	}
	return nil
}
