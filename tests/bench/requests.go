package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
)

// requestCounts of an API server since its start, by "verb resource".
type requestCounts map[string]float64

var (
	countLine = regexp.MustCompile(`^apiserver_request_total\{(.*)\} (\S+)$`)
	countPair = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

// watchEvents of leases that the API server has sent, to all who watch.
const watchEvents = "events of ipleases"

var watchLine = regexp.MustCompile(`^apiserver_watch_events_total\{.*group="berth\.dev".*[Ii][Pp][Ll]ease.*\} (\S+)$`)

// askedFor are all resources that the agent's role lets it read or write, and those of carving. The API server asks itself for others.
var askedFor = map[string]bool{
	"configmaps": true, "events": true, "ipblocks": true, "ipleases": true, "ippools": true, "namespaces": true, "nodes": true, "pods": true, "servicecidrs": true, "subnets": true,
}

// parseCounts of requests for resources. Long-running ones (WATCH) count when they end, and are no part of an ADD.
func parseCounts(metrics []byte) requestCounts {
	counts := requestCounts{}
	s := bufio.NewScanner(bytes.NewReader(metrics))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if m := watchLine.FindStringSubmatch(s.Text()); m != nil {
			v, _ := strconv.ParseFloat(m[1], 64)
			counts[watchEvents] += v
		}
		m := countLine.FindStringSubmatch(s.Text())
		if m == nil {
			continue
		}
		label := map[string]string{}
		for _, p := range countPair.FindAllStringSubmatch(m[1], -1) {
			label[p[1]] = p[2]
		}
		v, err := strconv.ParseFloat(m[2], 64)
		if err != nil || !askedFor[label["resource"]] || label["verb"] == "WATCH" {
			continue
		}
		resource := label["resource"]
		if label["group"] != "" {
			resource += "." + label["group"]
		}
		counts[label["verb"]+" "+resource] += v
	}
	return counts
}

func (c *control) counts(ctx context.Context) (requestCounts, error) {
	client, err := kubernetes.NewForConfig(c.rest)
	if err != nil {
		return nil, err
	}
	text, err := client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("metrics of the API server: %w", err)
	}
	return parseCounts(text), nil
}

// countsAtRest are those once no request for leases comes any more: the last DELs are answered before the API server has heard of them.
func (c *control) countsAtRest(ctx context.Context) (requestCounts, error) {
	for before := -1.0; ; time.Sleep(200 * time.Millisecond) {
		now, err := c.counts(ctx)
		if err != nil || now.ofLeases() == before {
			return now, err
		}
		before = now.ofLeases()
	}
}

// since then, leaving out what the API server does for itself whether anybody calls or not (idle).
func (c requestCounts) since(before, idle requestCounts) requestCounts {
	out := requestCounts{}
	for k, v := range c {
		if d := v - before[k]; d > 0 && idle[k] == 0 {
			out[k] = d
		}
	}
	return out
}

// measureRequests counts the requests of each ADD and DEL.
func measureRequests(ctx context.Context, n *node, r *report) error {
	if err := n.renewPods(ctx); err != nil {
		return err
	}
	if err := burstOf(ctx, n.contenders["berth/again"]); err != nil { // for the first time
		return err
	}
	idleBefore, err := n.counts(ctx)
	if err != nil {
		return err
	}
	time.Sleep(5 * time.Second)
	before, err := n.counts(ctx)
	if err != nil {
		return err
	}
	idle := before.since(idleBefore, nil)
	for _, name := range []string{"berth/single", "berth/again", "berth/dual", "berth/path"} {
		for _, verb := range []string{"ADD", "DEL"} {
			do := n.contenders[name].add
			if verb == "DEL" {
				do = n.contenders[name].del
			}
			for i := range podCount {
				if err := do(ctx, i); err != nil {
					return err
				}
			}
			after, err := n.countsAtRest(ctx)
			if err != nil {
				return err
			}
			if err := r.add(requestResults(verb, name, after.since(before, idle))...); err != nil {
				return err
			}
			before = after
		}
	}
	return nil
}

// requestResults for each call: all requests, and of which kind they were.
func requestResults(verb, name string, counts requestCounts) []Result {
	base := fmt.Sprintf("requests/%s/%s", verb, name)
	aim := map[string]string{"berth/single": "1", "berth/again": "1", "berth/path": "1", "berth/dual": "2"}[name]
	sum := Result{Name: base, Unit: "requests/call", Samples: podCount, Aim: aim}
	var kinds []Result
	delete(counts, watchEvents)
	for k, v := range counts {
		sum.Value += v / podCount
		kinds = append(kinds, Result{Name: base + "/" + k, Unit: "requests/call", Value: v / podCount, Samples: podCount})
	}
	slices.SortFunc(kinds, func(a, b Result) int { return strings.Compare(a.Name, b.Name) })
	return append([]Result{sum}, kinds...)
}
