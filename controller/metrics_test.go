package controller

import (
	"testing"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berthdev/berth/api/v1alpha1"
)

// TestPoolMetrics: a pool's numbers are there as long as it is, under the network that it is of.
func TestPoolMetrics(t *testing.T) {
	count := func() (n int) {
		all := make(chan prometheus.Metric) // other tests leave many
		go func() { poolAddresses.Collect(all); close(all) }()
		for range all {
			n++
		}
		return n
	}
	before := count()
	p := pool("metrics", "one", subnet("10.6.0.0/24"))
	some := &v1alpha1.AddressCount{Total: "254", Free: "250", Bound: 4}
	for _, tc := range []struct {
		name    string
		network string
		v4, v6  *v1alpha1.AddressCount
		want    int
	}{
		{"two families", "one", some, some, 10},
		{"one of them", "one", some, nil, 5},
		{"of another plugin", "one", &v1alpha1.AddressCount{Total: notCounted, Free: notCounted}, nil, 3},
		{"made anew elsewhere", "two", nil, some, 5},
	} {
		p.Spec.Network, p.Status.IPv4, p.Status.IPv6 = tc.network, tc.v4, tc.v6
		observePool(p)
		if got := count() - before; got != tc.want {
			t.Errorf("%s: %d numbers, want %d", tc.name, got, tc.want)
		}
	}
	dropPoolMetrics(p.Name)
	if got := count(); got != before {
		t.Errorf("it is gone, and has %d numbers", got-before)
	}
}

// TestNoMetrics: an empty address is none, and not the library's own.
func TestNoMetrics(t *testing.T) {
	for address, want := range map[string]string{"": "0", "0": "0", ":9642": ":9642"} {
		if got := options(Config{MetricsAddress: address}, logr.Discard()).Metrics.BindAddress; got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}
