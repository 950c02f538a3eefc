package hub

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// Names of metrics.
const (
	metricUp     = "berth_hub_up"
	metricBlocks = "berth_hub_blocks"
	metricClaims = "berth_hub_claims_total"
)

var (
	hubUp = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: metricUp, Help: "1 while the hub can be asked for blocks.",
	})
	hubBlocks = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: metricBlocks, Help: "Blocks of the hub's Subnets here by state: held, disputed (another cluster holds it, too), lost (another cluster's in the hub), unfinished (being claimed or returned).",
	}, []string{"state"})
	hubClaims = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: metricClaims, Help: "Blocks asked for in the hub by result: claimed, taken (another cluster was faster), failed.",
	}, []string{"result"})
)

func init() { metrics.Registry.MustRegister(hubUp, hubBlocks, hubClaims) }
