package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// RoundTrips is the result of bench-rr, times in microseconds.
type RoundTrips struct {
	Target    string  `json:"target"`
	Network   string  `json:"network"`
	Count     int     `json:"count"`
	Lost      int     `json:"lost"`
	PerSecond float64 `json:"perSecond"`
	Min       float64 `json:"minMicros"`
	Mean      float64 `json:"meanMicros"`
	P50       float64 `json:"p50Micros"`
	P99       float64 `json:"p99Micros"`
	P999      float64 `json:"p999Micros"`
	Max       float64 `json:"maxMicros"`
}

// benchRR measures one-byte round trips one after the other: latency, and
// nothing else.
func benchRR(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench-rr", flag.ContinueOnError)
	n := f.Int("n", 10000, "round trips")
	overUDP := f.Bool("udp", false, "")
	if err := f.Parse(args); err != nil || f.NArg() != 1 || *n < 1 {
		return fmt.Errorf("bench-rr: want [-n COUNT] [--udp] HOST:PORT")
	}
	network := "tcp"
	if *overUDP {
		network = "udp"
	}
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, f.Arg(0))
	if err != nil {
		return err
	}
	defer c.Close()
	buf := []byte{0}
	trip := func() (time.Duration, error) {
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return 0, err
		}
		start := time.Now()
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
		_, err := io.ReadFull(c, buf)
		return time.Since(start), err
	}
	// The first ones pay for neighbours, routes and connection tracking.
	for range min(100, *n) {
		if _, err := trip(); err != nil {
			return err
		}
	}
	r := RoundTrips{Target: f.Arg(0), Network: network}
	times := make([]time.Duration, 0, *n)
	start := time.Now()
	for range *n {
		if ctx.Err() != nil {
			break
		}
		d, err := trip()
		if err != nil {
			if network == "tcp" {
				return err
			}
			r.Lost++
			continue
		}
		times = append(times, d)
	}
	r.PerSecond = float64(len(times)) / time.Since(start).Seconds()
	r.summarize(times)
	return json.NewEncoder(os.Stdout).Encode(r)
}

func (r *RoundTrips) summarize(times []time.Duration) {
	r.Count = len(times)
	if r.Count == 0 {
		return
	}
	slices.Sort(times)
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	at := func(q float64) float64 { return micros(times[min(r.Count-1, int(q*float64(r.Count)))]) }
	var sum time.Duration
	for _, d := range times {
		sum += d
	}
	r.Min, r.Max, r.Mean = micros(times[0]), micros(times[r.Count-1]), micros(sum)/float64(r.Count)
	r.P50, r.P99, r.P999 = at(0.5), at(0.99), at(0.999)
}

// Stream is the result of bench-stream.
type Stream struct {
	Target  string  `json:"target"`
	Streams int     `json:"streams"`
	Seconds float64 `json:"seconds"`
	Bytes   int64   `json:"bytes"`
	Gbps    float64 `json:"gbps"`
}

// benchStream writes for a time, as fast as it goes.
func benchStream(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench-stream", flag.ContinueOnError)
	length := f.Duration("t", 5*time.Second, "how long")
	streams := f.Int("P", 1, "connections at once")
	if err := f.Parse(args); err != nil || f.NArg() != 1 || *streams < 1 {
		return fmt.Errorf("bench-stream: want [-t TIME] [-P STREAMS] HOST:PORT")
	}
	var conns []net.Conn
	for range *streams {
		c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", f.Arg(0))
		if err != nil {
			return err
		}
		defer c.Close()
		conns = append(conns, c)
	}
	var sent atomic.Int64
	start := time.Now()
	end := start.Add(*length)
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			buf := make([]byte, 128<<10)
			_ = c.SetDeadline(end)
			for {
				n, err := c.Write(buf)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start).Seconds()
	return json.NewEncoder(os.Stdout).Encode(Stream{
		Target: f.Arg(0), Streams: *streams, Seconds: took, Bytes: sent.Load(),
		Gbps: float64(sent.Load()) * 8 / took / 1e9,
	})
}
