//go:build apiserver

package agent

import (
	"testing"

	"github.com/berthdev/berth/delegate"
)

// An agent without service path gives addresses, with the gateway of their subnet as with steering Never, and frees them.
func TestNoServicePath(t *testing.T) {
	r := newRig(t, `a: {steering: Always, subnets: [{cidr: 10.6.0.0/24, gateway: 10.6.0.1, ips: ["10.6.0.7"]}]}`)
	r.stop()
	r.conf.NoServicePath = true
	r.start()
	p := r.pod("one", "berth.dev/ippool=$a")
	res, err := r.call(t.Context(), delegate.PathAdd, request(p, "s1", "eth0", macvlan))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.IPs) != 1 || res.IPs[0].Address.String() != "10.6.0.7/24" || res.IPs[0].Gateway.String() != "10.6.0.1" {
		t.Errorf("addresses %v", res.IPs)
	}
	for _, route := range res.Routes {
		if route.Dst.String() != "0.0.0.0/0" {
			t.Errorf("a route of the service path: %v", route)
		}
	}
	r.wantBound("10.6.0.7 one/eth0/s1")
	r.del(p, "s1", "eth0")
	r.wantBound()
	if counters, err := r.Agent.path.Counters(); len(counters) > 0 || err != nil {
		t.Errorf("%v, %v", counters, err)
	}
}
