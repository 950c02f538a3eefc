package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthdev/berth/agent/report"
)

func traceCommand(e *env) *cobra.Command {
	var namespace, agents, output string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "trace pod/NAME SERVICE[:PORT][/PROTOCOL]",
		Short: "Which way a new connection of a pod to a Service goes, step by step, and why",
		Long: "Which way a new connection of a pod to a Service goes, step by step, and why. Nothing is sent or changed: `berth-agent trace` reads the\n" +
			"maps, tables and routes of the pod's node, in the agent's pod, so it needs leave for pods/exec there.",
		Example: "  kubectl berth trace pod/web-0 db:5432\n  kubectl berth trace -n shop pod/web-0 kube-system/kube-dns:53/udp\n" +
			"  kubectl berth trace pod/web-0 10.96.0.10:53/udp",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			to, err := parseTarget(args[1])
			if err != nil {
				return err
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
			call := append([]string{"trace", pod}, "-o", "json")
			frontends, endpoints, err := to.resolve(cmd.Context(), c, namespace)
			if err != nil {
				return err
			}
			for _, ep := range endpoints {
				call = append(call, "--endpoint", ep.String())
			}
			on, err := agentsOn(cmd.Context(), c, agents, []string{node})
			if err != nil {
				return err
			}
			var traces []report.Trace
			if err := askAgent(cmd.Context(), c, on[0], timeout, &traces, append(call, frontends...)...); err != nil {
				return err
			}
			return writeTraces(e, traces, output)
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "of the pod, and of a Service without one; default: the context's")
	cmd.Flags().StringVar(&agents, "agent-namespace", "", "of the agents' pods; default: any")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long the node may take")
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
