// Package controller is what one process of the cluster does: the status of pools and of IPAMClaims, the deletion of pools waiting for
// their leases, the end of leases whose DEL never came, of reservations and of quarantines, and the pools of workloads. Nothing of it is on the path of an ADD:
// without it, pods start.
package controller

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/go-logr/logr"
	nadv1 "github.com/k8snetworkplumbingwg/network-attachment-definition-client/pkg/apis/k8s.cni.cncf.io/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/controller/apps"
	"github.com/berthdev/berth/controller/attachments"
	"github.com/berthdev/berth/controller/hub"
	"github.com/berthdev/berth/controller/netspaces"
	management "github.com/berthdev/berth/controller/rest"
	"github.com/berthdev/berth/controller/round"
	"github.com/berthdev/berth/controller/subnets"
	"github.com/berthdev/berth/nad"
)

// Name of the controller in events, and of its leader election lease.
const Name = "berth-controller"

// Config of the controller.
type Config struct {
	// Namespace of the leader election lease; empty: that of the pod.
	Namespace string
	// NoLeaderElection runs without a lease: one process only, as in tests.
	NoLeaderElection bool
	// MetricsAddress serves /metrics, HealthAddress /healthz and /readyz; "0" or "" for none.
	MetricsAddress, HealthAddress string
	// Interval of looks at the leases.
	Interval time.Duration
	// ConfirmAfter is the least time between the first look that finds a pod, or an identity's owner, gone and the one that may give
	// its lease up. It is the grace period of the pod, and a little more, where that is longer.
	ConfirmAfter time.Duration
	// ReserveFor is how long an address is kept for an identity that ends after a time, in pools that do not say.
	ReserveFor time.Duration
	// QuarantineFor is how long nobody else must have answered for a quarantined address before it is given out again.
	QuarantineFor time.Duration
	// ForgetAfter is how long a released lease is remembered, with its last holder.
	ForgetAfter time.Duration
	// ReturnAfter is how long addresses that a pool gave back to its Subnet are kept from other pools.
	ReturnAfter time.Duration
	// ShrinkAfter is for how long a workload has needed less, or has been gone, before its pool becomes smaller, or goes.
	ShrinkAfter time.Duration
	// Cluster is this cluster's name in the hub, and HubSecret has the hub's kubeconfig; zero: there is no hub.
	Cluster   string
	HubSecret types.NamespacedName
	// LeaseDuration, RenewDeadline, RetryPeriod of the leader election; zero: 15 s, 10 s, 2 s.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration

	// REST API beside the CRDs.
	REST management.Config

	Log *slog.Logger

	// ManyInProcess lets several run in one process, one after the other too, as in tests: else the names of controllers are unique.
	ManyInProcess bool
}

// Defaults of the times in Config.
const (
	DefaultInterval = 15 * time.Second
	// DefaultConfirmAfter exceeds the default grace period, 30 s.
	DefaultConfirmAfter = 45 * time.Second
	// DefaultReserveFor is a week: whoever uses the annotation berth.dev/identity may be away over a weekend.
	DefaultReserveFor = 168 * time.Hour
	// DefaultQuarantineFor is several times the interval at which agents look whether the other one still answers.
	DefaultQuarantineFor = 10 * time.Minute
	// DefaultForgetAfter lets the new sandbox of a pod find its address again, and bounds what a day of short-lived pods leaves in etcd.
	DefaultForgetAfter = time.Hour
)

const networkIndex = "spec.network"

// Run until ctx ends, or the leadership is lost.
func Run(ctx context.Context, rc *rest.Config, cfg Config) error {
	log := logr.FromSlogHandler(cfg.Log.Handler())
	ctrl.SetLogger(log)
	mgr, err := ctrl.NewManager(rc, options(cfg, log))
	if err != nil {
		return err
	}
	index := func(o client.Object) []string { return []string{o.(*v1alpha1.IPLease).Spec.Network} }
	if err := mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.IPLease{}, networkIndex, index); err != nil {
		return err
	}
	recorder := round.Brief{Recorder: mgr.GetEventRecorder(Name)}
	pools := &poolReconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), recorder: recorder, now: time.Now}
	if err := pools.setup(mgr); err != nil {
		return err
	}
	hostNetworks := &hostNetworkReconciler{client: mgr.GetClient(), live: mgr.GetAPIReader()}
	if err := hostNetworks.setup(mgr); err != nil {
		return err
	}
	gc := &collector{
		cached: mgr.GetClient(), live: mgr.GetAPIReader(), recorder: recorder, log: log.WithName("gc"), now: time.Now, interval: cfg.Interval,
		sweeper: sweeper{
			confirmAfter: cfg.ConfirmAfter, forgetAfter: cfg.ForgetAfter, reserveFor: cfg.ReserveFor, quarantineFor: cfg.QuarantineFor,
		},
	}
	if err := mgr.Add(gc); err != nil {
		return err
	}
	if err := mgr.Add(&claimKeeper{client: mgr.GetClient(), live: mgr.GetAPIReader(), log: log.WithName("claims"), interval: cfg.Interval}); err != nil {
		return err
	}
	if err := attachments.Add(mgr, recorder); err != nil {
		return err
	}
	blocks, err := blocks(mgr, cfg)
	if err != nil {
		return err
	}
	blocks.Status = pools.carverTells
	carver, err := subnets.Add(mgr, blocks)
	if err != nil {
		return err
	}
	if err := netspaces.Add(mgr, carver, recorder); err != nil {
		return err
	}
	if err := management.Add(mgr, cfg.REST); err != nil {
		return err
	}
	if err := apps.Add(mgr, recorder, apps.Config{ShrinkAfter: cfg.ShrinkAfter}); err != nil {
		return err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	if err := mgr.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	return nil
}

// blocks by which pools are carved: the cluster's own, and those of a hub.
func blocks(mgr ctrl.Manager, cfg Config) (subnets.Config, error) {
	c := subnets.Config{ReturnAfter: cfg.ReturnAfter}
	if cfg.Cluster == "" {
		return c, nil
	}
	h, err := hub.Add(mgr, hub.Config{Cluster: cfg.Cluster, Secret: cfg.HubSecret})
	if err != nil {
		return c, err
	}
	c.Blocks, c.Changed, c.Seed = h, h.Changed, cfg.Cluster
	return c, nil
}

func options(cfg Config, log logr.Logger) ctrl.Options {
	byObject := map[client.Object]cache.ByObject{
		&corev1.Pod{}:  {Transform: stripPod},
		&corev1.Node{}: {Transform: stripNode},
	}
	maps.Copy(byObject, apps.ByObject())
	o := ctrl.Options{
		Scheme:                        newScheme(),
		Logger:                        log,
		LeaderElection:                !cfg.NoLeaderElection,
		LeaderElectionID:              Name,
		LeaderElectionNamespace:       cfg.Namespace,
		LeaderElectionReleaseOnCancel: true, // Run is the last thing that the process does
		Metrics:                       server.Options{BindAddress: cmp.Or(cfg.MetricsAddress, "0")},
		HealthProbeBindAddress:        cfg.HealthAddress,
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject:         byObject,
		},
		Controller: config.Controller{SkipNameValidation: &cfg.ManyInProcess},
	}
	for _, d := range []struct {
		from time.Duration
		to   **time.Duration
	}{{cfg.LeaseDuration, &o.LeaseDuration}, {cfg.RenewDeadline, &o.RenewDeadline}, {cfg.RetryPeriod, &o.RetryPeriod}} {
		if d.from != 0 {
			*d.to = &d.from
		}
	}
	return o
}

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, nadv1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err) // the same kinds at each start
		}
	}
	return s
}

// stripPod keeps of a pod what judge and deletion read, so that the cache of a large cluster stays small.
func stripPod(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	meta := metav1.ObjectMeta{
		Name: p.Name, Namespace: p.Namespace, UID: p.UID, ResourceVersion: p.ResourceVersion,
		DeletionTimestamp: p.DeletionTimestamp, DeletionGracePeriodSeconds: p.DeletionGracePeriodSeconds,
	}
	if uid, ok := p.Annotations[corev1.MirrorPodAnnotationKey]; ok {
		meta.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: uid}
	}
	apps.StripPod(p, &meta)
	return &corev1.Pod{ObjectMeta: meta, Status: corev1.PodStatus{
		Phase:                      p.Status.Phase,
		InitContainerStatuses:      stripStates(p.Status.InitContainerStatuses),
		ContainerStatuses:          stripStates(p.Status.ContainerStatuses),
		EphemeralContainerStatuses: stripStates(p.Status.EphemeralContainerStatuses),
	}}, nil
}

func stripStates(in []corev1.ContainerStatus) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for i := range in {
		s := corev1.ContainerStatus{}
		if in[i].State.Running != nil {
			s.State.Running = &corev1.ContainerStateRunning{}
		}
		if in[i].State.Terminated != nil {
			s.State.Terminated = &corev1.ContainerStateTerminated{}
		}
		out = append(out, s)
	}
	return out
}

func stripNode(o any) (any, error) {
	n, ok := o.(*corev1.Node)
	if !ok {
		return o, nil
	}
	out := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Labels: n.Labels}}
	if links, ok := n.Annotations[nad.ParentsAnnotation]; ok {
		out.Annotations = map[string]string{nad.ParentsAnnotation: links}
	}
	out.Spec.Taints = n.Spec.Taints
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			out.Status.Conditions = append(out.Status.Conditions, c)
		}
	}
	return out, nil
}
