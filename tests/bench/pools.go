package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// The pools of measurePools: what is compared is the same ADD in each.
var poolSizes = []struct{ name, cidr string }{{"pool-24", "10.240.0.0/24"}, {"pool-16-used", "10.241.0.0/16"}, {"pool-64", "fd00:242::/64"}}

// rssLeases is how many leases an agent sees when its memory is measured.
const rssLeases = 20000

// measurePools compares ADD in a small pool with ADD in a big one that is mostly used, and in a /64.
func measurePools(ctx context.Context, o options, n *node, r *report) error {
	objects := ""
	for _, p := range poolSizes {
		objects += fmt.Sprintf("---\napiVersion: berth.dev/v1alpha1\nkind: IPPool\nmetadata: {name: %[1]s}\nspec: {network: %[1]s, subnets: [{cidr: %[2]q}]}\n",
			p.name, p.cidr)
	}
	if err := n.apply(ctx, n.kubeconfig, objects, "-f", "-"); err != nil {
		return err
	}
	say("%d leases in %s", o.leases, poolSizes[1].name)
	if err := n.fill(ctx, poolSizes[1].name, 0, min(o.leases, rssLeases)); err != nil {
		return err
	}
	rss, err := n.residentMiB()
	if err != nil {
		return err
	}
	memory := Result{Name: fmt.Sprintf("agent/rss/%d-leases", min(o.leases, rssLeases)), Unit: "MiB", Value: rss, Aim: "≤ 60"}
	if err := n.fill(ctx, poolSizes[1].name, rssLeases, o.leases); err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(n.rest)
	if err != nil {
		return err
	}
	contenders := map[string]*pluginContender{}
	for _, p := range poolSizes {
		contenders[p.name] = newPluginContender(plugin{n.path("berth"), berthConfig("bridge", n.socket())}, p.name, n.pods)
	}
	times := map[string]sample{}
	const rounds = 3
	for round := range rounds + 1 {
		say("ADD in pools of all sizes, round %d of %d (0 warms up)", round, rounds)
		var adds, dels []call
		for _, p := range poolSizes {
			for i, pod := range n.pods {
				o, err := createPod(ctx, client, podObject(fmt.Sprintf("%s-%d-%d", p.name, round, i), p.name, nil))
				if err != nil {
					return err
				}
				pod.args[p.name] = cniArgs(o)
			}
			adds = append(adds, call{p.name, func(i int) error { return contenders[p.name].add(ctx, i) }})
			dels = append(dels, call{p.name, func(i int) error { return contenders[p.name].del(ctx, i) }})
		}
		time.Sleep(300 * time.Millisecond) // the agent's watch has the pods by then
		taken, err := inTurn(ctx, podCount, o.pause, adds)
		if err != nil {
			return err
		}
		if _, err := inTurn(ctx, podCount, 0, dels); err != nil {
			return err
		}
		for name, s := range taken {
			if round > 0 {
				times[name] = append(times[name], s...)
			}
		}
	}
	first, small := poolSizes[0].name, Result{}
	results := []Result{memory}
	for _, p := range poolSizes {
		res := summary("ADD/"+p.name+"/p50", "ms", times[p.name], 0.5)
		if p.name == first {
			small = res
		} else {
			res = res.against(small, times[p.name].medians(podCount).over(times[first].medians(podCount)))
			res.Aim = "≤ 1.2"
		}
		results = append(results, res)
	}
	return r.add(results...)
}

// fill a pool with bound leases of other nodes, the i-th to the (end-1)-th, here and there.
func (n *node) fill(ctx context.Context, pool string, i, end int) error {
	floor, err := newFloor(n.rest, leaseGroup, pool, n.contenders["noop"].(*pluginContender))
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(16)
	for ; i < end; i++ {
		k := uint16(i) * 48271 // odd, so each number comes once
		if k == 0 || k == 65535 {
			continue
		}
		a := netip.AddrFrom4([4]byte{10, 241, byte(k >> 8), byte(k)})
		g.Go(func() error {
			_, err := floor.client.Create(ctx, ipam.NewLease(floor.pool, a, ipam.Claimant{Holder: v1alpha1.LeaseHolder{
				Namespace: "elsewhere", Pod: "pod-" + a.String(), UID: "00000000-0000-0000-0000-000000000000", Node: fmt.Sprintf("elsewhere-%d", i%100),
				ContainerID: strings.Repeat("0", 64), Interface: podLink, Attachment: "bench-bridge", MAC: "02:00:00:00:00:00",
			}}, time.Now()), metav1.CreateOptions{})
			return err
		})
	}
	return g.Wait()
}

// residentMiB is the agent's memory, once its watch is through.
func (n *node) residentMiB() (float64, error) {
	time.Sleep(5 * time.Second)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.agent.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kib, err := strconv.ParseFloat(strings.Fields(rest + " -")[0], 64)
	return kib / 1024, err
}
