// Package manifests holds what the lab installs through the API, and applies
// it the way people do, with kubectl.
package manifests

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"os/exec"
	"strings"
	"text/template"

	"github.com/berthdev/berth/tests/cluster/topology"
)

//go:embed yaml/*.yaml
var files embed.FS

var templates = template.Must(template.ParseFS(files, "yaml/*.yaml"))

// Values is what manifests are filled in with.
type Values struct {
	*topology.Topology
	// Proxy is false when nothing on the nodes implements ClusterIPs.
	Proxy bool
}

// Render fills in the manifest called name, which is a file in yaml/.
func Render(name string, v Values) (string, error) {
	m := map[string]any{
		"Nodes": v.Nodes, "DNS4": topology.DNS4, "DNS6": topology.DNS6, "Domain": topology.ClusterDomain,
		"DirectAPI": "", "APIPort": topology.APIPort,
	}
	if !v.Proxy {
		m["DirectAPI"] = v.API4.String()
	}
	var b strings.Builder
	err := templates.ExecuteTemplate(&b, name+".yaml", m)
	return b.String(), err
}

// Kubectl runs a binary of kubectl against one cluster.
type Kubectl struct{ Path, Kubeconfig string }

// Run runs kubectl with input on its standard input.
func (k Kubectl) Run(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, k.Path, append([]string{"--kubeconfig=" + k.Kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}

// Apply applies the named manifests.
func (k Kubectl) Apply(ctx context.Context, v Values, names ...string) error {
	var docs []string
	for _, name := range names {
		doc, err := Render(name, v)
		if err != nil {
			return err
		}
		docs = append(docs, doc)
	}
	_, err := k.Run(ctx, strings.Join(docs, "\n---\n"), "apply", "--server-side", "--force-conflicts", "-f", "-")
	return err
}
