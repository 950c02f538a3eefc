//go:build linux

package path

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/service"
	"github.com/berthdev/berth/tests/netns"
)

// tell answers at each address, with a name, for as long as a connection lives.
func tell(t testing.TB, ns *netns.NS, name string, addrs ...netip.Addr) {
	t.Helper()
	for _, a := range addrs {
		var tcp net.Listener
		var udp net.PacketConn
		var err, err2 error
		ns.Do(func() {
			tcp, err = net.Listen("tcp", netip.AddrPortFrom(a, port).String())
			udp, err2 = net.ListenPacket("udp", netip.AddrPortFrom(a, port).String())
		})
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tcp.Close(); udp.Close() })
		go func() {
			for {
				conn, err := tcp.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					b := make([]byte, 100)
					for {
						if _, err := conn.Read(b); err != nil {
							return
						}
						_, _ = conn.Write([]byte(name))
					}
				}()
			}
		}()
		go func() {
			b := make([]byte, 65536)
			for {
				_, from, err := udp.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = udp.WriteTo([]byte(name), from)
			}
		}()
	}
}

// who answers on a connection.
func who(conn net.Conn) (string, error) { return whoOf(conn, []byte("x")) }

func whoOf(conn net.Conn, say []byte) (string, error) {
	if _, err := conn.Write(say); err != nil {
		return "", err
	}
	_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	b := make([]byte, 100)
	n, err := conn.Read(b)
	return string(b[:n]), err
}

// fresh asks a Service by a new connection.
func fresh(t testing.TB, ns *netns.NS, network string, to netip.Addr) string {
	t.Helper()
	conn, err := dial(ns, network, netip.AddrPortFrom(to, port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	name, err := who(conn)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// TestAffinity: a client stays with its backend while others come and go, through a restart of the agent too, until its own goes.
func TestAffinity(t *testing.T) {
	w := newTwoNodes(t)
	servers := map[string][]netip.Addr{"neighbour": w.neighbour.addrs, "remote": w.remote.addrs, "overlay": w.overlay2.addrs}
	for name, ns := range map[string]*netns.NS{"neighbour": w.neighbour.NS, "remote": w.remote.NS, "overlay": w.overlay2.NS} {
		tell(t, ns, name, servers[name]...)
	}
	with := func(names ...string) service.Service {
		var all [][]netip.Addr
		for _, name := range names {
			all = append(all, servers[name])
		}
		s, _ := virtual(1, all...)
		for i := range s.Ports {
			s.Ports[i].Affinity = time.Hour
		}
		return s
	}
	_, vips := virtual(1)
	w.n1.serve(with("neighbour", "remote", "overlay"))
	for _, vip := range vips {
		for network := range protocols {
			w.n1.set(with("neighbour", "remote", "overlay"))
			mine := fresh(t, w.client.NS, network, vip)
			stays := func(when string) {
				t.Helper()
				for range 10 {
					if got := fresh(t, w.client.NS, network, vip); got != mine {
						t.Fatalf("%s %s, %s: %s, then %s", network, vip, when, mine, got)
					}
				}
			}
			stays("untouched")
			var other, others []string
			for _, name := range []string{"neighbour", "remote", "overlay"} {
				if name != mine {
					others = append(others, name)
				}
			}
			other = append(other, mine, others[0])
			w.n1.set(with(other...))
			stays("one other gone")
			w.n1.set(with("neighbour", "remote", "overlay"))
			stays("and back")
			w.n1.kill()
			w.n1.start()
			w.n1.must("sync", slices.Concat(w.client.endpoints(), w.neighbour.endpoints())...)
			w.n1.serve(with("neighbour", "remote", "overlay"))
			stays("agent killed and started")
			w.n1.set(with(others...))
			if got := fresh(t, w.client.NS, network, vip); got == mine {
				t.Errorf("%s %s: still %s, which is gone", network, vip, mine)
			}
		}
	}
}

// TestAffinityMoves: a client whose backend goes has another from then on, also when the first comes back.
func TestAffinityMoves(t *testing.T) {
	w := newTwoNodes(t)
	tell(t, w.neighbour.NS, "neighbour", w.neighbour.addrs...)
	tell(t, w.remote.NS, "remote", w.remote.addrs...)
	sticky := func(pods ...[]netip.Addr) service.Service {
		s, _ := virtual(1, pods...)
		for i := range s.Ports {
			s.Ports[i].Affinity = time.Hour
		}
		return s
	}
	_, vips := virtual(1)
	w.n1.serve()
	for _, vip := range vips {
		for network := range protocols {
			for _, way := range [][]string{{"neighbour", "remote"}, {"remote", "neighbour"}} {
				of := map[string][]netip.Addr{"neighbour": w.neighbour.addrs, "remote": w.remote.addrs}
				for _, now := range way {
					w.n1.set(sticky(of[now]))
					if got := fresh(t, w.client.NS, network, vip); got != now {
						t.Fatalf("%s %s: %s, not %s", network, vip, got, now)
					}
				}
				w.n1.set(sticky(w.neighbour.addrs, w.remote.addrs))
				if got := fresh(t, w.client.NS, network, vip); got != way[1] {
					t.Errorf("%s %s: %s, then %s, which is still there, then %s", network, vip, way[0], way[1], got)
				}
			}
		}
	}
}

// TestFlowsMove: a client that goes on sending by one UDP socket is taken to where the Service is now. A TCP connection stays.
func TestFlowsMove(t *testing.T) {
	w := newTwoNodes(t)
	tell(t, w.neighbour.NS, "neighbour", w.neighbour.addrs...)
	tell(t, w.remote.NS, "remote", w.remote.addrs...)
	one, vips := virtual(1, w.neighbour.addrs)
	two, _ := virtual(1, w.remote.addrs)
	none, _ := virtual(1)
	w.n1.serve()
	for _, vip := range vips {
		early, err := dial(w.client.NS, "udp", netip.AddrPortFrom(vip, port))
		if err != nil {
			t.Fatal(err)
		}
		defer early.Close()
		if name, err := who(early); err == nil {
			t.Fatalf("%s answers for a Service that is not there", name)
		}
		answers := func(want string) {
			t.Helper()
			eventually(t, 10*time.Second, want, func() error {
				if name, err := who(early); err != nil {
					return err
				} else if name != want {
					return fmt.Errorf("answered by %s", name)
				}
				return nil
			})
		}
		w.n1.set(one)
		answers("neighbour")
		tcp, err := dial(w.client.NS, "tcp", netip.AddrPortFrom(vip, port))
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		ends := two
		ends.Ports = slices.Clone(two.Ports)
		for i := range ends.Ports {
			ends.Ports[i].Staying = one.Ports[i].Backends
		}
		w.n1.set(ends)
		for range 20 { // it serves on, and gets nothing new
			if name, err := who(early); err != nil || name != "neighbour" {
				t.Fatalf("a flow that has begun: %q, %v", name, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
		w.n1.set(two)
		answers("remote")
		if name, err := who(tcp); err != nil || name != "neighbour" {
			t.Errorf("established: %q, %v", name, err)
		}
		w.n1.set(none)
		eventually(t, 10*time.Second, "refused", func() error {
			if name, err := who(early); err == nil {
				return fmt.Errorf("answered by %s", name)
			} else if !errors.Is(err, syscall.ECONNREFUSED) {
				return fmt.Errorf("not refused: %w", err)
			}
			return nil
		})
		w.n1.set(one)
		answers("neighbour")
		w.n1.set(service.Service{Name: one.Name})
		eventually(t, 10*time.Second, "gone", func() error {
			if name, err := who(early); err == nil {
				return fmt.Errorf("answered by %s", name)
			}
			return nil
		})
	}
}

// TestChurn: while backends come and go, and the agent is killed and started, no connection fails that meets a living backend.
func TestChurn(t *testing.T) {
	w := newTwoNodes(t)
	tell(t, w.neighbour.NS, "neighbour", w.neighbour.addrs...)
	tell(t, w.remote.NS, "remote", w.remote.addrs...)
	one, vips := virtual(1, w.neighbour.addrs)
	both, _ := virtual(1, w.neighbour.addrs, w.remote.addrs)
	w.n1.serve(both)
	long, err := dial(w.client.NS, "tcp", netip.AddrPortFrom(vips[0], port))
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	var stop atomic.Bool
	var asked atomic.Int64
	var load sync.WaitGroup
	for _, vip := range vips {
		load.Go(func() {
			for !stop.Load() {
				conn, err := dial(w.client.NS, "tcp", netip.AddrPortFrom(vip, port))
				if err != nil {
					t.Errorf("%s: %v", vip, err)
					return
				}
				if _, err := who(conn); err != nil {
					t.Errorf("%s: %v", vip, err)
				}
				conn.Close()
				asked.Add(1)
			}
		})
	}
	for i := range 40 {
		w.n1.set([]service.Service{one, both}[i%2])
		if _, err := who(long); err != nil {
			t.Errorf("established: %v", err)
		}
		if i%10 == 9 {
			w.n1.kill()
			w.n1.start()
			w.n1.must("sync", slices.Concat(w.client.endpoints(), w.neighbour.endpoints())...)
			w.n1.serve(both)
		}
	}
	stop.Store(true)
	load.Wait()
	t.Logf("%d connections", asked.Load())
}

// TestFragments: a datagram that is more than a frame goes through, there and back, by conntrack's defragmentation.
func TestFragments(t *testing.T) {
	w := newTwoNodes(t)
	for _, k := range w.served() {
		tell(t, k.ns, k.name, k.server...)
		for _, vip := range k.vips {
			conn, err := dial(w.client.NS, "udp", netip.AddrPortFrom(vip, port))
			if err != nil {
				t.Fatal(err)
			}
			if name, err := whoOf(conn, make([]byte, 9000)); err != nil || name != k.name {
				t.Errorf("%s %s: %q, %v", k.name, vip, name, err)
			}
			conn.Close()
		}
	}
}

// TestErrors: an ICMP error about the translated packet, here that nobody listens at the backend, finds the client's socket.
func TestErrors(t *testing.T) {
	w := newTwoNodes(t)
	for _, k := range w.served() {
		for _, vip := range k.vips {
			for network := range protocols { // TCP: a reset
				if _, err := askAt(w.client.NS, network, netip.AddrPortFrom(vip, port)); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s %s %s: %v", k.name, network, vip, err)
				}
			}
		}
	}
}

// BenchmarkServe: a connection by a Service, and a round trip in one, among few and many Services.
func BenchmarkServe(b *testing.B) {
	c := newCluster(b, 1)
	n := c.nodes[0]
	n.start()
	client, server := n.attached(1), n.attached(2)
	tell(b, server.NS, "server", server.addrs...)
	for _, many := range []int{10, 10000} {
		var all []service.Service
		for i := range many {
			vip := netip.AddrFrom4([4]byte{10, 96, byte(1 + i>>8), byte(i)})
			all = append(all, service.Service{Name: fmt.Sprintf("default/other%d", i), Ports: []service.Port{{
				Frontends: []service.Frontend{{Address: vip, Port: port, Protocol: service.TCP}},
				Backends:  []service.Backend{{Address: server.addrs[0], Port: port}, {Address: client.addrs[0], Port: port}}}}})
		}
		s, vips := virtual(1, server.addrs)
		all = append(all, s)
		n.serve(all...)
		to := netip.AddrPortFrom(vips[0], port)
		b.Run(fmt.Sprintf("services=%d/connect", many), func(b *testing.B) {
			for b.Loop() {
				conn, err := dial(client.NS, "tcp", to)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := who(conn); err != nil {
					b.Fatal(err)
				}
				_ = conn.(*net.TCPConn).SetLinger(0) // else its port waits for a minute
				conn.Close()
			}
		})
		b.Run(fmt.Sprintf("services=%d/roundtrip", many), func(b *testing.B) {
			conn, err := dial(client.NS, "tcp", to)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			for b.Loop() {
				if _, err := who(conn); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
