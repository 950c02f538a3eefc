package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/berthdev/berth/agent/report"
)

// errWrong: what is wrong has been written.
var errWrong = errors.New("something is wrong")

// atOnce is how many nodes are looked at at the same time.
const atOnce = 16

func doctorCommand(e *env) *cobra.Command {
	var namespace, output string
	var timeout time.Duration
	var all bool
	cmd := &cobra.Command{
		Use:   "doctor [NODE...]",
		Short: "What is wrong with the service path of nodes, and what mends it",
		Long: "What is wrong with the service path of nodes, and what mends it. It runs `berth-agent doctor`, which changes nothing, in the agents' pods,\n" +
			"so it needs leave for pods/exec there. The exit code is 1 if something is wrong, or a node could not be looked at.",
		RunE: func(cmd *cobra.Command, nodes []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			c, err := e.reach()
			if err != nil {
				return err
			}
			pods, err := agentsOn(cmd.Context(), c, namespace, nodes)
			if err != nil {
				return err
			}
			found := make([]report.Findings, len(pods))
			limit := make(chan struct{}, atOnce)
			var done sync.WaitGroup
			for i, p := range pods {
				done.Go(func() {
					limit <- struct{}{}
					defer func() { <-limit }()
					found[i] = examine(cmd.Context(), c, p, timeout)
				})
			}
			done.Wait()
			return writeFindings(e, found, output, all)
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace of the agents' pods; default: any")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long a node may take")
	cmd.Flags().BoolVar(&all, "all", false, "also what is well")
	return cmd
}

func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return fmt.Errorf("--output %q is neither text nor json", output)
	}
	return nil
}

// agentOn is the agent's pod of a node, nil if there is none.
type agentOn struct {
	node string
	pod  *corev1.Pod
}

// agentsOn these nodes, or all that have one.
func agentsOn(ctx context.Context, c cluster, namespace string, nodes []string) (out []agentOn, err error) {
	pods, err := c.agents(ctx, namespace)
	if err != nil {
		return nil, err
	}
	by := map[string]*corev1.Pod{}
	for i := range pods {
		p := &pods[i]
		// While an agent is replaced there are two: the one that runs.
		if old := by[p.Spec.NodeName]; p.Spec.NodeName != "" && (old == nil || !running(old)) {
			by[p.Spec.NodeName] = p
		}
	}
	if len(by) == 0 {
		return nil, errors.New("there is no pod of berth-agent (labels " + agentSelector + "); is Berth installed here? kubectl apply -f deploy/install.yaml")
	}
	if len(nodes) == 0 {
		for n := range by {
			nodes = append(nodes, n)
		}
		slices.Sort(nodes)
	}
	for _, n := range nodes {
		out = append(out, agentOn{n, by[n]})
	}
	return out, nil
}

func running(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning
}

func examine(ctx context.Context, c cluster, on agentOn, timeout time.Duration) report.Findings {
	found := report.Findings{}
	err := askAgent(ctx, c, on, timeout, &found, "doctor", "-o", "json")
	if err != nil {
		found.Error = err.Error()
	}
	found.Node = on.node
	return found
}

// askAgent runs a subcommand of the agent in its pod, whose answer is JSON.
func askAgent(ctx context.Context, c cluster, on agentOn, timeout time.Duration, answer any, args ...string) error {
	if err := reachable(on); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	container, command := agentCommand(on.pod, args...)
	stdout, stderr, err := c.run(limited, on.pod, container, command)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("exec in pod %s/%s: interrupted", on.pod.Namespace, on.pod.Name)
	case limited.Err() != nil:
		return fmt.Errorf("exec in pod %s/%s: no answer within %s", on.pod.Namespace, on.pod.Name, timeout)
	case err != nil:
		return refused(err, on.pod)
	}
	if err := json.Unmarshal(stdout, answer); err != nil {
		return agentSaid(on, args[0], cmp.Or(string(stderr), "it ended without an answer: "+err.Error()))
	}
	return nil
}

// reachable: there is an agent to be asked.
func reachable(on agentOn) error {
	if on.pod == nil {
		return fmt.Errorf("node %q has no pod of berth-agent; see `kubectl get daemonset -A -l %s`", on.node, agentSelector)
	}
	if !running(on.pod) {
		return fmt.Errorf("the agent's pod %s/%s is %s; see `kubectl -n %s describe pod %s`", on.pod.Namespace, on.pod.Name, phase(on.pod), on.pod.Namespace, on.pod.Name)
	}
	return nil
}

// agentSaid is what a subcommand complained of.
func agentSaid(on agentOn, command, said string) error {
	said = strings.TrimSpace(said)
	if strings.Contains(said, "unknown command") || strings.Contains(said, "unknown flag") {
		said += "; the agent is of an earlier version, upgrade it"
	}
	return fmt.Errorf("berth-agent %s in pod %s/%s: %s", command, on.pod.Namespace, on.pod.Name, said)
}

func phase(p *corev1.Pod) string {
	if p.DeletionTimestamp != nil {
		return "being deleted"
	}
	return string(p.Status.Phase)
}

func writeFindings(e *env, found []report.Findings, output string, all bool) error {
	if output == "json" {
		if err := json.NewEncoder(e.out).Encode(found); err != nil {
			return err
		}
	}
	wrong := false
	for _, f := range found {
		if output == "text" {
			f.WriteText(e.out, all)
		}
		wrong = wrong || f.Wrong()
	}
	if wrong {
		return errWrong
	}
	return nil
}
