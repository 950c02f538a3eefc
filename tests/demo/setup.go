package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/berthdev/berth/api/v1alpha1"
)

const (
	namespace = "demo"
	workload  = "-f docs/examples/3-second-interface.yaml -f docs/examples/4-default-network.yaml"
	remove    = "delete --ignore-not-found --cascade=foreground --timeout 60s " + workload
)

// subnets of the zones, as the lab lays them out. They are not read from the pools, which are to be proved.
var subnets = map[string][]netip.Prefix{
	"a": {netip.MustParsePrefix("10.6.0.0/16"), netip.MustParsePrefix("fd00:6::/64")},
	"b": {netip.MustParsePrefix("10.7.0.0/16"), netip.MustParsePrefix("fd00:7::/64")},
}

// demo is what the steps know of the cluster.
type demo struct {
	lab
	kube   kubernetes.Interface
	leases *v1alpha1.LeaseClient
	zones  map[string]string // by node
	pods   []pod
}

// pod of the application.
type pod struct {
	name, app, node, ifName string
	addrs                   []netip.Addr // on the macvlan interface, IPv4 first
}

func (p pod) String() string { return p.name + " on " + p.node }

func (d *demo) cluster(ctx context.Context) error {
	if err := d.run(ctx, "up"); err != nil {
		return err
	}
	if err := d.enter(ctx); err != nil {
		return err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	if d.kube, err = kubernetes.NewForConfig(cfg); err != nil {
		return err
	}
	if _, d.leases, err = v1alpha1.NewClients(cfg); err != nil {
		return err
	}
	nodes, err := d.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	d.zones = map[string]string{}
	for _, n := range nodes.Items {
		d.zones[n.Name] = n.Labels[corev1.LabelTopologyZone]
	}
	return kubectl(ctx, "get nodes -L topology.kubernetes.io/zone")
}

func (d *demo) install(ctx context.Context) error {
	if err := d.run(ctx, "load", "dist/image.tar"); err != nil {
		return err
	}
	agents := d.kube.AppsV1().DaemonSets("berth-system")
	_, before := agents.Get(ctx, "berth-agent", metav1.GetOptions{})
	if err := kubectl(ctx, "apply -f deploy/install.yaml"); err != nil {
		return err
	}
	if before == nil { // it was there, and the image has changed under its name
		if err := kubectl(ctx, "-n berth-system rollout restart daemonset/berth-agent deployment/berth-controller"); err != nil {
			return err
		}
	}
	if err := kubectl(ctx,
		"-n berth-system rollout status --timeout 120s daemonset/berth-agent",
		"-n berth-system rollout status --timeout 120s deployment/berth-controller"); err != nil {
		return err
	}
	ds, err := agents.Get(ctx, "berth-agent", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if int(ds.Status.NumberReady) != len(d.zones) {
		return fmt.Errorf("berth-agent is ready on %d of %d nodes", ds.Status.NumberReady, len(d.zones))
	}
	proved("berth-agent is ready on all %d nodes", len(d.zones))
	if _, err := d.kube.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{}); err == nil {
		say("\nThe application of the demonstration before goes away:")
		return kubectl(ctx, remove)
	}
	return nil
}

func (d *demo) pools(ctx context.Context) error {
	return kubectl(ctx, "apply -f docs/examples/1-pools.yaml",
		"wait --for condition=Ready --timeout 30s ippool/zone-a ippool/zone-b", "get ippools")
}

func (d *demo) network(ctx context.Context) error {
	return kubectl(ctx, "apply -f docs/examples/2-network.yaml")
}

func (d *demo) application(ctx context.Context) error {
	return kubectl(ctx, "apply "+workload,
		"-n demo rollout status --timeout 120s daemonset/quotes", "-n demo rollout status --timeout 120s deployment/orders")
}

func (d *demo) deletion(ctx context.Context) error {
	if err := kubectl(ctx, remove); err != nil {
		return err
	}
	if err := eventually(ctx, 15*time.Second, func() error {
		leases, err := d.bound(ctx)
		if err == nil && len(leases) > 0 {
			err = fmt.Errorf("%d leases are Bound; %s is, to pod %s, which is gone", len(leases), leases[0].Name, leases[0].Spec.Holder.Pod)
		}
		return err
	}); err != nil {
		return err
	}
	if err := kubectl(ctx, "get ipleases --field-selector spec.phase=Bound"); err != nil {
		return err
	}
	proved("no lease is Bound")
	return nil
}

// bound leases of the application.
func (d *demo) bound(ctx context.Context) ([]v1alpha1.IPLease, error) {
	list, err := d.leases.List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelNamespace + "=" + namespace})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(l v1alpha1.IPLease) bool { return l.Spec.Phase != v1alpha1.LeaseBound }), nil
}

// addresses reads pods and leases, prints them, and checks them against the zones and against what the pods see.
func (d *demo) addresses(ctx context.Context) error {
	list, err := d.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	leases, err := d.bound(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(&indented{w: os.Stdout}, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "POD\tNODE\tZONE\tINTERFACE\tPOOL\tIPV4\tIPV6")
	d.pods = nil
	for _, item := range list.Items {
		p := pod{name: item.Name, app: item.Labels["app"], node: item.Spec.NodeName}
		pool := ""
		for _, l := range leases {
			if l.Spec.Holder.UID == item.UID {
				p.ifName, pool = l.Spec.Holder.Interface, l.Spec.Pool
				p.addrs = append(p.addrs, netip.MustParseAddr(l.Spec.Address))
			}
		}
		slices.SortFunc(p.addrs, netip.Addr.Compare)
		d.pods = append(d.pods, p)
		addrs := strings.ReplaceAll(strings.Trim(fmt.Sprint(p.addrs), "[]"), " ", "\t")
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", p.name, p.node, d.zones[p.node], p.ifName, pool, addrs)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range d.pods {
		if len(p.addrs) != 2 {
			return fmt.Errorf("pod %s holds %d leases, not one for each family", p, len(p.addrs))
		}
		seen, err := inPod(ctx, p.name, "ip addr show dev "+p.ifName)
		if err != nil {
			return err
		}
		zone := d.zones[p.node]
		for i, a := range p.addrs {
			if !subnets[zone][i].Contains(a) {
				return fmt.Errorf("pod %s, in zone %s, has %s, which is not of that zone's %s", p, zone, a, subnets[zone][i])
			}
			if !strings.Contains(seen, " "+a.String()+"/") {
				return fmt.Errorf("pod %s holds the lease of %s, but its %s has\n%s", p, a, p.ifName, seen)
			}
		}
	}
	proved("%d pods, each with an IPv4 and an IPv6 address of its node's zone", len(d.pods))
	return nil
}
