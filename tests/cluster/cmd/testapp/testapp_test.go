package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
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

func TestWhoUDP(t *testing.T) {
	c, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { _ = whoPackets(c) }()
	port := strconv.Itoa(c.LocalAddr().(*net.UDPAddr).Port)
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "::1"} { // the answer comes from whichever was asked
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		a, err := whoUDP(ctx, net.JoinHostPort(host, port), 9000)
		cancel()
		if err != nil || a.Proto != "UDP" || a.Remote == "" || a.Local != host {
			t.Errorf("asked at %s: %+v, %v", host, a, err)
		}
	}
}

func TestSCTP(t *testing.T) {
	want := sctpPacket{from: 1, to: 2, tag: 3, initTag: 4, kind: sctpInitAck, padding: []byte("hello")}
	b := want.bytes()
	if got, ok := parseSCTP(b); !ok || len(b)%4 != 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for n := range b {
		parseSCTP(b[:n])
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
