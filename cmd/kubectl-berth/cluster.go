package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

// cluster is what the commands that look at nodes ask of Kubernetes.
type cluster interface {
	namespace() string // of the kubeconfig's context
	agents(ctx context.Context, namespace string) ([]corev1.Pod, error)
	pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	service(ctx context.Context, namespace, name string) (*corev1.Service, error)
	slices(ctx context.Context, namespace, service string) ([]discoveryv1.EndpointSlice, error)
	// run a command in a container: what it writes, and an error if it was not run, or ended in error without a word.
	run(ctx context.Context, pod *corev1.Pod, container string, command []string) (stdout, stderr []byte, err error)
	// stream a command of a container until it ends or ctx does. Its standard input ends with that, too.
	stream(ctx context.Context, pod *corev1.Pod, container string, command []string, stdout, stderr io.Writer) error
}

// agentSelector is of the pods that deploy/install.yaml makes.
const agentSelector = "app.kubernetes.io/name=berth,app.kubernetes.io/component=agent"

type kube struct {
	config  *rest.Config
	client  kubernetes.Interface
	current string
}

func newKube(rc *rest.Config, namespace string) (*kube, error) {
	rc = rest.CopyConfig(rc)
	rc.UserAgent = "kubectl-berth/" + version
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return nil, err
	}
	return &kube{rc, client, cmp.Or(namespace, metav1.NamespaceDefault)}, nil
}

func (k *kube) namespace() string { return k.current }

func (k *kube) agents(ctx context.Context, namespace string) ([]corev1.Pod, error) {
	list, err := k.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: agentSelector})
	switch {
	case apierrors.IsForbidden(err) && namespace == "":
		return nil, fmt.Errorf("list of the agents' pods: %w; with leave for one namespace only, name it, as in -n berth-system (trace: --agent-namespace)", err)
	case err != nil:
		return nil, fmt.Errorf("list of the agents' pods: %w", err)
	}
	return list.Items, nil
}

func (k *kube) pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return k.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (k *kube) service(ctx context.Context, namespace, name string) (*corev1.Service, error) {
	return k.client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (k *kube) slices(ctx context.Context, namespace, service string) ([]discoveryv1.EndpointSlice, error) {
	list, err := k.client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// run without an input.
func (k *kube) run(ctx context.Context, pod *corev1.Pod, container string, command []string) (stdout, stderr []byte, err error) {
	var out, complaint bytes.Buffer
	err = k.exec(ctx, pod, container, command, remotecommand.StreamOptions{Stdout: &out, Stderr: &complaint})
	return out.Bytes(), complaint.Bytes(), ended(err, out.Len()+complaint.Len() > 0)
}

func (k *kube) stream(ctx context.Context, pod *corev1.Pod, container string, command []string, stdout, stderr io.Writer) error {
	// Nothing is ever written: that it ends tells the other side that nobody is here any more.
	in, end := io.Pipe()
	defer func() { _ = end.Close() }()
	said := &counted{Writer: stderr}
	err := k.exec(ctx, pod, container, command, remotecommand.StreamOptions{Stdin: in, Stdout: stdout, Stderr: said})
	return ended(err, said.n > 0)
}

// counted counts what is written.
type counted struct {
	io.Writer
	n int
}

func (c *counted) Write(p []byte) (int, error) {
	c.n += len(p)
	return c.Writer.Write(p)
}

// ended drops the exit code of a command that has said what is wrong. One that was killed has not.
func ended(err error, said bool) error {
	if exit := exec.ExitError(nil); said && errors.As(err, &exit) && exit.Exited() {
		return nil
	}
	return err
}

// exec by the subresource of that name: over a websocket, or SPDY where an API server or a proxy before it has none, as kubectl does.
func (k *kube) exec(ctx context.Context, pod *corev1.Pod, container string, command []string, o remotecommand.StreamOptions) error {
	url := k.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdin: o.Stdin != nil, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	websocket, err := remotecommand.NewWebSocketExecutor(k.config, http.MethodGet, url.String())
	if err != nil {
		return err
	}
	spdy, err := remotecommand.NewSPDYExecutor(k.config, http.MethodPost, url)
	if err != nil {
		return err
	}
	executor, err := remotecommand.NewFallbackExecutor(websocket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, o)
}

// refused adds to what an exec failed with what allows it.
func refused(err error, pod *corev1.Pod) error {
	if apierrors.IsForbidden(err) || strings.Contains(err.Error(), "forbidden") { // a failed upgrade has only text
		return fmt.Errorf("exec in pod %s/%s: %w; looking at a node needs the verb create (and get, for websockets) on pods/exec there, "+
			"which no role of Berth gives: the agent is privileged", pod.Namespace, pod.Name, err)
	}
	return fmt.Errorf("exec in pod %s/%s: %w", pod.Namespace, pod.Name, err)
}

// agentCommand is a subcommand of the agent in a pod, with the flags that the agent was started with.
func agentCommand(pod *corev1.Pod, args ...string) (container string, command []string) {
	i := max(0, slices.IndexFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == "agent" }))
	c := pod.Spec.Containers[i]
	program := "/usr/local/bin/berth-agent"
	if len(c.Command) > 0 {
		program = c.Command[0]
	}
	command = append([]string{program}, args...)
	for _, flags := range [][]string{c.Command[min(1, len(c.Command)):], c.Args} {
		for _, f := range flags {
			command = append(command, reference.ReplaceAllStringFunc(f, func(ref string) string { return valueOf(pod, c.Env, ref) }))
		}
	}
	return c.Name, command
}

// reference to a variable of the environment, which the kubelet puts into a container's command and nobody into that of an exec.
var reference = regexp.MustCompile(`\$\([A-Za-z_][A-Za-z0-9_]*\)`)

func valueOf(pod *corev1.Pod, env []corev1.EnvVar, ref string) string {
	for _, v := range env {
		switch {
		case "$("+v.Name+")" != ref:
		case v.ValueFrom == nil:
			return v.Value
		case v.ValueFrom.FieldRef != nil && v.ValueFrom.FieldRef.FieldPath == "spec.nodeName":
			return pod.Spec.NodeName
		}
	}
	return ref
}
