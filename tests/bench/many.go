package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// What the many Services need besides: their namespace, and the pool of their endpoints, so that fast mode takes them for pods that it reaches.
const manyManifest = `
apiVersion: v1
kind: Namespace
metadata: {name: bench}
---
apiVersion: berth.dev/v1alpha1
kind: IPPool
metadata: {name: single}
spec:
  subnets: [{cidr: 10.210.0.0/16}]
`

// last Service of the server near, made after all others: once it is served, they are.
const last = "bench-last"

// tables serve what comes by vmac: Berth's own where there is no kube-proxy, or kube-proxy in one of its modes.
var tables = []table{
	{"iptables", "iptables", "KubeProxy", "iptables-save -t nat", ":KUBE-SERVICES "},
	{"nftables", "nftables", "KubeProxy", "nft list tables", "ip kube-proxy"},
	{"berth", "none", "OwnProxy", "nft list tables", "inet berth-services"}, // last, as it takes many Services best while they are made
}

func tableNames() (names []string) {
	for _, t := range tables {
		names = append(names, t.name)
	}
	return names
}

type table struct {
	name, proxyMode string
	reason          string // of the node's condition
	list, mark      string // the rules of the mode, and of no other, have the mark in this list
}

// measureMany measures a pod's round trips and connections on its node before and after there are many Services.
func measureMany(ctx context.Context, o options, r *report) (err error) {
	c, err := newCluster(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	cfg, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return err
	}
	cfg.QPS = -1
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}

	few, err := c.rates(ctx, o, r, "many/few", near, tables)
	if err != nil {
		return err
	}
	say("%d Services with %d endpoints", manyServices, manyServices*endpointsEach)
	if err := c.apply(ctx, c.kubeconfig, manyManifest, "-f", "-"); err != nil {
		return err
	}
	if err := makeManyServices(ctx, kube); err != nil {
		return err
	}
	if err := c.apply(ctx, c.kubeconfig, fmt.Sprintf(workloadService, last, near), "-f", "-"); err != nil {
		return err
	}
	by := slices.Clone(tables)
	slices.Reverse(by)
	many, err := c.rates(ctx, o, r, fmt.Sprintf("many/%d", manyServices), last, by)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(few)) {
		res := Result{Name: "many/over-few/" + name, Unit: "of the ratio", Value: many[name] / few[name]}
		if strings.HasPrefix(name, "berth/") {
			res.Aim = "≥ 0.98"
		}
		if err := r.add(res); err != nil {
			return err
		}
	}
	return nil
}

// rates are the median ratios to the raw way, by each table, and in fast mode once.
func (c *cluster) rates(ctx context.Context, o options, r *report, name, service string, by []table) (map[string]float64, error) {
	out := map[string]float64{}
	for _, table := range by {
		if err := c.serve(ctx, table); err != nil {
			return nil, err
		}
		ways, pids, err := c.ways(ctx, near, service, nearBare)
		if err != nil {
			return nil, err
		}
		if err := pin(true, pids...); err != nil {
			return nil, err
		}
		for _, p := range probes {
			if p.name != "tcp_rr" && p.name != "tcp_crr" {
				continue
			}
			for _, w := range ways {
				if w.name == "guarded" || w.name == "fast" && table.name != "berth" {
					continue
				}
				ratio, err := c.compare(ctx, o, r, name+"/"+table.name+"/"+p.name, p, w, true)
				if err != nil {
					return nil, err
				}
				out[table.name+"/"+p.name+"/"+w.name] = ratio
			}
		}
	}
	return out, nil
}

// serve by one of the tables, and by no other.
func (c *cluster) serve(ctx context.Context, by table) error {
	if err := c.run(ctx, "proxy", "node-a", by.proxyMode); err != nil {
		return err
	}
	for begin := time.Now(); ; time.Sleep(time.Second) {
		err := c.served(ctx, by)
		if err == nil {
			return nil
		}
		if time.Since(begin) > settled || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

func (c *cluster) served(ctx context.Context, by table) error {
	reason, err := c.get(ctx, "node/node-a", `.status.conditions[?(@.type=="BerthServicePath")].reason`)
	if err != nil || reason != by.reason {
		return errors.Join(fmt.Errorf("the service path of node-a is %q, not %q", reason, by.reason), err)
	}
	for _, table := range tables {
		out, err := c.output(ctx, "exec", append([]string{"node-a", "--"}, strings.Fields(table.list)...)...)
		if err != nil {
			return err
		}
		if has := strings.Contains(out, table.mark); has != (table == by) {
			return fmt.Errorf("node-a has rules of %s: %t", table.name, has)
		}
	}
	return nil
}
