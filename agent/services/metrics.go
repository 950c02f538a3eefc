package services

import "github.com/prometheus/client_golang/prometheus"

// sinkMetrics of one sink.
type sinkMetrics struct {
	took   prometheus.Histogram // seconds from an event's arrival to its being carried out
	errors prometheus.Counter
}

func newSinkMetrics(name string) sinkMetrics {
	of := prometheus.Labels{"sink": name}
	return sinkMetrics{
		took: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "berth_services_change_duration_seconds", ConstLabels: of,
			Help: "Time from the arrival of a change of a Service or its endpoints to its being carried out, by sink.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 18)}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{Name: "berth_services_errors_total", ConstLabels: of,
			Help: "Changes that a sink did not carry out and that were tried again."}),
	}
}

// Collectors of the metrics.
func (s *Services) Collectors() []prometheus.Collector {
	gauge := func(name, help string, of func(services, endpoints int) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help},
			func() float64 { return float64(of(s.state.counts())) })
	}
	out := []prometheus.Collector{
		gauge("berth_services_known", "Services with frontends.", func(services, _ int) int { return services }),
		gauge("berth_services_endpoints", "Endpoints in the EndpointSlices of Services.", func(_, endpoints int) int { return endpoints }),
	}
	for _, k := range s.sinks {
		out = append(out, k.metrics.took, k.metrics.errors)
	}
	return out
}
