package netspaces

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// Names of metrics.
const metricNetspaces = "berth_netspaces"

var count = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: metricNetspaces, Help: "Netspaces by whether they are ready.",
}, []string{"ready"})

func init() { metrics.Registry.MustRegister(count) }

// ready netspaces, and those that are not, by name.
var (
	readyMu sync.Mutex
	ready   = map[string]bool{}
)

func observe(name string, is bool) {
	readyMu.Lock()
	defer readyMu.Unlock()
	ready[name] = is
	recount()
}

func dropMetrics(name string) {
	readyMu.Lock()
	defer readyMu.Unlock()
	delete(ready, name)
	recount()
}

func recount() {
	n := 0
	for _, is := range ready {
		if is {
			n++
		}
	}
	count.WithLabelValues("true").Set(float64(n))
	count.WithLabelValues("false").Set(float64(len(ready) - n))
}
