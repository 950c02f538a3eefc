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
	namespace      = "demo"
	berthNamespace = "berth-system"
	workload       = "-f docs/examples/3-second-interface.yaml -f docs/examples/4-default-network.yaml"
)

// subnets of the zones, as the lab lays them out. They are not read from the pools, which are to be proved.
var subnets = map[string][]netip.Prefix{
	"a": {netip.MustParsePrefix("10.6.0.0/16"), netip.MustParsePrefix("fd00:6::/64")},
	"b": {netip.MustParsePrefix("10.7.0.0/16"), netip.MustParsePrefix("fd00:7::/64")},
}

// demo is what the steps know of the cluster.
type demo struct {
	*lab
	kube   kubernetes.Interface
	leases *v1alpha1.LeaseClient
	nodes  map[string]*corev1.Node
	pods   []pod
}

// pod of the application.
type pod struct {
	name, app, node, zone, ifName string
	addrs                         []netip.Addr // on the macvlan interface, IPv4 first
}

func (p pod) String() string { return p.name + " on " + p.node }

func cluster(ctx context.Context, d *demo) error {
	if err := d.run(ctx, "up"); err != nil {
		return err
	}
	if err := d.readEnv(ctx); err != nil {
		return err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", d.value("KUBECONFIG"))
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
	d.nodes = map[string]*corev1.Node{}
	for i, n := range nodes.Items {
		d.nodes[n.Name] = &nodes.Items[i]
	}
	return d.kubectl(ctx, "get nodes -L topology.kubernetes.io/zone -o wide")
}

func install(ctx context.Context, d *demo) error {
	if err := d.run(ctx, "load", "dist/image.tar"); err != nil {
		return err
	}
	_, err := d.kube.AppsV1().DaemonSets(berthNamespace).Get(ctx, "berth-agent", metav1.GetOptions{})
	again := err == nil
	commands := []string{"apply -f deploy/install.yaml"}
	if again { // the image has changed under its name
		commands = append(commands, "-n "+berthNamespace+" rollout restart daemonset/berth-agent deployment/berth-controller")
	}
	commands = append(commands,
		"-n "+berthNamespace+" rollout status --timeout 120s daemonset/berth-agent",
		"-n "+berthNamespace+" rollout status --timeout 120s deployment/berth-controller")
	if again {
		commands = append(commands, "delete --ignore-not-found --cascade foreground "+workload) // of the demonstration before
	}
	for _, c := range commands {
		if err := d.kubectl(ctx, c); err != nil {
			return err
		}
	}
	ds, err := d.kube.AppsV1().DaemonSets(berthNamespace).Get(ctx, "berth-agent", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if int(ds.Status.NumberReady) != len(d.nodes) {
		return fmt.Errorf("berth-agent is ready on %d of %d nodes", ds.Status.NumberReady, len(d.nodes))
	}
	proved("berth-agent is ready on all %d nodes", len(d.nodes))
	return nil
}

func pools(ctx context.Context, d *demo) error {
	if err := d.kubectl(ctx, "apply -f docs/examples/1-pools.yaml"); err != nil {
		return err
	}
	if err := d.kubectl(ctx, "wait --for condition=Ready --timeout 30s ippool/zone-a ippool/zone-b"); err != nil {
		return err
	}
	return d.kubectl(ctx, "get ippools")
}

func network(ctx context.Context, d *demo) error {
	return d.kubectl(ctx, "apply -f docs/examples/2-network.yaml")
}

func application(ctx context.Context, d *demo) error {
	for _, c := range []string{
		"apply " + workload,
		"-n demo rollout status --timeout 60s daemonset/quotes",
		"-n demo rollout status --timeout 60s deployment/orders",
	} {
		if err := d.kubectl(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// addresses reads pods and leases, prints them, and checks both against the zones and against what the pods themselves see.
func addresses(ctx context.Context, d *demo) error {
	pods, err := d.kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	leases, err := d.bound(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(indented{os.Stdout}, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "POD\tNODE\tZONE\tINTERFACE\tPOOL\tADDRESSES")
	d.pods = nil
	for _, p := range pods.Items {
		node := d.nodes[p.Spec.NodeName]
		out := pod{name: p.Name, app: p.Labels["app"], node: node.Name, zone: node.Labels[corev1.LabelTopologyZone]}
		var from []string
		for _, l := range leases {
			if l.Spec.Holder.UID == p.UID {
				out.addrs = append(out.addrs, netip.MustParseAddr(l.Spec.Address))
				out.ifName, from = l.Spec.Holder.Interface, append(from, l.Spec.Pool)
			}
		}
		slices.SortFunc(out.addrs, netip.Addr.Compare)
		d.pods = append(d.pods, out)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", out.name, out.node, out.zone, out.ifName,
			strings.Join(slices.Compact(from), " "), strings.Trim(fmt.Sprint(out.addrs), "[]"))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range d.pods {
		seen, err := d.inPod(ctx, p.name, "ip", "addr", "show", "dev", p.ifName)
		if err != nil {
			return err
		}
		if len(p.addrs) != 2 {
			return fmt.Errorf("pod %s holds %d addresses, not one of each family", p, len(p.addrs))
		}
		for i, a := range p.addrs {
			if subnet := subnets[p.zone][i]; !subnet.Contains(a) {
				return fmt.Errorf("pod %s in zone %s has %s, which is not of that zone's %s", p, p.zone, a, subnet)
			}
			if !strings.Contains(seen, " "+a.String()+"/") {
				return fmt.Errorf("pod %s holds %s, but its %s has:\n%s", p, a, p.ifName, seen)
			}
		}
	}
	proved("%d pods, each with an IPv4 and an IPv6 address of its node's zone on its interface", len(d.pods))
	return nil
}

// bound leases of the application.
func (d *demo) bound(ctx context.Context) (out []v1alpha1.IPLease, err error) {
	list, err := d.leases.List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelNamespace + "=" + namespace})
	if err != nil {
		return nil, err
	}
	for _, l := range list.Items {
		if l.Spec.Phase == v1alpha1.LeaseBound {
			out = append(out, l)
		}
	}
	return out, nil
}

func deletion(ctx context.Context, d *demo) error {
	if err := d.kubectl(ctx, "delete --cascade foreground "+workload); err != nil {
		return err
	}
	if err := eventually(ctx, 15*time.Second, func() error {
		leases, err := d.bound(ctx)
		if err == nil && len(leases) > 0 {
			err = fmt.Errorf("%d leases are Bound, one of them %s to pod %s, which is gone", len(leases), leases[0].Name, leases[0].Spec.Holder.Pod)
		}
		return err
	}); err != nil {
		return err
	}
	if err := d.kubectl(ctx, "get ipleases"); err != nil {
		return err
	}
	proved("no lease is Bound")
	return nil
}
