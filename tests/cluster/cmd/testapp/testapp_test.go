package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestAnswer(t *testing.T) {
	t.Setenv("NODE_NAME", "node-a")
	s := httptest.NewServer(http.HandlerFunc(answer))
	defer s.Close()
	resp, err := http.Get(s.URL + "/x")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a Answer
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		t.Fatal(err)
	}
	if host, _, err := net.SplitHostPort(a.Remote); err != nil || host != "127.0.0.1" {
		t.Errorf("remote %q", a.Remote)
	}
	if a.Node != "node-a" || a.Path != "/x" || a.Local == "" || a.Hostname == "" {
		t.Errorf("%+v", a)
	}
}

func TestGetWants200(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	if err := get(t.Context(), []string{s.URL}); err == nil {
		t.Error("404 is no error")
	}
}

func TestUDPEcho(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { _ = echoPackets(c) }()
	if err := udp(t.Context(), []string{c.LocalAddr().String(), "hello"}); err != nil {
		t.Error(err)
	}
}

func TestSummarize(t *testing.T) {
	var times []time.Duration
	for i := range 1000 {
		times = append(times, time.Duration(1000-i)*time.Microsecond)
	}
	var r RoundTrips
	r.summarize(times)
	if r.Count != 1000 || r.Min != 1 || r.Max != 1000 || r.P50 != 501 || r.P99 != 991 || r.P999 != 1000 || r.Mean != 500.5 {
		t.Errorf("%+v", r)
	}
	var none RoundTrips
	none.summarize(nil)
	if none.Count != 0 {
		t.Errorf("%+v", none)
	}
}
