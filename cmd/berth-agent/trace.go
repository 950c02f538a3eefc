package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/berthdev/berth/agent"
	"github.com/berthdev/berth/agent/path"
	"github.com/berthdev/berth/agent/trace"
	"github.com/berthdev/berth/service"
)

// traceCommand takes the agent's own flags, as doctorCommand does.
func traceCommand(cfg *agent.Config, agentFlags *pflag.FlagSet) *cobra.Command {
	format := formatText
	var endpoints []string
	var watch watching
	cmd := &cobra.Command{
		Use:   "trace NAMESPACE/POD ADDRESS:PORT/PROTOCOL...",
		Short: "Say which way a new connection of a pod of this node goes, and why; or show its packets, with --watch",
		Long: "Say which way a new connection of a pod of this node goes, and why. Nothing is sent or changed. With --watch it shows the pod's packets\n" +
			"instead as they come by, and which of them are dropped: to and from these addresses, or all without any.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("no pod; usage: %s", cmd.UseLine())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			r := trace.Request{}
			var ok bool
			if r.Namespace, r.Pod, ok = strings.Cut(args[0], "/"); !ok {
				return fmt.Errorf("%q is not NAMESPACE/POD", args[0])
			}
			for _, s := range args[1:] {
				f, err := frontend(s)
				if err != nil {
					return err
				}
				r.To = append(r.To, f)
			}
			for _, s := range endpoints {
				e, err := netip.ParseAddrPort(s)
				if err != nil {
					return fmt.Errorf("--endpoint: %w", err)
				}
				r.Endpoints = append(r.Endpoints, e)
			}
			of := trace.Config{Path: path.Config{NodeName: cfg.NodeName, PinDir: cfg.PinDir}, Socket: cfg.Socket, NetNS: netNS}
			if watch.on {
				return watch.run(cmd, of, r, format)
			}
			if len(r.To) == 0 {
				return errors.New("say ADDRESS:PORT/PROTOCOL; only --watch needs none")
			}
			traces, err := trace.Follow(cmd.Context(), of, r)
			if err != nil {
				return err
			}
			return format.write(cmd.OutOrStdout(), traces, func(w io.Writer) {
				for _, t := range traces {
					t.WriteText(w)
				}
			})
		},
	}
	cmd.Flags().AddFlagSet(agentFlags)
	cmd.Flags().VarP(&format, "output", "o", "text or json")
	cmd.Flags().StringSliceVar(&endpoints, "endpoint", nil, "ADDRESS:PORT of a ready endpoint of the Service, for where kube-proxy translates, whose rules are not read")
	watch.flags(cmd)
	return cmd
}

func frontend(s string) (f service.Frontend, err error) {
	at, protocol, _ := strings.Cut(s, "/")
	a, err := netip.ParseAddrPort(at)
	if err != nil {
		return f, fmt.Errorf("%q is not ADDRESS:PORT/PROTOCOL", s)
	}
	for _, p := range []service.Protocol{service.TCP, service.UDP, service.SCTP} {
		if strings.EqualFold(p.String(), protocol) {
			return service.Frontend{Address: a.Addr().Unmap(), Port: a.Port(), Protocol: p}, nil
		}
	}
	return f, fmt.Errorf("protocol %q of %q is none of TCP, UDP, SCTP", protocol, s)
}
