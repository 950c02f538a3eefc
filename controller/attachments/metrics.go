package attachments

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// Names of metrics.
const metricProblems = "berth_attachment_problems"

var problems = prometheus.NewGauge(prometheus.GaugeOpts{
	Name: metricProblems, Help: "NetworkAttachmentDefinitions for addresses of Berth of which a problem is known.",
})

func init() { metrics.Registry.MustRegister(problems) }

// bad networks by namespace/name.
var (
	badMu sync.Mutex
	bad   = map[string]bool{}
)

func observeProblem(network string, is bool) {
	badMu.Lock()
	defer badMu.Unlock()
	if is {
		bad[network] = true
	} else {
		delete(bad, network)
	}
	problems.Set(float64(len(bad)))
}

func dropProblem(network string) { observeProblem(network, false) }
