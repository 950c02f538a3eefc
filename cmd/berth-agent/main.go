// Command berth-agent is the node agent of Berth. See package agent.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/berthdev/berth/agent"
	"github.com/berthdev/berth/agent/fast"
	"github.com/berthdev/berth/agent/guards"
	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/agent/proxy"
	"github.com/berthdev/berth/cmd/internal/apiconfig"
	"github.com/berthdev/berth/delegate"
)

// version is set by the linker.
var version = "dev"

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // its heap is leases, which stay: at 100 as much again would wait to be collected
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "berth-agent:", err)
		os.Exit(1)
	}
}

var errNoNode = errors.New("no node name; set --node-name or the environment variable NODE_NAME")

func command() *cobra.Command {
	var cfg agent.Config
	var kubeconfig, level string
	var services, pods, steer []string
	var servicePath, fastMode bool
	var serviceProxy string
	log := func() (*slog.Logger, error) {
		var l slog.Level
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return nil, fmt.Errorf("--log-level: %w", err)
		}
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
	}
	cmd := &cobra.Command{
		Use:           "berth-agent",
		Short:         "The node agent of Berth: gives pods addresses on the physical network, and their Services back",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.NodeName == "" {
				return errNoNode
			}
			cfg.NoServicePath, cfg.NoFastMode = !servicePath, !fastMode
			log, err := log()
			if err != nil {
				return err
			}
			if cfg.ServiceProxy, err = agent.ParseServiceProxy(serviceProxy); err != nil {
				return err
			}
			for _, f := range []struct {
				flag string
				from []string
				to   *[]netip.Prefix
			}{{"service-cidrs", services, &cfg.ServiceCIDRs}, {"pod-cidrs", pods, &cfg.PodCIDRs}, {"steer-cidrs", steer, &cfg.SteerCIDRs}} {
				if *f.to, err = prefixes(f.flag, f.from); err != nil {
					return err
				}
			}
			kube, err := apiconfig.Load(kubeconfig)
			if err != nil {
				return err
			}
			a, err := agent.New(cfg, kube, log)
			if err != nil {
				return err
			}
			return a.Run(cmd.Context())
		},
	}
	all, f := cmd.PersistentFlags(), cmd.Flags()
	all.StringVar(&cfg.NodeName, "node-name", os.Getenv("NODE_NAME"), "name of this node in Kubernetes")
	all.StringVar(&cfg.PinDir, "pin-dir", "/sys/fs/bpf/berth", "directory on a bpffs for programs and maps")
	all.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&cfg.Socket, "socket", delegate.DefaultSocket, "where the plugin finds the agent")
	f.StringVar(&cfg.Journal, "journal", "/var/lib/berth/journal.db", `file of the journal, with which pods restart while the Kubernetes API is away; "" for none`)
	f.StringVar(&cfg.StateDir, "state-dir", "/var/lib/berth", "directory for what the agent keeps through a reboot")
	f.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file; default: the pod's service account")
	f.StringVar(&cfg.PluginSource, "plugin", "/usr/local/bin/berth", `binary of the plugin to install; "" installs nothing`)
	f.StringVar(&cfg.CNIBinDir, "cni-bin-dir", "/opt/cni/bin", "where the runtime looks for plugins")
	f.StringVar(&cfg.MetricsAddress, "metrics-address", "127.0.0.1:9641", `address of /metrics, /healthz and /readyz; "" for none`)
	f.BoolVar(&servicePath, "service-path", true, "give pods the way to Services; without it only addresses, and steering has no effect")
	f.StringVar(&serviceProxy, "service-proxy", string(agent.ProxyAuto), "serve Services to macvlan pods: auto, where no kube-proxy does; always; never")
	f.BoolVar(&fastMode, "fast-mode", true, "let sockets of pods connect to backends of Services themselves, where the pod reaches them without its node")
	f.BoolVar(&cfg.OwnerRoutes, "owner-routes", false, "have overlay pods answer macvlan pods of other nodes by those nodes, so that they see the pods' own addresses")
	f.StringSliceVar(&cfg.CgroupDirs, "cgroup-dirs", nil, "where the host's cgroup v2 hierarchy may be mounted, for fast mode; default: /sys/fs/cgroup")
	f.StringSliceVar(&services, "service-cidrs", nil, "service CIDRs of the cluster; default: from its ServiceCIDR objects")
	f.StringSliceVar(&pods, "pod-cidrs", nil, "pod CIDRs of the cluster's default network; default: from kubeadm's ConfigMap, else from the nodes")
	f.StringSliceVar(&steer, "steer-cidrs", nil, "further prefixes that pods reach through their node")

	cmd.AddCommand(&cobra.Command{
		Use:   "cleanup",
		Short: "Remove everything of Berth's service path from this node: links, programs, maps, routes, neighbours, the nftables tables",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := log()
			if err != nil {
				return err
			}
			forgetCondition(cmd.Context(), cfg.NodeName, log)
			// Path last: it removes the directory of pins if nothing else is in it.
			return errors.Join(fast.Cleanup(cfg.PinDir), guards.Cleanup(guards.Config{PinDir: cfg.PinDir}),
				path.Cleanup(path.Config{NodeName: cfg.NodeName, PinDir: cfg.PinDir}, log), proxy.Remove())
		},
	})
	cmd.AddCommand(doctorCommand(&cfg, &servicePath, &fastMode, f), traceCommand(&cfg, f))
	return cmd
}

// forgetCondition of the node, if this is a pod that may: cleanup is run in whatever there is.
func forgetCondition(ctx context.Context, node string, log *slog.Logger) {
	kube, err := rest.InClusterConfig()
	if err != nil || node == "" {
		return
	}
	client, err := kubernetes.NewForConfig(kube)
	if err == nil {
		err = agent.ForgetCondition(ctx, client, node)
	}
	if err != nil {
		log.Warn("the node keeps its conditions", "err", err)
	}
}

func prefixes(flag string, list []string) (out []netip.Prefix, err error) {
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Masked() != p {
			return nil, fmt.Errorf("--%s: %q is not a CIDR without host bits, such as 10.96.0.0/12", flag, s)
		}
		out = append(out, p)
	}
	return out, nil
}
