package subnets

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/carve"
)

// Names of metrics.
const (
	metricAddresses = "berth_subnet_addresses"
	metricCarved    = "berth_carve_ranges_total"
	metricConflicts = "berth_carve_conflicts_total"
	metricBlocks    = "berth_carve_blocks_total"
	metricClusters  = "berth_subnet_cluster_blocks"
)

var (
	subnetAddresses = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: metricAddresses, Help: "Addresses of a Subnet by family and state (total, free, carved, returning).",
	}, []string{"subnet", "family", "state"})
	carveRanges = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricCarved, Help: "Ranges that pools took from Subnets (taken), gave up (returned), and that became free again (forgotten).",
	}, []string{"what"})
	carveConflicts = prometheus.NewCounter(prometheus.CounterOpts{
		Name: metricConflicts, Help: "Writes of blocks that lost against another one, and were decided again.",
	})
	carveBlocks = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricBlocks, Help: "Blocks made and deleted.",
	}, []string{"what"})
	clusterBlocks = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: metricClusters, Help: "Blocks of a Subnet that another cluster has, in a hub.",
	}, []string{"subnet", "cluster"})

	blocksMade, blocksDeleted = carveBlocks.WithLabelValues("made"), carveBlocks.WithLabelValues("deleted")
	addressesForgotten        = carveRanges.WithLabelValues("forgotten")
)

func init() {
	metrics.Registry.MustRegister(subnetAddresses, carveRanges, carveConflicts, carveBlocks, clusterBlocks)
}

func observe(d carve.Decision) {
	carveRanges.WithLabelValues("taken").Add(float64(len(d.Take)))
	carveRanges.WithLabelValues("returned").Add(float64(len(d.Return) + len(d.Strays)))
}

func observeSubnet(s *v1alpha1.Subnet) {
	clusterBlocks.DeletePartialMatch(prometheus.Labels{"subnet": s.Name})
	for _, n := range s.Status.Clusters {
		clusterBlocks.WithLabelValues(s.Name, n.Name).Set(float64(n.Blocks))
	}
	for family, c := range map[string]*v1alpha1.SubnetCount{"IPv4": s.Status.IPv4, "IPv6": s.Status.IPv6} {
		if c == nil {
			subnetAddresses.DeletePartialMatch(prometheus.Labels{"subnet": s.Name, "family": family})
			continue
		}
		for state, n := range map[string]string{"total": c.Total, "free": c.Free, "carved": c.Carved, "returning": c.Returning} {
			f, _ := strconv.ParseFloat(n, 64) // "" is none; metrics need no more than 53 bits
			subnetAddresses.WithLabelValues(s.Name, family, state).Set(f)
		}
	}
}

func dropMetrics(subnet string) {
	clusterBlocks.DeletePartialMatch(prometheus.Labels{"subnet": subnet})
	subnetAddresses.DeletePartialMatch(prometheus.Labels{"subnet": subnet})
}
