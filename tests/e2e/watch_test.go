package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// packet that a watch shows, without what differs from one to the next.
type packet struct{ At, Drop, Protocol, Detail, From, To string }

// watching is a kubectl berth trace --watch.
type watching struct {
	*exec.Cmd
	complaint bytes.Buffer
	mu        sync.Mutex
	seen      []packet
	ended     chan error
}

func (s *space) watch(p *corev1.Pod, service string) *watching {
	s.Helper()
	w := &watching{ended: make(chan error, 1), Cmd: exec.Command(filepath.Join(on.lab.root, "bin", "kubectl-berth"), "trace", "--kubeconfig", on.lab.kubeconfig(),
		"-n", s.name, "pod/"+p.Name, service, "--watch", "-o", "json")}
	out, err := w.StdoutPipe()
	must(s, err)
	w.Stderr = &w.complaint
	must(s, w.Start())
	s.Cleanup(func() { _ = w.Process.Kill() })
	go func() {
		for lines := json.NewDecoder(out); ; {
			var p packet
			if err := lines.Decode(&p); err != nil {
				if errors.Is(err, io.EOF) {
					err = w.Wait()
				}
				w.ended <- err
				return
			}
			for _, end := range []*string{&p.From, &p.To} { // a client's port is of no account
				if a, err := netip.ParseAddrPort(*end); err == nil && a.Port() > 9999 {
					*end = a.Addr().String()
				}
			}
			w.mu.Lock()
			w.seen = append(w.seen, p)
			w.mu.Unlock()
		}
	}()
	return w
}

// shows waits for these packets, which do makes.
func (w *watching) shows(t testing.TB, do func(), want ...packet) {
	t.Helper()
	eventually(t, patience, "packets are shown", func(context.Context) error {
		do()
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, p := range want {
			if !slices.Contains(w.seen, p) {
				return fmt.Errorf("not among %d packets: %+v; the last: %+v", len(w.seen), p, w.seen[max(0, len(w.seen)-20):])
			}
		}
		return nil
	})
}

// TestWatch: a pod's packets to a Service and back are shown where they pass, and what the source guard drops; until it is interrupted.
func TestWatch(t *testing.T) {
	s := newSpace(t)
	s.underlay("underlay", nil)
	pool := s.pool("pool", s.ranges("a", 1, 9))
	server := s.start("server", onNode(nodeA), s.firstOf(pool))
	p := s.start("client", onNode(nodeA), s.firstOf(pool), note(fastMode, "Disabled"))
	web := s.serve("web", map[string]string{"app": "server"}).Spec.ClusterIPs[0] + ":80"
	own, _ := s.boundTo(p, "eth0")
	to, _ := s.boundTo(server, "eth0")
	client := own[0].String()

	w := s.watch(p, "web:http")
	w.shows(t, func() { s.reach(p, "get -4 -timeout 3s http://"+web) },
		packet{"pod sends", "", "TCP", "SYN", client, web}, packet{"vmac receives", "", "TCP", "SYN", client, web},
		packet{"vmac sends", "", "TCP", "SYN ACK", web, client}, packet{"pod receives", "", "TCP", "SYN ACK", web, client})
	backend := netip.AddrPortFrom(to[0], 8080).String()
	s.reach(p, "get -timeout 3s http://"+backend) // so that no ARP request comes before, which would be dropped first
	forged := s.addr4("a", 99)
	nodeA.sendAs(t, "eth0", own[0], forged, to[0])
	w.shows(t, func() { _, _ = s.exec(p, "testapp", "get", "-timeout", "300ms", "http://"+backend) },
		packet{"source drops", "source_ipv4", "TCP", "SYN", forged.String(), backend})

	must(t, w.Process.Signal(os.Interrupt))
	select {
	case err := <-w.ended:
		if err != nil || w.complaint.Len() > 0 {
			t.Errorf("interrupted: %v, %s", err, w.complaint.String())
		}
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
	eventually(t, patience, "another may watch", func(ctx context.Context) error {
		_, err := berth(ctx, "trace", "-n", s.name, "pod/"+p.Name, "--watch", "--for", "100ms")
		return err
	})
}
