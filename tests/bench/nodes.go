package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
)

// burstPods is the size of a burst on several nodes, and of its pool: the last pod gets the last address.
const burstPods = 1000

// fleet is nodes of one cluster, each with its agent, on this one machine. They have no service path, which is that of a machine.
type fleet struct {
	*node
	size   int
	pool   string
	agents []*exec.Cmd
}

const fleetObjects = `
apiVersion: berth.dev/v1alpha1
kind: IPPool
metadata: {name: %[1]s}
spec:
  network: %[1]s
  cooldown: 0s
  subnets: [{cidr: 10.%[2]d.0.0/16, ips: [10.%[2]d.0.1-10.%[2]d.3.232]}]
  nodeAffinity: {matchLabels: {fleet: %[1]s}}
`

const nodeObject = `---
apiVersion: v1
kind: Node
metadata: {name: %s, labels: {fleet: %s}}
`

func newFleet(ctx context.Context, n *node, size int) (*fleet, error) {
	f := &fleet{node: n, size: size, pool: fmt.Sprintf("burst-%d", size)}
	objects := fmt.Sprintf(fleetObjects, f.pool, 220+size)
	for i := range size {
		objects += fmt.Sprintf(nodeObject, f.name(i), f.pool)
	}
	if err := n.apply(ctx, n.kubeconfig, objects, "-f", "-"); err != nil {
		return f, err
	}
	for i := range size {
		a, err := n.runAgent(ctx, f.name(i), f.socket(i), "--service-path=false")
		if a != nil {
			f.agents = append(f.agents, a)
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

func (f *fleet) name(i int) string   { return fmt.Sprintf("%s-node-%d", f.pool, i) }
func (f *fleet) socket(i int) string { return f.path(f.name(i) + ".sock") }

func (f *fleet) close() error {
	var g errgroup.Group
	for _, a := range f.agents {
		g.Go(func() error { return stopAgent(a) })
	}
	return g.Wait()
}

// pods of one burst, in turn on each node: their sandboxes, and what the plugin of their node is given.
func (f *fleet) pods(ctx context.Context, round int) (plugins []plugin, sandboxes []sandbox, err error) {
	client, err := kubernetes.NewForConfig(f.rest)
	if err != nil {
		return nil, nil, err
	}
	plugins, sandboxes = make([]plugin, burstPods), make([]sandbox, burstPods)
	var g errgroup.Group
	g.SetLimit(8)
	for i := range burstPods {
		g.Go(func() error {
			p := podObject(fmt.Sprintf("%s-%d-%d", f.pool, round, i), f.pool, nil)
			p.Spec.NodeName = f.name(i % f.size)
			o, err := createPod(ctx, client, p)
			if err != nil {
				return err
			}
			plugins[i] = plugin{f.path("berth"), berthConfig("bridge", f.socket(i%f.size))}
			sandboxes[i] = newSandbox(pod{f.node.pods[i%podCount].netns, map[string]string{"": cniArgs(o)}}, "")
			return nil
		})
	}
	err = g.Wait()
	time.Sleep(time.Second) // the agents' watches have them by then
	return plugins, sandboxes, err
}

// hostLocal does the same with files of each node: the least that giving an address can cost, without anybody to agree with.
func (f *fleet) hostLocal(round int) (plugins []plugin) {
	for i := range burstPods {
		dir := f.path(fmt.Sprintf("host-local-%s-%d-%d", f.pool, round, i%f.size))
		plugins = append(plugins, plugin{f.part("host-local"), fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "host-local", "type": "bridge",
			"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.213.0.0/16"}]]}}`, dir)})
	}
	return plugins
}

// measureFleet takes bursts of as many pods as addresses: on addresses never used, then on released ones.
func measureFleet(ctx context.Context, n *node, r *report) error {
	for _, size := range []int{4, 8} {
		f, err := newFleet(ctx, n, size)
		if err == nil {
			err = f.measure(ctx, r)
		}
		if closeErr := f.close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) measure(ctx context.Context, r *report) error {
	for round, kind := range []string{"new", "released"} {
		say("burst of %d on %d nodes, %s addresses", burstPods, f.size, kind)
		plugins, sandboxes, err := f.pods(ctx, round)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("burst%d/%d-nodes/%s", burstPods, f.size, kind)
		local := rush(called(ctx, f.hostLocal(round), sandboxes, "ADD"))
		least := rush(func(i int) error { return f.contenders["floor"].add(ctx, i%podCount) })
		before, err := f.counts(ctx)
		if err != nil {
			return err
		}
		berth := rush(called(ctx, plugins, sandboxes, "ADD"))
		after, err := f.counts(ctx)
		if err != nil {
			return err
		}
		dels := rush(called(ctx, plugins, sandboxes, "DEL"))
		afterDel, err := f.countsAtRest(ctx)
		if err != nil {
			return err
		}
		hostLocal := Result{Name: name + "/host-local", Unit: "ADD/s", Value: local.rate}
		floor := Result{Name: name + "/floor", Unit: "ADD/s", Value: least.rate} // what any address known to the whole cluster costs here
		rate := Result{Name: name + "/berth", Unit: "ADD/s", Value: berth.rate}
		ofLocal := rate.against(hostLocal, nil)
		ofLocal.Aim = "≥ 1.0"
		if err := r.add(hostLocal, floor.against(hostLocal, nil), ofLocal, rate.against(floor, nil),
			Result{Name: name + "/errors", Unit: "errors", Value: float64(local.errors + least.errors + berth.errors + dels.errors), Samples: 4 * burstPods, Aim: "0"},
			Result{Name: name + "/requests", Unit: "requests/ADD", Value: after.since(before, nil).ofLeases() / burstPods, Samples: burstPods, Aim: "≤ 1.1"},
			Result{Name: name + "/watch", Unit: "events/change", Value: (after[watchEvents] - before[watchEvents]) / burstPods, Samples: burstPods,
				Aim: fmt.Sprint(f.size)}, // those that the pool serves, and none of the others
			Result{Name: name + "/requests", Unit: "requests/DEL", Value: afterDel.since(after, nil).ofLeases() / burstPods, Samples: burstPods, Aim: "1"},
		); err != nil {
			return err
		}
	}
	return nil
}

type rushed struct {
	rate   float64 // calls a second
	errors int64
}

// called are the calls of a verb.
func called(ctx context.Context, plugins []plugin, sandboxes []sandbox, verb string) func(i int) error {
	return func(i int) error {
		_, err := plugins[i].call(ctx, verb, sandboxes[i])
		return err
	}
}

// rush makes all calls at once.
func rush(call func(i int) error) rushed {
	var errs atomic.Int64
	took, _ := atOnce(burstPods, unlimited, func(i int) error {
		err := call(i)
		if err != nil && errs.Add(1) <= 3 {
			say("%v", err)
		}
		return err
	})
	return rushed{burstPods / took.Seconds(), errs.Load()}
}

// ofLeases are the requests for leases, and those for pods and namespaces that an ADD must not need.
func (c requestCounts) ofLeases() (sum float64) {
	for k, v := range c {
		if strings.HasSuffix(k, " ipleases.berth.dev") || k == "GET pods" || k == "GET namespaces" {
			sum += v
		}
	}
	return sum
}

// runAgent and wait until it says by STATUS that it can serve.
func (n *node) runAgent(ctx context.Context, name, socket string, flags ...string) (*exec.Cmd, error) {
	logFile := socket + ".log"
	log, err := os.Create(logFile)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	a := exec.Command(n.path("berth-agent"), append([]string{"--node-name", name, "--kubeconfig", n.agentID.kubeconfig, "--socket", socket,
		"--journal", socket + ".journal", "--state-dir", socket + ".state", "--plugin", "", "--metrics-address", "", "--pin-dir", n.path("bpf/berth")}, flags...)...)
	a.Stdout, a.Stderr = log, log
	if err := a.Start(); err != nil {
		return nil, fmt.Errorf("start berth-agent: %w", err)
	}
	status := plugin{path: n.path("berth"), config: berthConfig("bridge", socket)}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, err := status.call(ctx, "STATUS", sandbox{})
		if err == nil {
			return a, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			text, _ := os.ReadFile(logFile)
			return a, fmt.Errorf("berth-agent does not become ready: %w\n%s", err, text)
		}
	}
}

func stopAgent(a *exec.Cmd) error {
	_ = a.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(10*time.Second, func() { _ = a.Process.Kill() })
	defer kill.Stop()
	if err := a.Wait(); err != nil {
		return fmt.Errorf("berth-agent: %w", err)
	}
	return nil
}
