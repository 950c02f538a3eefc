// Command berth-controller keeps the status of pools and frees the leases of pods that are gone. See package controller.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	clientgo "k8s.io/client-go/rest"

	"github.com/berthdev/berth/cmd/internal/apiconfig"
	"github.com/berthdev/berth/controller"
	"github.com/berthdev/berth/controller/apps"
	"github.com/berthdev/berth/controller/rest"
	"github.com/berthdev/berth/controller/subnets"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := command(controller.Run).ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "berth-controller:", err)
		os.Exit(1)
	}
}

type runFunc func(context.Context, *clientgo.Config, controller.Config) error

func command(run runFunc) *cobra.Command {
	var cfg controller.Config
	var kubeconfig, level, hubSecret string
	cmd := &cobra.Command{
		Use:           "berth-controller",
		Short:         "Pool status and garbage collection of Berth; no pod waits for it",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var l slog.Level
			if err := l.UnmarshalText([]byte(level)); err != nil {
				return fmt.Errorf("--log-level: %w", err)
			}
			cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l}))
			if err := check(cfg); err != nil {
				return err
			}
			if err := hubOf(&cfg, hubSecret); err != nil {
				return err
			}
			cfg.REST.Namespace = cmp.Or(cfg.Namespace, "berth-system")
			rc, err := apiconfig.Load(kubeconfig)
			if err != nil {
				return err
			}
			rc.QPS = -1 // the API server's own flow control decides; what the controller asks at a time is bounded by its workers
			rc.UserAgent = "berth-controller/" + version
			return run(cmd.Context(), rc, cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file; default: the pod's service account")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&cfg.MetricsAddress, "metrics-address", ":9642", `address of /metrics; "0" for none`)
	f.StringVar(&cfg.HealthAddress, "health-address", ":9643", `address of /healthz and /readyz; "0" for none`)
	f.StringVar(&cfg.REST.Address, "rest-address", rest.Off, `address of the REST API, HTTPS only, such as :9644; "0" for none`)
	f.StringVar(&cfg.REST.CertDir, "rest-cert-dir", "", "directory with tls.crt and tls.key of the REST API, followed as they are renewed; without them a certificate is made at each start")
	f.StringVar(&cfg.Namespace, "leader-election-namespace", os.Getenv("POD_NAMESPACE"), "namespace of the leader election lease; default: the pod's")
	f.BoolVar(&cfg.NoLeaderElection, "no-leader-election", false, "run without a leader election lease; only ever as the one process")
	f.DurationVar(&cfg.Interval, "gc-interval", controller.DefaultInterval, "time between looks at the leases")
	f.DurationVar(&cfg.ConfirmAfter, "gc-confirm-after", controller.DefaultConfirmAfter,
		"least time between the first look that finds a pod, or an identity's owner, gone and the one that may give its lease up; 15s more than the pod's grace period if that is longer")
	f.DurationVar(&cfg.ReserveFor, "reserve-for", controller.DefaultReserveFor,
		"time for which an address is kept for an identity without object (the annotation berth.dev/identity), in pools without reservedFor")
	f.DurationVar(&cfg.QuarantineFor, "quarantine-for", controller.DefaultQuarantineFor,
		"time for which nobody else must have answered for a quarantined address before it is given out again")
	f.DurationVar(&cfg.ForgetAfter, "forget-after", controller.DefaultForgetAfter,
		"time after its release at which a lease, which remembers its last holder, is deleted")
	f.DurationVar(&cfg.ReturnAfter, "return-after", subnets.DefaultReturnAfter,
		"time for which addresses that a pool gave back to its Subnet are kept from other pools; more than the 90 s for which agents believe a silent watch, and the time of an ADD")
	f.DurationVar(&cfg.ShrinkAfter, "shrink-after", apps.DefaultShrinkAfter,
		"time for which a workload has needed less, or has been gone, before its pool becomes smaller, or goes")
	f.StringVar(&cfg.Cluster, "cluster-name", "", "name of this cluster in the hub, as a DNS label; with --hub-kubeconfig-secret")
	f.StringVar(&hubSecret, "hub-kubeconfig-secret", "",
		"NAMESPACE/NAME of the Secret whose key kubeconfig leads to the hub, the cluster whose Subnets are copied here; with --cluster-name")
	return cmd
}

// hubOf checks the two flags that make the cluster a member.
func hubOf(cfg *controller.Config, secret string) error {
	if (cfg.Cluster == "") != (secret == "") {
		return errors.New("--cluster-name and --hub-kubeconfig-secret go together: set both, or neither")
	}
	if cfg.Cluster == "" {
		return nil
	}
	if wrong := validation.IsDNS1123Label(cfg.Cluster); len(wrong) > 0 {
		return fmt.Errorf("--cluster-name %q: %s", cfg.Cluster, strings.Join(wrong, "; "))
	}
	namespace, name, ok := strings.Cut(secret, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return fmt.Errorf("--hub-kubeconfig-secret %q is not NAMESPACE/NAME, e.g. berth-system/berth-hub", secret)
	}
	cfg.HubSecret = types.NamespacedName{Namespace: namespace, Name: name}
	return nil
}

func check(cfg controller.Config) error {
	switch {
	case cfg.Interval <= 0:
		return errors.New("--gc-interval must be more than 0")
	case cfg.ConfirmAfter <= 0:
		return errors.New("--gc-confirm-after must be more than 0: a lease is never freed at first sight")
	case cfg.ForgetAfter < 0:
		return errors.New("--forget-after must not be negative")
	case cfg.ReserveFor < 0:
		return errors.New("--reserve-for must not be negative")
	case cfg.ReturnAfter < 0:
		return errors.New("--return-after must not be negative")
	case cfg.ShrinkAfter < 0:
		return errors.New("--shrink-after must not be negative")
	case cfg.QuarantineFor <= 0:
		return errors.New("--quarantine-for must be more than 0: an address is never given out while somebody else answers for it")
	}
	return nil
}
