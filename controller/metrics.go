package controller

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/berthdev/berth/api/v1alpha1"
)

// Names of metrics.
const (
	metricReleased      = "berth_gc_released_total"
	metricUnreserved    = "berth_gc_reservations_ended_total"
	metricUnquarantined = "berth_gc_quarantines_ended_total"
	metricForgotten     = "berth_gc_forgotten_total"
	metricInDoubt       = "berth_gc_in_doubt"
	metricSuspects      = "berth_gc_suspects"
	metricAddresses     = "berth_pool_addresses"
)

var (
	gcReleased = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricReleased, Help: "Leases freed because their pod was gone, by reason.",
	}, []string{"reason"})
	gcUnreserved = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricUnreserved, Help: "Reserved leases given up because their identity had ended, by reason.",
	}, []string{"reason"})
	gcUnquarantined = prometheus.NewCounter(prometheus.CounterOpts{
		Name: metricUnquarantined, Help: "Quarantined leases given out again after the time of silence.",
	})
	gcForgotten = prometheus.NewCounter(prometheus.CounterOpts{
		Name: metricForgotten, Help: "Released leases deleted after the time for which they are remembered.",
	})
	gcInDoubt = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: metricInDoubt, Help: "Leases kept because nothing proves their pod, or the owner of their identity, gone, by reason.",
	}, []string{"reason"})
	gcSuspects = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: metricSuspects, Help: "Leases whose pod, or owner, was gone at the last look, and that wait for the second one.",
	})
	poolAddresses = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: metricAddresses, Help: "Addresses of a pool by family and state (total, free, bound, reserved, quarantined).",
	}, []string{"pool", "network", "family", "state"})
)

func init() {
	metrics.Registry.MustRegister(gcReleased, gcUnreserved, gcUnquarantined, gcForgotten, gcInDoubt, gcSuspects, poolAddresses)
}

func observePool(p *v1alpha1.IPPool) {
	dropPoolMetrics(p.Name)
	for family, c := range map[string]*v1alpha1.AddressCount{"IPv4": p.Status.IPv4, "IPv6": p.Status.IPv6} {
		if c == nil {
			continue
		}
		set := func(state string, n float64) {
			poolAddresses.WithLabelValues(p.Name, p.Spec.Network, family, state).Set(n)
		}
		if c.Total != notCounted {
			set("total", float(c.Total))
			set("free", float(c.Free))
		}
		set("bound", float64(c.Bound))
		set("reserved", float64(c.Reserved))
		set("quarantined", float64(c.Quarantined))
	}
}

func dropPoolMetrics(pool string) { poolAddresses.DeletePartialMatch(prometheus.Labels{"pool": pool}) }

// float of a decimal count; metrics need no more than its 53 bits.
func float(decimal string) float64 {
	f, err := strconv.ParseFloat(decimal, 64)
	if err != nil {
		return 0
	}
	return f
}
