package main

import (
	"context"
	"errors"
	"fmt"
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

// The Service of the server near, made after all others: once it is served, they are.
const lastService = `
apiVersion: v1
kind: Service
metadata: {name: bench-last}
spec:
  selector: {app: bench-near}
  ports:
  - {name: udp, port: 8081, protocol: UDP}
  - {name: echo, port: 8082}
  - {name: sink, port: 8083}
`

// tables serve what comes by vmac: Berth's own where there is no kube-proxy, or kube-proxy in one of its modes.
var tables = []table{
	{"iptables", "iptables", "KubeProxy", "iptables-save -t nat", ":KUBE-SERVICES "},
	{"nftables", "nftables", "KubeProxy", "nft list tables", "ip kube-proxy"},
	{"berth", "none", "OwnProxy", "nft list tables", "inet berth-services"}, // last, as it takes many Services best while they are made
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
	if err := c.apply(ctx, c.kubeconfig, lastService, "-f", "-"); err != nil {
		return err
	}
	many, err := c.rates(ctx, o, r, fmt.Sprintf("many/%d", manyServices), "bench-last", []table{tables[2], tables[1], tables[0]})
	if err != nil {
		return err
	}
	for _, f := range few {
		for _, m := range many {
			if f.Name != m.Name {
				continue
			}
			res := Result{Name: "many/over-few/" + f.Name, Unit: "of the ratio", Value: m.Value / f.Value}
			if f.aimed {
				res.Aim = "≥ 0.98"
			}
			if err := r.add(res); err != nil {
				return err
			}
		}
	}
	return nil
}

// rated is a way's median ratio to the raw one.
type rated struct {
	Name  string
	Value float64
	aimed bool
}

// rates by each table, and in fast mode once.
func (c *cluster) rates(ctx context.Context, o options, r *report, name, service string, by []table) (out []rated, err error) {
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
				out = append(out, rated{table.name + "/" + p.name + "/" + w.name, ratio, table.name == "berth"})
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
