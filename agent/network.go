package agent

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/yaml"

	"github.com/berthdev/berth/agent/path"
)

// network finds what is to be steered to the host: the cluster's service CIDRs and its pod CIDRs.
//
//	             configured        else
//	services     --service-cidrs   ServiceCIDR objects (networking.k8s.io/v1, Kubernetes 1.33), followed
//	pods         --pod-cidrs       podSubnet of kubeadm's ConfigMap, else the podCIDRs of all nodes, followed
//
// The pod CIDRs of nodes are the last resort, since a pod gets its routes once: nodes that join later are not in them.
type network struct {
	client kubernetes.Interface
	pods   *pods
	cfg    Config
	set    func(path.Prefixes)
	log    *slog.Logger

	mu           sync.Mutex
	services     cache.Store    // of ServiceCIDRs; nil if configured or unknown to the API server
	nodes        cache.Store    // nil if the pod CIDRs are known without
	podCIDRs     []netip.Prefix // configured, or of kubeadm
	overlayCIDRs []netip.Prefix // last told to set
}

func newNetwork(c kubernetes.Interface, p *pods, cfg Config, set func(path.Prefixes), log *slog.Logger) *network {
	return &network{client: c, pods: p, cfg: cfg, set: set, log: log, podCIDRs: cfg.PodCIDRs}
}

// start following; returns once all is known that can be.
func (n *network) start(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(n.client, 0, informers.WithTransform(trim))
	follow := func(i cache.SharedIndexInformer) (cache.Store, error) {
		_, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { n.update() },
			UpdateFunc: func(any, any) { n.update() },
			DeleteFunc: func(any) { n.update() },
		})
		return i.GetStore(), err
	}
	var has bool
	err := retry(ctx, n.log, "discover the cluster's CIDRs", func() (err error) {
		if n.cfg.ServiceCIDRs == nil {
			if has, err = n.hasServiceCIDRs(); err != nil {
				return err
			}
		}
		if n.cfg.PodCIDRs == nil {
			n.podCIDRs, err = n.kubeadmPodCIDRs(ctx)
		}
		return err
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	if has {
		n.services, err = follow(factory.Networking().V1().ServiceCIDRs().Informer())
	}
	if n.podCIDRs == nil && err == nil {
		n.nodes, err = follow(factory.Core().V1().Nodes().Informer())
	}
	n.mu.Unlock()
	if err == nil {
		_, err = follow(n.pods.node) // its own pod CIDRs may come late
	}
	if err != nil {
		return err
	}
	factory.StartWithContext(ctx)
	factory.WaitForCacheSync(ctx.Done())
	n.update()
	return ctx.Err()
}

// hasServiceCIDRs says whether the API server knows the kind.
func (n *network) hasServiceCIDRs() (bool, error) {
	list, err := n.client.Discovery().ServerResourcesForGroupVersion(networkingv1.SchemeGroupVersion.String())
	if err != nil {
		return false, err // the group is as old as NetworkPolicy, so even its absence is worth another try
	}
	if slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "servicecidrs" }) {
		return true, nil
	}
	n.log.Warn("this Kubernetes has no ServiceCIDR objects; set --service-cidrs, or macvlan pods reach no Service")
	return false, nil
}

// kubeadmPodCIDRs reads networking.podSubnet of the ClusterConfiguration that kubeadm leaves in kube-system; nil if it did not make
// the cluster.
func (n *network) kubeadmPodCIDRs(ctx context.Context) ([]netip.Prefix, error) {
	m, err := n.client.CoreV1().ConfigMaps("kube-system").Get(ctx, "kubeadm-config", metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	var c struct {
		Networking struct {
			PodSubnet string `json:"podSubnet"`
		} `json:"networking"`
	}
	if err := yaml.Unmarshal([]byte(m.Data["ClusterConfiguration"]), &c); err != nil {
		n.log.Warn("ConfigMap kube-system/kubeadm-config", "err", err)
		return nil, nil
	}
	return prefixes(n.log, strings.Split(c.Networking.PodSubnet, ",")...), nil
}

// overlay is the pod CIDRs of the cluster.
func (n *network) overlay() []netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.overlayCIDRs
}

// update what is steered.
func (n *network) update() {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := path.Prefixes{Services: n.cfg.ServiceCIDRs, Pods: n.podCIDRs, User: n.cfg.SteerCIDRs}
	p.Served = n.cfg.ServiceProxy == ProxyAuto || n.cfg.ServiceProxy == ProxyAlways // with never, it may be a router beyond that translates
	if n.services != nil {
		for _, o := range n.services.List() {
			p.Services = append(p.Services, prefixes(n.log, o.(*networkingv1.ServiceCIDR).Spec.CIDRs...)...)
		}
	}
	if n.nodes != nil {
		for _, o := range n.nodes.List() {
			p.Pods = append(p.Pods, prefixes(n.log, o.(*corev1.Node).Spec.PodCIDRs...)...)
		}
	}
	if n.cfg.PodCIDRs == nil { // who sets them has an overlay with an IPAM of its own, and nodes' podCIDRs say nothing
		p.LocalPods = prefixes(n.log, n.pods.thisNode().Spec.PodCIDRs...)
	}
	p.Services, p.Pods = sorted(p.Services), sorted(p.Pods)
	n.overlayCIDRs = p.Pods
	n.set(p)
}

func prefixes(log *slog.Logger, list ...string) (out []netip.Prefix) {
	for _, s := range list {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			log.Warn("not a CIDR, ignored", "value", s)
			continue
		}
		out = append(out, p.Masked())
	}
	return out
}

func sorted(in []netip.Prefix) []netip.Prefix {
	out := slices.Clone(in)
	slices.SortFunc(out, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	return slices.Compact(out)
}
