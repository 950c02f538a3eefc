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
	MetricKnown      = "berth_journal_answers_total"        // ADDs answered from the journal
	MetricLost       = "berth_journal_addresses_lost_total" // used by a pod, and another's by now
	MetricPending    = "berth_journal_pending"              // writes that the API has not acknowledged, by kind
	MetricReleased   = "berth_agent_gc_released_total"      // by reason
	MetricInDoubt    = "berth_agent_gc_in_doubt"            // by reason
	MetricFast       = "berth_fast_mode"                    // 1 where the node has it
	MetricFastCalls  = "berth_fast_mode_calls_total"        // of pods to Services, by outcome
	MetricPackets    = "berth_path_packets_total"           // by vmac and verdict
	MetricApart      = "berth_tenants_dropped_total"        // packets between tenants, by vmac
	MetricSightings  = "berth_path_sightings_total"         // by vmac and outcome: users of watched addresses
	MetricRefused    = "berth_source_guard_refused_total"   // frames of pods, by reason
	MetricGuards     = "berth_source_guard_interfaces"      // by state
	MetricFence      = "berth_source_guard_fence"           // 1 where pods are kept from going around it
	MetricDenied     = "berth_source_guard_denied_total"    // calls of pods that would, by reason
	MetricConflicts  = "berth_conflicts_total"              // written down by this node, by what the address was
	MetricLimited    = "berth_conflicts_limited_total"      // not written down: too many
	MetricLinks      = "berth_hostnetwork_ready"            // by HostNetwork: 1 if its links are as they should be
)

type metrics struct {
	registry   *prometheus.Registry
	requests   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	collisions prometheus.Counter
	early      prometheus.Counter
	conflicts  *prometheus.CounterVec
	limited    prometheus.Counter
	known      prometheus.Counter
	lost       prometheus.Counter
	released   *prometheus.CounterVec
	inDoubt    *prometheus.GaugeVec

	hostNetworks *prometheus.GaugeVec
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
		known: prometheus.NewCounter(prometheus.CounterOpts{Name: MetricKnown,
			Help: "ADDs answered from the journal, since the Kubernetes API did not answer."}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{Name: MetricLost,
			Help: "Addresses that a pod uses, by the journal, and whose lease is another's by now."}),
		released: prometheus.NewCounterVec(prometheus.CounterOpts{Name: MetricReleased,
			Help: "Leases of this node freed since their pod and sandbox were gone and no DEL had come."}, []string{"reason"}),
		inDoubt: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: MetricInDoubt,
			Help: "Leases of this node kept although their pod is gone."}, []string{"reason"}),
		conflicts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: MetricConflicts,
			Help: "Address conflicts that this node has written into leases, by what the address was."}, []string{"address"}),
		limited: prometheus.NewCounter(prometheus.CounterOpts{Name: MetricLimited,
			Help: "Address conflicts that were not written down, since there were too many."}),
		hostNetworks: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: MetricLinks,
			Help: "Whether the links of a HostNetwork are as they should be on this node."}, []string{"hostnetwork"}),
	}
	m.registry.MustRegister(m.requests, m.duration, m.collisions, m.early, m.conflicts, m.limited,
		m.known, m.lost, m.released, m.inDoubt, m.hostNetworks,
		counted{packetsDesc, p.Counters, log}, counted{sightingsDesc, p.Sightings, log},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) request(verbPath, code string, begin time.Time) {
	verb := path.Base(verbPath)
	m.requests.WithLabelValues(verb, code).Inc()
	m.duration.WithLabelValues(verb).Observe(time.Since(begin).Seconds())
}

// pending counts what the journal holds for the API when asked.
type pending struct{ *Agent }

var pendingDesc = prometheus.NewDesc(MetricPending, "Writes that the Kubernetes API has not acknowledged.", []string{"write"}, nil)

func (p pending) Describe(ch chan<- *prometheus.Desc) { ch <- pendingDesc }

func (p pending) Collect(ch chan<- prometheus.Metric) {
	rebinds := 0
	for _, e := range p.journal.Entries() {
		if e.Rebind() {
			rebinds++
		}
	}
	for write, n := range map[string]int{"rebind": rebinds, "release": len(p.journal.Releases())} {
		ch <- prometheus.MustNewConstMetric(pendingDesc, prometheus.GaugeValue, float64(n), write)
	}
}

// counted reads counters of the programs on vmacs when asked.
type counted struct {
	desc *prometheus.Desc // labels: vmac, and what is counted
	read func() (map[string]map[string]uint64, error)
	log  *slog.Logger
}

var (
	packetsDesc   = prometheus.NewDesc(MetricPackets, "Packets seen by the program on vmac, by its verdict.", []string{"vmac", "verdict"}, nil)
	sightingsDesc = prometheus.NewDesc(MetricSightings, "Users of pools' addresses heard by the program on vmac, by what became of the news.", []string{"vmac", "outcome"}, nil)
)

func (c counted) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c counted) Collect(ch chan<- prometheus.Metric) {
	all, err := c.read()
	if err != nil {
		c.log.Warn("counters of programs", "err", err)
	}
	for vmac, counters := range all {
		for what, n := range counters {
			ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(n), vmac, what)
		}
	}
}

// guardCounts reads the source guard when asked.
type guardCounts struct{ *Agent }

var (
	refusedDesc = prometheus.NewDesc(MetricRefused, "Frames of pods that the source guard dropped, by reason.", []string{"reason"}, nil)
	guardsDesc  = prometheus.NewDesc(MetricGuards, "Macvlan interfaces of pods, by whether they are kept to their leases.", []string{"state"}, nil)
	fenceDesc   = prometheus.NewDesc(MetricFence, "Whether pods are kept from going around their source guard on this node.", nil, nil)
	deniedDesc  = prometheus.NewDesc(MetricDenied, "Calls of pods by which frames would go around their source guard, by reason.", []string{"reason"}, nil)
)

func (g guardCounts) Describe(ch chan<- *prometheus.Desc) {
	ch <- refusedDesc
	ch <- guardsDesc
	ch <- fenceDesc
	ch <- deniedDesc
}

func (g guardCounts) Collect(ch chan<- prometheus.Metric) {
	refused, err := g.guards.Counters()
	if err != nil {
		g.log.Warn("counters of the source guard", "err", err)
	}
	for reason, n := range refused {
		ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(n), reason)
	}
	for state, n := range g.guards.States() {
		ch <- prometheus.MustNewConstMetric(guardsDesc, prometheus.GaugeValue, float64(n), state)
	}
	denied, err := g.guards.Denials()
	if err != nil {
		g.log.Warn("counters of the source guard's fence", "err", err)
	}
	if why, known := g.guards.Unfenced(); known {
		ch <- prometheus.MustNewConstMetric(fenceDesc, prometheus.GaugeValue, map[bool]float64{true: 1}[why == nil])
	}
	for reason, n := range denied {
		ch <- prometheus.MustNewConstMetric(deniedDesc, prometheus.CounterValue, float64(n), reason)
	}
}

// keptApart reads what was dropped between tenants when asked.
type keptApart struct{ *Agent }

var apartDesc = prometheus.NewDesc(MetricApart, "Packets that came in by a vmac for another tenant's pod, and were dropped.", []string{"vmac"}, nil)

func (k keptApart) Describe(ch chan<- *prometheus.Desc) { ch <- apartDesc }

func (k keptApart) Collect(ch chan<- prometheus.Metric) {
	dropped, err := k.path.KeptApart()
	if err != nil {
		k.log.Warn("what is dropped between tenants", "err", err)
	}
	for vmac, n := range dropped {
		ch <- prometheus.MustNewConstMetric(apartDesc, prometheus.CounterValue, float64(n), vmac)
	}
}

// fastCounts reads the counters of fast mode when asked.
type fastCounts struct{ *Agent }

var (
	fastDesc      = prometheus.NewDesc(MetricFast, "Whether sockets of pods connect to backends of Services themselves on this node.", nil, nil)
	fastCallsDesc = prometheus.NewDesc(MetricFastCalls, "Calls of pods' sockets to Services, by what became of them.", []string{"outcome"}, nil)
)

func (f fastCounts) Describe(ch chan<- *prometheus.Desc) {
	ch <- fastDesc
	ch <- fastCallsDesc
}

func (f fastCounts) Collect(ch chan<- prometheus.Metric) {
	if f.fast == nil {
		ch <- prometheus.MustNewConstMetric(fastDesc, prometheus.GaugeValue, 0)
		return
	}
	ch <- prometheus.MustNewConstMetric(fastDesc, prometheus.GaugeValue, 1)
	calls, err := f.fast.Counters()
	if err != nil {
		f.log.Warn("counters of fast mode", "err", err)
	}
	for outcome, n := range calls {
		ch <- prometheus.MustNewConstMetric(fastCallsDesc, prometheus.CounterValue, float64(n), outcome)
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
