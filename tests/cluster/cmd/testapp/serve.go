package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// Answer is what the HTTP server tells of itself and of who asked.
type Answer struct {
	Hostname string    `json:"hostname"` // the pod's name
	Node     string    `json:"node,omitempty"`
	Pod      string    `json:"pod,omitempty"`
	Remote   string    `json:"remote"` // the client, as the server sees it: "10.6.0.7:40312"
	Local    string    `json:"local"`  // the address the request came in on
	Proto    string    `json:"proto"`
	Path     string    `json:"path"`
	Time     time.Time `json:"time"`
}

func serve(ctx context.Context, _ []string) error {
	ended := make(chan error, 8)
	server := &http.Server{Addr: ":8080", Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second}
	go func() { ended <- server.ListenAndServe() }()

	packets, err := net.ListenPacket("udp", ":8081")
	if err != nil {
		return err
	}
	go func() { ended <- echoPackets(packets) }()
	asked, err := net.ListenUDP("udp", &net.UDPAddr{Port: 8080})
	if err != nil {
		return err
	}
	go func() { ended <- whoPackets(asked) }()
	for _, network := range []string{"ip4:132", "ip6:132"} {
		c, err := net.ListenIP(network, nil)
		if errors.Is(err, os.ErrPermission) {
			continue // raw sockets are a privilege
		}
		if err != nil {
			return err
		}
		go func() { ended <- whoAssociations(c, network) }()
	}
	for port, handle := range map[string]func(net.Conn){
		":8082": func(c net.Conn) { _, _ = io.Copy(c, c) },
		":8083": func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
	} {
		ln, err := net.Listen("tcp", port)
		if err != nil {
			return err
		}
		go func() { ended <- accept(ln, handle) }()
	}
	fmt.Println("testapp: HTTP on :8080 (UDP, SCTP too), UDP echo on :8081, TCP echo on :8082, TCP sink on :8083")
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

func newAnswer(remote, proto string) Answer {
	host, _ := os.Hostname()
	return Answer{Hostname: host, Node: os.Getenv("NODE_NAME"), Pod: os.Getenv("POD_NAME"), Remote: remote, Proto: proto, Time: time.Now().UTC()}
}

func answer(w http.ResponseWriter, r *http.Request) {
	a := newAnswer(r.RemoteAddr, r.Proto)
	a.Path = r.URL.Path
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		a.Local = local.String()
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Printf("%s %s from %s\n", r.Method, r.URL.Path, r.RemoteAddr)
	_ = json.NewEncoder(w).Encode(a)
}

// answerTo a packet.
func answerTo(remote, local, proto string) []byte {
	a := newAnswer(remote, proto)
	a.Local = local
	b, _ := json.Marshal(a) // strings and a time
	return b
}

func echoPackets(c net.PacketConn) error {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(buf[:n], from); err != nil && errors.Is(err, net.ErrClosed) {
			return err
		}
	}
}

func accept(ln net.Listener, handle func(net.Conn)) error {
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			handle(c)
		}()
	}
}
