package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestRefused: what cannot be done is told with the flag or argument, its value and what helps.
func TestRefused(t *testing.T) {
	t.Setenv("NODE_NAME", "")
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	none := t.TempDir() + "/agent.sock"
	for args, want := range map[string]string{
		"":                                      "no node name; set --node-name or the environment variable NODE_NAME",
		"doctor":                                "no node name; set --node-name or the environment variable NODE_NAME",
		"--node-name a --log-level loud":        "--log-level",
		"--node-name a --pod-cidrs 10.1.0.1/16": `--pod-cidrs: "10.1.0.1/16" is not a CIDR`,
		"--node-name a":                         "set --kubeconfig where there is no service account",
		"--node-name a --kubeconfig /absent":    "--kubeconfig: stat /absent",
		"trace":                                 "usage: berth-agent trace NAMESPACE/POD",
		"trace web-0 10.96.0.1:53/UDP":          `"web-0" is not NAMESPACE/POD`,
		"trace shop/web-0":                      "say ADDRESS:PORT/PROTOCOL",
		"trace shop/web-0 10.96.0.1/UDP":        `"10.96.0.1/UDP" is not ADDRESS:PORT/PROTOCOL`,
		"trace shop/web-0 10.96.0.1:53":         `protocol "" of "10.96.0.1:53"`,
		"trace shop/web-0 --watch --rate 0 --socket " + none:       "--rate must be at least 1",
		"trace shop/web-0 --watch --for 0s --socket " + none:       "--for 0s must be more than 0",
		"trace shop/web-0 --watch --socket " + none:                "the agent does not answer on " + none,
		"trace shop/web-0 10.96.0.1:53/UDP --endpoint x:1 --watch": "--endpoint",
	} {
		cmd := command()
		cmd.SetOut(&bytes.Buffer{})
		cmd.SetArgs(strings.Fields(args))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}
