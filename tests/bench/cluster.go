package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Pods with macvlan as their default network: clients and a server on node-a, and a server on node-b, in the other zone. Each
// server has a Service, of which it is the only backend.
const workload = `
apiVersion: berth.dev/v1alpha1
kind: IPPool
metadata: {name: zone-a}
spec:
  subnets: [{cidr: 10.6.0.0/16, ips: [10.6.128.0/24], gateway: 10.6.0.1}]
  nodeAffinity: {matchLabels: {zone: a}}
---
apiVersion: berth.dev/v1alpha1
kind: IPPool
metadata: {name: zone-b}
spec:
  subnets: [{cidr: 10.7.0.0/16, ips: [10.7.128.0/24], gateway: 10.7.0.1}]
  nodeAffinity: {matchLabels: {zone: b}}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: macvlan, namespace: default}
spec:
  config: '{"cniVersion": "1.0.0", "type": "macvlan", "master": "eth0", "mode": "bridge", "ipam": {"type": "berth"}}'
`

const workloadPod = `
---
apiVersion: v1
kind: Pod
metadata:
  name: %[1]s
  labels: {app: %[1]s}
  annotations: {v1.multus-cni.io/default-network: default/macvlan, berth.dev/ippool: "zone-a, zone-b", berth.dev/fast-mode: %[3]s, berth.dev/source-guard: %[4]s}
spec:
  nodeName: %[2]s
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: docker.io/berthdev/testapp:dev, imagePullPolicy: Never}]
`

// workloadService of a name, for the pods of an application.
const workloadService = `
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  selector: {app: %[2]s}
  ports:
  - {name: udp, port: 8081, protocol: UDP}
  - {name: echo, port: 8082}
  - {name: sink, port: 8083}
`

// cluster is the two-node lab with Berth installed and the pods running.
type cluster struct {
	*lab
	*binaries
	kubeconfig string
}

func newCluster(ctx context.Context, o options) (c *cluster, err error) {
	c = &cluster{kubeconfig: filepath.Join(o.labDir, "run", labName, "kubeconfig")}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.binaries, err = build(ctx, o, "./tests/bench/empty"); err != nil {
		return c, err
	}
	l, err := newLab(ctx, o, c.binaries)
	if err != nil {
		return c, err
	}
	image := filepath.Join(o.root, "dist", "image.tar")
	if _, err := os.Stat(image); err != nil {
		cmd := exec.CommandContext(ctx, "make", "image")
		cmd.Dir, cmd.Stdout, cmd.Stderr = o.root, os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return c, fmt.Errorf("make image: %w", err)
		}
	}
	if err := l.run(ctx, "down"); err != nil { // of a run that was killed
		return c, err
	}
	c.lab = l
	if err := l.run(ctx, "up"); err != nil {
		return c, err
	}
	if err := l.run(ctx, "load", image); err != nil {
		return c, err
	}
	return c, c.install(ctx)
}

func (c *cluster) install(ctx context.Context) error {
	manifest := workload
	var names []string
	for _, p := range []struct{ name, node, fastMode, sourceGuard string }{
		{client, "node-a", "Enabled", "Enabled"}, {steered, "node-a", "Disabled", "Enabled"}, {near, "node-a", "Enabled", "Enabled"},
		{far, "node-b", "Enabled", "Enabled"}, {guarded, "node-a", "Enabled", "Enabled"}, {unguarded, "node-a", "Enabled", "Disabled"}, {nearBare, "node-a", "Enabled", "Disabled"},
		{farBare, "node-b", "Enabled", "Disabled"},
	} {
		manifest += fmt.Sprintf(workloadPod, p.name, p.node, p.fastMode, p.sourceGuard) + fmt.Sprintf(workloadService, p.name, p.name)
		names = append(names, "pod/"+p.name)
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"install Berth", func() error { return c.apply(ctx, c.kubeconfig, "", "-f", "deploy/install.yaml") }},
		{"wait for its agents", func() error {
			return c.kubectl(ctx, c.kubeconfig, "", "-n", "berth-system", "rollout", "status", "daemonset/berth-agent", "--timeout=120s")
		}},
		{"make pods", func() error { return c.apply(ctx, c.kubeconfig, manifest, "-f", "-") }},
		{"wait for pods", func() error {
			return c.kubectl(ctx, c.kubeconfig, "", append([]string{"wait", "--for=condition=Ready", "--timeout=120s"}, names...)...)
		}},
	} {
		say("%s", step.what)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// get a field of an object.
func (c *cluster) get(ctx context.Context, object, jsonPath string) (string, error) {
	cmd := exec.CommandContext(ctx, c.part("kubectl"), "--kubeconfig", c.kubeconfig, "get", object, "-o", "jsonpath={"+jsonPath+"}")
	out, err := cmd.Output()
	if err == nil && len(out) == 0 {
		err = errors.New("empty")
	}
	if err != nil {
		return "", fmt.Errorf("%s of %s: %w", jsonPath, object, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func (c *cluster) close() error {
	var err error
	if c.lab != nil {
		err = c.run(context.Background(), "down")
	}
	if c.binaries != nil {
		c.remove()
	}
	return err
}
