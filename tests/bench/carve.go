package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/api/v1alpha1"
)

// A burst of pools, as of as many applications that are made at once, each of so many addresses.
const (
	carvedPools = 1000
	carvedSize  = 5
)

const carveSubnet = `
apiVersion: berth.dev/v1alpha1
kind: Subnet
metadata: {name: bench}
spec: {network: bench, cidrs: [{cidr: 10.60.0.0/16, gateway: 10.60.0.1}]}
`

// measureCarve makes pools at once on an API server alone, with the controller as it is shipped, and waits until each has its addresses.
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
	stop, err := runController(c, b)
	if err != nil {
		return err
	}
	stop = sync.OnceValue(stop)
	defer stop()
	if err := c.apply(ctx, c.kubeconfig, carveSubnet, "-f", "-"); err != nil {
		return err
	}
	if err := c.kubectl(ctx, c.kubeconfig, "", "wait", "--timeout=60s", "--for=condition=Ready", "subnets.berth.dev/bench"); err != nil {
		return err
	}
	before, err := c.counts(ctx)
	if err != nil {
		return err
	}
	begin := time.Now()
	made, err := c.makePools(ctx)
	if err != nil {
		return err
	}
	took, err := c.wait(ctx, begin)
	if err != nil {
		return err
	}
	time.Sleep(5 * time.Second) // statuses follow
	after, err := c.counts(ctx)
	if err != nil {
		return err
	}
	results := []Result{
		{Name: "carve/made", Unit: "pools/s", Value: carvedPools / made.Seconds(), Samples: carvedPools},
		{Name: "carve/carved", Unit: "pools/s", Value: carvedPools / took.Seconds(), Samples: carvedPools},
	}
	sum := Result{Name: "carve/requests", Unit: "requests/pool", Samples: carvedPools}
	for k, v := range after.since(before, nil) {
		if k == "POST ippools.berth.dev" || strings.HasPrefix(k, "LIST ippools") || k == watchEvents || !strings.HasSuffix(k, ".berth.dev") {
			continue // our own; and no part of it
		}
		sum.Value += v / carvedPools
		results = append(results, Result{Name: "carve/requests/" + k, Unit: "requests/pool", Value: v / carvedPools})
	}
	cpu := Result{Name: "carve/cpu", Unit: "ms/pool", Value: milliseconds(stop()) / carvedPools, Samples: carvedPools}
	return r.add(append(results, sum, cpu)...)
}

// runController until stop is called, which says what CPU time it took.
func runController(c *control, b *binaries) (stop func() time.Duration, err error) {
	log, err := os.Create(b.path("controller.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(b.path("berth-controller"), "--kubeconfig", c.kubeconfig, "--no-leader-election", "--metrics-address", "0", "--health-address", "0")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() time.Duration {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}, nil
}

// makePools at once; how long that took.
func (c *control) makePools(ctx context.Context) (time.Duration, error) {
	pools, _, err := v1alpha1.NewClients(c.rest)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	var g errgroup.Group
	g.SetLimit(64)
	for i := range carvedPools {
		g.Go(func() error {
			p := &v1alpha1.IPPool{}
			p.Name, p.Spec.Network, p.Spec.Subnet, p.Spec.Size = fmt.Sprintf("app-%d", i), "bench", "bench", new(int32(carvedSize))
			_, err := pools.Create(ctx, p, metav1.CreateOptions{})
			return err
		})
	}
	err = g.Wait()
	return time.Since(begin), err
}

// wait until all pools have their addresses; how long after begin that was.
func (c *control) wait(ctx context.Context, begin time.Time) (time.Duration, error) {
	pools, _, err := v1alpha1.NewClients(c.rest)
	if err != nil {
		return 0, err
	}
	for deadline := time.Now().Add(15 * time.Minute); ; time.Sleep(2 * time.Second) {
		list, err := pools.List(ctx, metav1.ListOptions{})
		if err != nil {
			return 0, err
		}
		n := 0
		for i := range list.Items {
			if p := &list.Items[i]; len(p.Spec.Subnets) > 0 && meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.PoolCarved) {
				n++
			}
		}
		if n == carvedPools {
			return time.Since(begin), nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("only %d of %d pools are carved after %s", n, carvedPools, time.Since(begin))
		}
	}
}
