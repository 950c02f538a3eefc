package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/nad"
)

// A burst of pools, as of as many applications that are made at once, each of so many addresses.
const (
	carvedPools = 1000
	carvedSize  = 5
	makers      = 64 // side by side
)

const carveSubnet = `
apiVersion: berth.dev/v1alpha1
kind: Subnet
metadata: {name: bench}
spec: {network: bench, cidrs: [{cidr: 10.60.0.0/16, gateway: 10.60.0.1}]}
`

// measureCarve makes pools at once on an API server alone, with the controller as it is shipped, and waits until each has its addresses;
// then as many Deployments, each of which shall have a pool. Beside it stands what the API server takes of pools that list their
// addresses, with which nobody has any work.
func measureCarve(ctx context.Context, o options, r *report) (err error) {
	b, err := build(ctx, o, "./cmd/berth-controller")
	if err != nil {
		return err
	}
	defer b.remove()
	l, err := newLab(ctx, o, b)
	if err != nil {
		return err
	}
	c, err := newControl(ctx, l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.apply(ctx, c.kubeconfig, "", "-f", "deploy/install.yaml"); err != nil {
		return err
	}
	if err := c.kubectl(ctx, c.kubeconfig, "", "wait", "--for=condition=Established", "crd/subnets.berth.dev", "crd/ipblocks.berth.dev", "crd/ippools.berth.dev"); err != nil {
		return err
	}
	pools, _, err := v1alpha1.NewClients(c.rest)
	if err != nil {
		return err
	}
	took, err := atOnce(carvedPools, makers, func(i int) error { _, err := pools.Create(ctx, plainPool(i), metav1.CreateOptions{}); return err })
	if err != nil {
		return err
	}
	plain := Result{Name: "carve/plain", Unit: "pools/s", Value: carvedPools / took.Seconds(), Samples: carvedPools}
	if err := errors.Join(r.add(plain), pools.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})); err != nil {
		return err
	}
	k, err := runController(c, b)
	if err != nil {
		return err
	}
	defer k.stop()
	if err := c.apply(ctx, c.kubeconfig, carveSubnet, "-f", "-"); err != nil {
		return err
	}
	if err := c.kubectl(ctx, c.kubeconfig, "", "wait", "--timeout=60s", "--for=condition=Ready", "subnets.berth.dev/bench"); err != nil {
		return err
	}
	err = c.measureBurst(ctx, "carve/pools", k, pools, plain, r, carved{"pool-", func(i int) error {
		_, err := pools.Create(ctx, carvedPool(i), metav1.CreateOptions{})
		return err
	}})
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(c.rest)
	if err != nil {
		return err
	}
	return c.measureBurst(ctx, "carve/workloads", k, pools, plain, r, carved{"app-", func(i int) error {
		_, err := kube.AppsV1().Deployments(metav1.NamespaceDefault).Create(ctx, carvedDeployment(i), metav1.CreateOptions{})
		return err
	}})
}

// carved pools, by what their names begin with, come of what is made.
type carved struct {
	prefix string
	make   func(i int) error
}

// measureBurst makes all at once, and waits until as many pools are carved.
func (c *control) measureBurst(ctx context.Context, name string, k *controller, pools *v1alpha1.PoolClient, plain Result, r *report, of carved) error {
	before, err := c.counts(ctx)
	if err != nil {
		return err
	}
	cpu, err := k.cpu()
	if err != nil {
		return err
	}
	begin := time.Now()
	all := make(chan error, 1)
	go func() { all <- allCarved(ctx, pools, of.prefix) }()
	made, err := atOnce(carvedPools, makers, of.make)
	if err := errors.Join(err, <-all); err != nil {
		return err
	}
	took := time.Since(begin)
	time.Sleep(5 * time.Second) // statuses follow
	after, err := c.counts(ctx)
	if err != nil {
		return err
	}
	cpuAfter, err := k.cpu()
	if err != nil {
		return err
	}
	rate := Result{Name: name, Unit: "pools/s", Value: carvedPools / took.Seconds(), Samples: carvedPools, Aim: "50"}
	results := []Result{{Name: name + "/made", Unit: "/s", Value: carvedPools / made.Seconds(), Samples: carvedPools}, rate.against(plain, nil)}
	sum := Result{Name: name + "/requests", Unit: "requests/pool", Samples: carvedPools, Aim: "3"}
	for verb, n := range after.since(before, nil) {
		if verb == watchEvents || !strings.HasSuffix(verb, ".berth.dev") || strings.HasPrefix(verb, "LIST ippools") {
			continue // no part of it, or our own
		}
		if verb == "POST ippools.berth.dev" && of.prefix == "pool-" {
			continue // our own
		}
		sum.Value += n / carvedPools
		results = append(results, Result{Name: name + "/requests/" + verb, Unit: "requests/pool", Value: n / carvedPools})
	}
	slices.SortFunc(results[2:], func(a, b Result) int { return strings.Compare(a.Name, b.Name) })
	return r.add(append(results, sum, Result{Name: name + "/cpu", Unit: "ms/pool", Value: milliseconds(cpuAfter-cpu) / carvedPools, Samples: carvedPools})...)
}

// controller under measurement.
type controller struct{ cmd *exec.Cmd }

func runController(c *control, b *binaries) (*controller, error) {
	log, err := os.Create(b.path("controller.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(b.path("berth-controller"), "--kubeconfig", c.kubeconfig, "--no-leader-election", "--metrics-address", "0", "--health-address", "0")
	cmd.Stdout, cmd.Stderr = log, log
	return &controller{cmd}, cmd.Start()
}

func (k *controller) stop() {
	_ = k.cmd.Process.Kill()
	_ = k.cmd.Wait()
}

// cpu time that it has taken (proc_pid_stat(5), fields 14 and 15, of which Linux counts 100 a second).
func (k *controller) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", k.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

func plainPool(i int) *v1alpha1.IPPool {
	p := &v1alpha1.IPPool{}
	p.Name, p.Spec.Network = fmt.Sprintf("plain-%d", i), "plain"
	first := netip.AddrFrom4([4]byte{10, 61, byte(i >> 5), byte(i << 3)})
	last := netip.AddrFrom4([4]byte{10, 61, byte(i >> 5), byte(i<<3) + carvedSize - 1})
	p.Spec.Subnets = []v1alpha1.PoolSubnet{{CIDR: "10.61.0.0/16", Gateway: "10.61.255.254", IPs: []string{fmt.Sprintf("%s-%s", first, last)}}}
	return p
}

func carvedPool(i int) *v1alpha1.IPPool {
	p := &v1alpha1.IPPool{}
	p.Name, p.Spec.Network, p.Spec.Subnet, p.Spec.Size = fmt.Sprintf("pool-%d", i), "bench", "bench", new(int32(carvedSize))
	return p
}

// carvedDeployment needs as many addresses: one more than its replicas, for a rolling update.
func carvedDeployment(i int) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("w%d", i)}}
	labels := map[string]string{"app": d.Name}
	d.Spec.Replicas, d.Spec.Selector = new(int32(carvedSize-1)), &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template.ObjectMeta = metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{nad.SubnetAnnotation: "bench"}}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "none"}}
	return d
}

// allCarved follows pools until as many as there shall be have their addresses.
func allCarved(ctx context.Context, pools *v1alpha1.PoolClient, prefix string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	done := map[string]bool{}
	see := func(p *v1alpha1.IPPool) {
		if strings.HasPrefix(p.Name, prefix) && len(p.Spec.Subnets) > 0 && meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.PoolCarved) {
			done[p.Name] = true
		}
	}
	for ctx.Err() == nil {
		list, err := pools.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			see(&list.Items[i])
		}
		w, err := pools.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			return err
		}
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*v1alpha1.IPPool); ok {
				see(p)
			}
			if len(done) == carvedPools {
				w.Stop()
				return nil
			}
		}
	}
	return fmt.Errorf("only %d of %d pools are carved: %w", len(done), carvedPools, ctx.Err())
}
