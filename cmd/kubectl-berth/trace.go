package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/agent/report"
)

func traceCommand(e *env) *cobra.Command {
	var namespace, agents, output string
	var timeout, last time.Duration
	var watch bool
	var rate uint32
	cmd := &cobra.Command{
		Use:   "trace pod/NAME SERVICE[:PORT][/PROTOCOL]",
		Short: "Which way a new connection of a pod to a Service goes, step by step, and why",
		Long: "Which way a new connection of a pod to a Service goes, step by step, and why. Nothing is sent or changed: `berth-agent trace` reads the\n" +
			"maps, tables and routes of the pod's node, in the agent's pod, so it needs leave for pods/exec there.\n\n" +
			"With --watch it shows instead the pod's packets to and from that Service and its endpoints as they come by, and which of them are dropped;\n" +
			"without a Service all packets of the pod's interfaces that Berth made. It ends when it is interrupted, and nothing is left of it.",
		Example: "  kubectl berth trace pod/web-0 db:5432\n  kubectl berth trace -n shop pod/web-0 kube-system/kube-dns:53/udp\n" +
			"  kubectl berth trace pod/web-0 10.96.0.10:53/udp\n" +
			"  kubectl berth trace pod/web-0 db:5432 --watch",
		Args: func(cmd *cobra.Command, args []string) error {
			if watch && len(args) == 1 {
				return nil
			}
			return cobra.ExactArgs(2)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			var to *target
			if len(args) > 1 {
				t, err := parseTarget(args[1])
				if err != nil {
					return err
				}
				to = &t
			}
			c, err := e.reach()
			if err != nil {
				return err
			}
			if namespace == "" {
				namespace = c.namespace()
			}
			node, pod, err := podOf(cmd.Context(), c, namespace, args[0])
			if err != nil {
				return err
			}
			call := []string{"trace", pod, "-o", output}
			if !watch {
				call[3] = "json"
			}
			if to != nil {
				frontends, endpoints, err := to.resolve(cmd.Context(), c, namespace)
				if err != nil {
					return err
				}
				for _, ep := range endpoints {
					call = append(call, "--endpoint", ep.String())
				}
				call = append(call, frontends...)
			}
			on, err := agentsOn(cmd.Context(), c, agents, []string{node})
			if err != nil {
				return err
			}
			if watch {
				return watchAgent(cmd, c, on[0], append(call, "--watch", "--until-eof", "--rate", fmt.Sprint(rate), "--for", last.String())...)
			}
			var traces []report.Trace
			if err := askAgent(cmd.Context(), c, on[0], timeout, &traces, call...); err != nil {
				return err
			}
			return writeTraces(e, traces, output)
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "of the pod, and of a Service without one; default: the context's")
	cmd.Flags().StringVar(&agents, "agent-namespace", "", "of the agents' pods; default: any")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long the node may take")
	cmd.Flags().BoolVar(&watch, "watch", false, "show packets as they come by, and which of them are dropped, until it is interrupted")
	cmd.Flags().Uint32Var(&rate, "rate", 100, "with --watch: at most so many packets in a second")
	cmd.Flags().DurationVar(&last, "for", 10*time.Minute, "with --watch: no longer than this")
	return cmd
}

func writeTraces(e *env, traces []report.Trace, output string) error {
	if len(traces) == 0 {
		return errors.New("the agent has said nothing")
	}
	if output == "json" {
		return json.NewEncoder(e.out).Encode(traces)
	}
	for i, t := range traces {
		if i > 0 {
			fmt.Fprintln(e.out)
		}
		t.WriteText(e.out)
	}
	return nil
}

// watchAgent shows what the agent's command writes as it comes.
func watchAgent(cmd *cobra.Command, c cluster, on agentOn, args ...string) error {
	if err := reachable(on); err != nil {
		return err
	}
	container, command := agentCommand(on.pod, args...)
	var complaint bytes.Buffer
	err := c.stream(cmd.Context(), on.pod, container, command, cmd.OutOrStdout(), &complaint)
	switch {
	case cmd.Context().Err() != nil: // interrupted
		return nil
	case err != nil:
		return refused(err, on.pod)
	case complaint.Len() > 0:
		return agentSaid(on, args[0], complaint.String())
	}
	return nil
}
