package plugin

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestReadReply(t *testing.T) {
	tests := []struct {
		name, in string
		status   int
		body     string
		err      error
	}{
		{name: "length", in: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", status: 200, body: "{}"},
		{name: "no body", in: "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", status: 204},
		{name: "no reason", in: "HTTP/1.1 409\r\nContent-Length: 0\r\n\r\n", status: 409},
		{name: "1.0, to the end", in: "HTTP/1.0 200 OK\r\n\r\n{}", status: 200, body: "{}"},
		{name: "trailing garbage", in: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}more", status: 200, body: "{}"},

		{name: "nothing", in: "", err: io.EOF},
		{name: "cut in header", in: "HTTP/1.1 200 OK\r\nContent-Le", err: io.ErrUnexpectedEOF},
		{name: "cut in body", in: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", err: io.ErrUnexpectedEOF},

		{name: "other protocol", in: "SSH-2.0-OpenSSH_9.2\r\n", err: errProtocol},
		{name: "HTTP/2", in: "HTTP/2 200\r\n\r\n", err: errProtocol},
		{name: "status", in: "HTTP/1.1 abc OK\r\n\r\n", err: errProtocol},
		{name: "low status", in: "HTTP/1.1 -20 OK\r\n\r\n", err: errProtocol},
		{name: "header", in: "HTTP/1.1 200 OK\r\nno colon\r\n\r\n", err: errProtocol},
		{name: "length is a word", in: "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}", err: errProtocol},
		{name: "negative length", in: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}", err: errProtocol},
		{name: "interim", in: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", err: errProtocol},
		{name: "chunks", in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", err: errProtocol},
		{name: "huge length", in: "HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n{}", err: errProtocol},
		{name: "huge", in: "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", maxReply+1), err: errProtocol},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := io.Reader(strings.NewReader(test.in))
			if len(test.in) < maxReply {
				r = iotest.OneByteReader(r) // as slow as a connection may be
			}
			status, body, err := readReply(r)
			if !errors.Is(err, test.err) || status != test.status || string(body) != test.body {
				t.Errorf("%d, %.100q, %v; want %d, %q, %v", status, body, err, test.status, test.body, test.err)
			}
		})
	}
}

// FuzzReadReply: whatever is at the socket, the plugin says so and does not panic.
func FuzzReadReply(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
	f.Add("HTTP/1.0 200 OK\r\nX: y\r\n\r\nabc")
	f.Fuzz(func(t *testing.T, in string) {
		status, body, err := readReply(strings.NewReader(in))
		if err == nil && (status < 200 || len(body) > len(in)) {
			t.Errorf("%d, %q", status, body)
		}
	})
}

// TestPost speaks to a server of net/http: answers of every size come whole, in whatever way it sends them.
func TestPost(t *testing.T) {
	socket := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != PathAdd || r.Header.Get("Content-Type") != "application/json" {
			w.WriteHeader(500)
			return
		}
		w.WriteHeader(209)
		for half := range 2 {
			_, _ = w.Write(body[half*len(body)/2 : (half+1)*len(body)/2])
			if len(body)%2 == 1 {
				w.(http.Flusher).Flush() // so that no length is given
			}
		}
	})
	for _, size := range []int{0, 1, 2, 2047, 2048, 2049, 4096, 65535, 65536, 1 << 20} {
		want := strings.Repeat("x", size)
		status, body, err := post(socket, PathAdd, []byte(want), time.Minute)
		if err != nil || status != 209 || string(body) != want {
			t.Errorf("size %d: status %d, %d bytes, %v", size, status, len(body), err)
		}
	}
}

func TestPostTimeout(t *testing.T) {
	done := make(chan struct{})
	socket := serve(t, func(http.ResponseWriter, *http.Request) { <-done })
	defer close(done)
	start := time.Now()
	_, _, err := post(socket, PathAdd, []byte("{}"), 50*time.Millisecond)
	if !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, errProtocol) {
		t.Errorf("%v", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func serve(t *testing.T, handler http.HandlerFunc) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "berth-post-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return socket
}
