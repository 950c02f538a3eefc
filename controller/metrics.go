package controller

import (
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
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

// shownPools has the network of each pool of which there are metrics: they are found by all of their labels, since a search by one of
// them looks at those of all pools.
var shownPools sync.Map

func observePool(p *v1alpha1.IPPool) {
	if before, ok := shownPools.Swap(p.Name, p.Spec.Network); ok && before != p.Spec.Network { // made anew
		dropPoolAddresses(p.Name, before.(string))
	}
	for family, c := range map[string]*v1alpha1.AddressCount{"IPv4": p.Status.IPv4, "IPv6": p.Status.IPv6} {
		counts := map[string]float64{}
		if c != nil {
			counts["bound"], counts["reserved"], counts["quarantined"] = float64(c.Bound), float64(c.Reserved), float64(c.Quarantined)
			if c.Total != notCounted {
				counts["total"], counts["free"] = float(c.Total), float(c.Free)
			}
		}
		for _, state := range poolStates {
			if n, ok := counts[state]; ok {
				poolAddresses.WithLabelValues(p.Name, p.Spec.Network, family, state).Set(n)
			} else {
				poolAddresses.DeleteLabelValues(p.Name, p.Spec.Network, family, state)
			}
		}
	}
}

// poolStates of addresses in metrics.
var poolStates = []string{"total", "free", "bound", "reserved", "quarantined"}

func dropPoolMetrics(pool string) {
	if network, ok := shownPools.LoadAndDelete(pool); ok {
		dropPoolAddresses(pool, network.(string))
	}
}

func dropPoolAddresses(pool, network string) {
	for _, family := range ipam.Families {
		for _, state := range poolStates {
			poolAddresses.DeleteLabelValues(pool, network, string(family), state)
		}
	}
}

// float of a decimal count; metrics need no more than its 53 bits.
func float(decimal string) float64 {
	f, err := strconv.ParseFloat(decimal, 64)
	if err != nil {
		return 0
	}
	return f
}
