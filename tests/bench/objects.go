package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"
)

// Pools of the measurements, and of what else the node needs for its pods. Nobody fills in a default here.
const objects = `
apiVersion: v1
kind: Node
metadata: {name: ` + nodeName + `}
spec: {podCIDR: 10.244.9.0/24, podCIDRs: [10.244.9.0/24]}
---
apiVersion: v1
kind: Namespace
metadata: {name: bench}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: bench}
---
apiVersion: berth.dev/v1alpha1
kind: IPPool
metadata: {name: single}
spec: {network: single, subnets: [{cidr: 10.210.0.0/16, gateway: 10.210.0.1}]}
---
apiVersion: berth.dev/v1alpha1
kind: IPPool
metadata: {name: dual}
spec:
  network: dual
  subnets: [{cidr: 10.211.0.0/16, gateway: 10.211.0.1}, {cidr: "fd00:211::/64", gateway: "fd00:211::1"}]
---
apiVersion: berth.dev/v1alpha1
kind: IPPool
metadata: {name: path}
spec: {network: path, subnets: [{cidr: 10.212.0.0/16, gateway: 10.212.0.1}]}
`

func (n *node) makeObjects(ctx context.Context) error {
	crds := filepath.Join(n.o.root, "api", "v1alpha1", "crds")
	floor, err := floorCRD(filepath.Join(crds, "berth.dev_ipleases.yaml"))
	if err != nil {
		return err
	}
	if err := n.apply(ctx, n.kubeconfig, "", "-f", crds); err != nil {
		return err
	}
	if err := n.apply(ctx, n.kubeconfig, floor, "-f", "-"); err != nil {
		return err
	}
	if err := n.kubectl(ctx, n.kubeconfig, "", "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"); err != nil {
		return err
	}
	return n.apply(ctx, n.kubeconfig, objects, "-f", "-")
}

// floorCRD is the leases' own kind in another group, without validation rules and indexed fields: a small object as any.
func floorCRD(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var crd map[string]any
	if err := yaml.Unmarshal(text, &crd); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	strip(crd, "x-kubernetes-validations", "selectableFields", "additionalPrinterColumns", "shortNames")
	crd["metadata"] = map[string]any{"name": "ipleases." + floorGroup.Group}
	crd["spec"].(map[string]any)["group"] = floorGroup.Group
	out, err := yaml.Marshal(crd)
	return string(out), err
}

func strip(node any, keys ...string) {
	switch node := node.(type) {
	case map[string]any:
		for _, k := range keys {
			delete(node, k)
		}
		for _, child := range node {
			strip(child, keys...)
		}
	case []any:
		for _, child := range node {
			strip(child, keys...)
		}
	}
}

// podObject is bound to the node already; nobody runs it.
func podObject(name, pool string, annotations map[string]string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "bench", Annotations: map[string]string{"berth.dev/ippool": pool}},
		Spec: corev1.PodSpec{
			NodeName:                     nodeName,
			AutomountServiceAccountToken: new(bool),
			Containers:                   []corev1.Container{{Name: "app", Image: "none"}},
		},
	}
	for k, v := range annotations {
		p.Annotations[k] = v
	}
	return p
}

func createPod(ctx context.Context, client kubernetes.Interface, p *corev1.Pod) (*corev1.Pod, error) {
	out, err := client.CoreV1().Pods(p.Namespace).Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", p.Name, err)
	}
	return out, nil
}
