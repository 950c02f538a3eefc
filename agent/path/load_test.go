//go:build linux

package path

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berthdev/berth/service"
	"github.com/berthdev/berth/tests/churn"
	"github.com/berthdev/berth/tests/netns"
)

// load asks a Service without end until it is stopped: each question is an event that is answered, or reset, or not.
type load struct {
	testing.TB
	stop                  chan struct{}
	asked                 []*atomic.Int64 // one of each stream
	resets, silent, other atomic.Int64
	group                 sync.WaitGroup
}

func newLoad(t testing.TB) *load {
	l := &load{TB: t, stop: make(chan struct{})}
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.group.Wait()
}

// stream asks by ask, again and again.
func (l *load) stream(name string, ask func() error) {
	asked := new(atomic.Int64)
	l.asked = append(l.asked, asked)
	l.group.Go(func() {
		for {
			select {
			case <-l.stop:
				return
			default:
			}
			if err := ask(); err != nil {
				l.Errorf("%s: %v", name, err)
				switch {
				case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ECONNREFUSED):
					l.resets.Add(1)
				case errors.Is(err, os.ErrDeadlineExceeded):
					l.silent.Add(1)
				default:
					l.other.Add(1)
				}
				return
			}
			asked.Add(1)
		}
	})
}

// more waits until each stream has got n more answers.
func (l *load) more(n int64) {
	l.Helper()
	for _, a := range l.asked {
		until := a.Load() + n
		for end := time.Now().Add(time.Minute); a.Load() < until; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				l.Fatal("a stream does not get on")
			}
		}
	}
}

func (l *load) total() (n int64) {
	for _, a := range l.asked {
		n += a.Load()
	}
	return n
}

// question on a connection. The limit is generous: an answer that comes late is one.
func question(conn net.Conn) (string, error) {
	b := make([]byte, 100)
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		return "", err
	}
	n, err := conn.Read(b)
	return string(b[:n]), err
}

// kept is a stream on one connection or socket, anew one on a new one each time.
func (l *load) kept(ns *netns.NS, network string, to netip.Addr) {
	l.Helper()
	conn, err := dial(ns, network, netip.AddrPortFrom(to, port))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { conn.Close() })
	l.stream(fmt.Sprintf("%s to %s, kept", network, to), func() error {
		_, err := question(conn)
		return err
	})
}

func (l *load) anew(ns *netns.NS, network string, to netip.Addr) {
	l.stream(fmt.Sprintf("%s to %s, anew", network, to), func() error {
		conn, err := dial(ns, network, netip.AddrPortFrom(to, port))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = question(conn)
		return err
	})
}

// TestUpgradeUnderLoad: an agent's process is killed or ends, and the next attaches its programs and takes over, twenty times: no
// connection is reset, no datagram unanswered, be it to a Service by Berth's own table, to the node, or from the node to the pod.
func TestUpgradeUnderLoad(t *testing.T) {
	w := newTwoNodes(t)
	tell(t, w.neighbour.NS, "neighbour", w.neighbour.addrs...)
	tell(t, w.remote.NS, "remote", w.remote.addrs...)
	tell(t, w.n1.NS, "node", w.n1.own()...)
	tell(t, w.client.NS, "client", w.client.addrs...)
	both, vips := virtual(1, w.neighbour.addrs, w.remote.addrs)
	w.n1.serve(both)
	before := w.n1.vmac()
	l := newLoad(t)
	for _, to := range slices.Concat(vips, w.n1.own()) {
		for network := range protocols {
			l.kept(w.client.NS, network, to)
			l.anew(w.client.NS, network, to)
		}
	}
	for _, to := range w.client.addrs {
		l.kept(w.n1.NS, "tcp", to)
	}
	for i := range 20 {
		l.more(5)
		if i%2 == 0 {
			w.n1.kill()
		} else {
			w.n1.quit()
		}
		l.more(5) // without an agent
		w.n1.start()
		w.n1.must("sync", slices.Concat(w.client.endpoints(), w.neighbour.endpoints())...)
		w.n1.serve(both)
		if i%5 == 0 {
			w.n1.must("mend")
		}
	}
	l.more(5)
	l.end()
	if after := w.n1.vmac(); after.Index != before.Index {
		t.Errorf("vmac was %d, is %d", before.Index, after.Index)
	}
	t.Logf("20 agents, %d questions: %d resets, %d without answer, %d other errors", l.total(), l.resets.Load(), l.silent.Load(), l.other.Load())
}

// TestRemovedBackends: under load more than 100 endpoint changes a second reach Berth's own table, and no connection that begins after a backend's
// removal is there goes to it. This is of TCP: to conntrack, a new UDP socket that gets the port of an earlier one goes on with that one's flow
// until the flow is moved (TestFlowsMove), some moments after the removal. In fast mode it is of UDP, too: TestRemovedUnderLoad of bpf/sock.
func TestRemovedBackends(t *testing.T) {
	w := newTwoNodes(t)
	servers := map[string]*pod{"neighbour": w.neighbour, "remote": w.remote, "client": w.client}
	var names []string
	for name, p := range servers {
		tell(t, p.NS, name, p.addrs...)
		names = append(names, name)
	}
	slices.Sort(names)
	of := func(names []string) service.Service {
		var all [][]netip.Addr
		for _, n := range names {
			all = append(all, servers[n].addrs)
		}
		s, _ := virtual(1, all...)
		return s
	}
	_, vips := virtual(1)
	w.n1.serve(of(names))
	h := &churn.History{}
	h.Now(names...)
	l := newLoad(t)
	for _, vip := range vips {
		for range 2 {
			l.stream(vip.String(), func() error {
				since := h.At()
				conn, err := dial(w.client.NS, "tcp", netip.AddrPortFrom(vip, port))
				if err != nil {
					return err
				}
				defer conn.Close()
				name, err := question(conn)
				time.Sleep(time.Millisecond) // the two CPUs of a test machine have to make changes, too
				if err == nil && !h.Ever(name, since) {
					return fmt.Errorf("answered by %s, which had been removed before the connection began", name)
				}
				return err
			})
		}
	}
	pace := time.NewTicker(time.Second / 125)
	defer pace.Stop()
	begin, have := time.Now(), names
	const changes = 300
	for i := range changes {
		<-pace.C
		next := []string{names[i%3]}
		if i%2 == 0 {
			next = append(next, names[(i+1)%3])
		}
		h.Now(slices.Concat(have, next)...) // before it is told: either
		w.n1.set(of(next))
		h.Now(next...) // it is in the table
		have = next
	}
	took := time.Since(begin)
	l.more(5)
	l.end()
	t.Logf("%d changes, %.0f a second, %d connections", changes, changes/took.Seconds(), l.total())
}
