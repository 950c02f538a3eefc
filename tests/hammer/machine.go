package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/agent"
	"github.com/berthdev/berth/delegate"
)

// machine is a node: its agent, whose state on disk survives it, and the sandboxes that its runtime has.
//
//	state  agent  sandboxes  to the API server  node object
//	up     runs   run        yes                Ready
//	cut    runs   run        no                 not Ready, when that is noticed
//	off    gone   none       no                 not Ready, tainted out-of-service, or deleted
type machine struct {
	*world
	name string
	log  *slog.Logger
	wire *wire
	skew atomic.Int64 // of its clock

	mu        sync.Mutex
	state     machineState
	life      *agentLife
	lives     int
	sandboxes map[string]*sandbox
	noticed   bool // the node object says that the machine is not up
}

type machineState string

const (
	up  machineState = "up"
	cut machineState = "cut"
	off machineState = "off"
)

// agentLife is one run of the agent.
type agentLife struct {
	socket string
	ctx    context.Context // ends with it
	end    context.CancelFunc
	conn   *conn
}

// sandbox of a pod, as the runtime has it.
type sandbox struct {
	id         string
	pod        *corev1.Pod
	interfaces []string
	keeper     string // of its addresses, beyond the pod; "": none
	gone       bool
	orphan     bool // the pod's object is gone, the machine has not heard of it
}

func (w *world) newMachine(i int) *machine {
	m := &machine{world: w, name: fmt.Sprintf("node-%d", i), sandboxes: map[string]*sandbox{}, state: up,
		wire: &wire{rng: w.random("wire", i), count: w.history.count}}
	m.log = w.logger(m.name)
	return m
}

// start the agent, as after its end.
func (m *machine) start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != nil {
		return nil
	}
	m.lives++
	l := &agentLife{socket: filepath.Join(m.dir, m.name, fmt.Sprintf("agent-%d.sock", m.lives)), conn: m.wire.connect()}
	a, err := agent.New(agent.Config{NodeName: m.name, Socket: l.socket, NoServicePath: true, Now: m.now, MaxSilence: controllerReturnAfter / 5,
		Journal: filepath.Join(m.dir, m.name, "journal")}, l.conn.into(m.config), m.log)
	if err != nil {
		return err
	}
	l.ctx, l.end = context.WithCancel(context.Background())
	m.life = l
	m.tasks.Go(func() {
		if err := a.Run(l.ctx); err != nil && l.ctx.Err() == nil {
			m.history.violate(Event{Kind: Fault, Node: m.name, Note: err.Error()}, "the agent ends by itself: "+err.Error())
		}
	})
	m.tasks.Go(func() { // killed at a write
		select {
		case <-l.ctx.Done():
		case <-l.conn.ended:
			m.history.add(Event{Kind: Fault, Node: m.name, Note: "agent killed at a write"})
			m.bury(l)
			if err := m.start(); err != nil {
				m.history.violate(Event{Kind: Fault, Node: m.name}, err.Error())
			}
		}
	})
	return nil
}

func (m *machine) now() time.Time { return time.Now().Add(time.Duration(m.skew.Load())) }

// bury a life that has ended.
func (m *machine) bury(l *agentLife) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.end()
	if m.life == l {
		m.life = nil
	}
}

// kill the agent at once.
func (m *machine) kill(why string) {
	m.mu.Lock()
	l := m.life
	m.life = nil
	m.mu.Unlock()
	if l != nil {
		m.history.add(Event{Kind: Fault, Node: m.name, Note: "agent killed: " + why})
		l.end()
		l.conn.end()
	}
}

// stop the agent as for an update: it ends what it has begun.
func (m *machine) stop() {
	m.mu.Lock()
	l := m.life
	m.life = nil
	m.mu.Unlock()
	if l != nil {
		m.history.add(Event{Kind: Fault, Node: m.name, Note: "agent stopped"})
		l.end()
	}
}

var errNoAgent = errors.New("the agent does not answer")

// call a verb over the socket, as the plugin does. If the agent dies meanwhile the plugin has no answer.
func (m *machine) call(ctx context.Context, verb string, req *delegate.Request) (*types100.Result, error) {
	m.mu.Lock()
	l := m.life
	m.mu.Unlock()
	if l == nil {
		return nil, errNoAgent
	}
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	body, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.socket)
	}}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://berth"+verb, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: transport}).Do(post)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoAgent, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		e := &delegate.Error{}
		if err := json.NewDecoder(resp.Body).Decode(e); err != nil {
			return nil, err
		}
		return nil, e
	}
	if verb != delegate.PathAdd {
		return nil, nil
	}
	res := &types100.Result{}
	return res, json.NewDecoder(resp.Body).Decode(res)
}

// putNode makes or changes the node's object.
func (m *machine) putNode(ctx context.Context, status corev1.ConditionStatus, outOfService bool) error {
	return m.insist(ctx, func() error {
		nodes := m.kube.CoreV1().Nodes()
		n, err := nodes.Get(ctx, m.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.name}}, metav1.CreateOptions{})
			if err == nil || apierrors.IsAlreadyExists(err) {
				n, err = nodes.Get(ctx, m.name, metav1.GetOptions{})
			}
		}
		if err != nil {
			return err
		}
		n.Spec.Taints = nil
		if outOfService {
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
		}
		if n, err = nodes.Update(ctx, n, metav1.UpdateOptions{}); err != nil {
			return err
		}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
		if _, err = nodes.UpdateStatus(ctx, n, metav1.UpdateOptions{}); err == nil {
			m.history.add(Event{Kind: Object, Node: m.name, Note: fmt.Sprintf("node has Ready %s, out of service %t", status, outOfService)})
		}
		return err
	})
}

func (m *machine) deleteNode(ctx context.Context) error {
	return m.insist(ctx, func() error {
		err := m.kube.CoreV1().Nodes().Delete(ctx, m.name, metav1.DeleteOptions{})
		if err == nil {
			m.history.add(Event{Kind: Object, Node: m.name, Note: "node deleted"})
		}
		return unlessGone(err)
	})
}

// newSandbox of a pod, which the machine must be up to make.
func (m *machine) newSandbox(p *corev1.Pod, interfaces []string, id string) (*sandbox, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state == off {
		return nil, errNoAgent
	}
	s := &sandbox{id: id, pod: p, interfaces: interfaces}
	if owner := metav1.GetControllerOf(p); owner != nil {
		s.keeper = fmt.Sprintf("%s %s (%.8s), pod %s", owner.Kind, owner.Name, owner.UID, p.Name)
	}
	m.sandboxes[id] = s
	return s, os.WriteFile(m.netns(id), nil, 0o600)
}

// has says whether the sandbox is there.
func (m *machine) has(s *sandbox) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return s != nil && !s.gone
}

// netns stands for the sandbox's network namespace: it is there as long as the sandbox is.
func (m *machine) netns(id string) string { return filepath.Join(m.dir, m.name, "netns-"+id) }

// end a sandbox: its interfaces are gone, with a DEL or without.
func (m *machine) end(s *sandbox, why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.endLocked(s, why)
}

func (m *machine) endLocked(s *sandbox, why string) {
	if s.gone {
		return
	}
	s.gone = true
	delete(m.sandboxes, s.id)
	for _, i := range s.interfaces {
		m.history.add(Event{Kind: Vanished, Node: m.name, Pod: s.pod.Name, Of: s.of(i), Note: why})
	}
	if err := os.Remove(m.netns(s.id)); err != nil {
		m.log.Warn("namespace of a sandbox", "err", err)
	}
}

func (s *sandbox) of(ifName string) Interface { return Interface{s.pod.UID, s.id, ifName} }
