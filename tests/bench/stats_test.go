package main

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestQuantile(t *testing.T) {
	var hundred sample
	for i := range 100 {
		hundred = append(hundred, float64((i*37)%100+1)) // 1 to 100, shuffled
	}
	for _, tt := range []struct {
		name string
		in   sample
		q    float64
		want float64
	}{
		{"one", sample{7}, 0.99, 7},
		{"median of an odd number", sample{3, 1, 2}, 0.5, 2},
		{"median of an even number", sample{4, 1, 3, 2}, 0.5, 2.5},
		{"p99 of a hundred", hundred, 0.99, 99},
		{"p0", hundred, 0, 1},
		{"p100", hundred, 1, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.in.quantile(tt.q); got != tt.want {
				t.Errorf("quantile(%v) = %v, want %v", tt.q, got, tt.want)
			}
		})
	}
	if got := (sample{}).median(); !math.IsNaN(got) {
		t.Errorf("median of nothing = %v", got)
	}
	in := sample{2, 1}
	in.median()
	if diff := cmp.Diff(sample{2, 1}, in); diff != "" {
		t.Errorf("median changed the order of its sample:\n%s", diff)
	}
}

func TestPairs(t *testing.T) {
	if diff := cmp.Diff(sample{2, 0.5}, sample{4, 1, 9}.over(sample{2, 2})); diff != "" {
		t.Errorf("over:\n%s", diff)
	}
	if diff := cmp.Diff(sample{2, 5, 9}, sample{1, 2, 3, 4, 5, 6, 9}.medians(3)); diff != "" {
		t.Errorf("medians:\n%s", diff)
	}
}

func TestParseCounts(t *testing.T) {
	got := parseCounts([]byte(`# TYPE apiserver_request_total counter
apiserver_request_total{code="201",component="apiserver",dry_run="",group="berth.dev",resource="ipleases",scope="resource",subresource="",verb="POST",version="v1alpha1"} 7
apiserver_request_total{code="409",component="apiserver",dry_run="",group="berth.dev",resource="ipleases",scope="resource",subresource="",verb="POST",version="v1alpha1"} 1
apiserver_request_total{code="0",component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="WATCH",version="v1"} 3
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="services",scope="cluster",subresource="",verb="LIST",version="v1"} 5
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="",scope="",subresource="/metrics",verb="GET",version=""} 9
`))
	if diff := cmp.Diff(requestCounts{"POST ipleases.berth.dev": 8}, got); diff != "" {
		t.Errorf("counts:\n%s", diff)
	}
	idle := requestCounts{"GET pods": 1}
	since := requestCounts{"POST x": 5, "GET pods": 9, "PUT x": 2}.since(requestCounts{"POST x": 2, "PUT x": 2}, idle)
	if diff := cmp.Diff(requestCounts{"POST x": 3}, since); diff != "" {
		t.Errorf("since:\n%s", diff)
	}
}

func TestParseBenchmark(t *testing.T) {
	names, times := parseBenchmark([]byte(`goos: linux
BenchmarkSteer/empty-2         	  300000	        16.10 ns/op
BenchmarkSteer/steered_ipv4-2  	  300000	        47.50 ns/op
BenchmarkSteer/empty-2         	  300000	        17 ns/op
PASS
`), "BenchmarkSteer/")
	if diff := cmp.Diff([]string{"empty", "steered_ipv4"}, names); diff != "" {
		t.Errorf("names:\n%s", diff)
	}
	if diff := cmp.Diff(map[string]sample{"empty": {16.1, 17}, "steered_ipv4": {47.5}}, times); diff != "" {
		t.Errorf("times:\n%s", diff)
	}
}
