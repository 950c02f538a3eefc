package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/exec"
)

// fakeCluster has what its maps have.
type fakeCluster struct {
	pods      []corev1.Pod
	services  []corev1.Service
	endpoints []discoveryv1.EndpointSlice
	err       error                                                    // of lists
	says      func(node string, command []string) (out, errors string) // an agent
	refuses   map[string]error                                         // exec, by node
	ran       chan []string                                            // commands
}

func (f *fakeCluster) namespace() string { return "shop" }

func (f *fakeCluster) agents(_ context.Context, namespace string) (out []corev1.Pod, err error) {
	for _, p := range f.pods {
		if p.Labels["app.kubernetes.io/component"] == "agent" && (namespace == "" || namespace == p.Namespace) {
			out = append(out, p)
		}
	}
	return out, f.err
}

func (f *fakeCluster) pod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	for _, p := range f.pods {
		if p.Namespace == namespace && p.Name == name {
			return &p, nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, name)
}

func (f *fakeCluster) service(_ context.Context, namespace, name string) (*corev1.Service, error) {
	for _, s := range f.services {
		if s.Namespace == namespace && s.Name == name {
			return &s, nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "services"}, name)
}

func (f *fakeCluster) slices(context.Context, string, string) ([]discoveryv1.EndpointSlice, error) {
	return f.endpoints, nil
}

func (f *fakeCluster) run(ctx context.Context, p *corev1.Pod, container string, command []string) ([]byte, []byte, error) {
	if err := f.refuses[p.Spec.NodeName]; err != nil {
		return nil, nil, err
	}
	if f.ran != nil {
		f.ran <- append([]string{container}, command...)
	}
	if p.Spec.NodeName == "hangs" {
		<-ctx.Done()
		return nil, nil, ctx.Err()
	}
	out, complaint := f.says(p.Spec.NodeName, command)
	return []byte(out), []byte(complaint), nil
}

func (f *fakeCluster) stream(ctx context.Context, p *corev1.Pod, container string, command []string, stdout, stderr io.Writer) error {
	out, complaint, err := f.run(ctx, p, container, command)
	_, _ = stdout.Write(out)
	_, _ = stderr.Write(complaint)
	return err
}

func agentPod(node string, phase corev1.PodPhase) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: "berth-agent-" + node, Labels: map[string]string{"app.kubernetes.io/component": "agent"}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "other"}, {
			Name: "agent", Command: []string{"/usr/local/bin/berth-agent"}, Args: []string{"--node-name=$(NODE_NAME)", "--pin-dir", "/p/$(DIR)", "--x=$(NONE)"},
			Env: []corev1.EnvVar{{Name: "NODE_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}},
				{Name: "DIR", Value: "d"}},
		}}},
		Status: corev1.PodStatus{Phase: phase},
	}
}

func runCommand(t *testing.T, f *fakeCluster, args string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := command(&env{out: &out, now: time.Now, reach: func() (cluster, error) { return f, nil }})
	cmd.SetArgs(strings.Fields(args))
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

const (
	well = `{"node":"x","findings":[{"check":"link","severity":"ok","what":"vmac3 on eth0: up"}]}`
	ill  = `{"node":"x","findings":[{"check":"agent","severity":"ok","what":"ready"},
		{"check":"forward","severity":"warn","what":"a firewall drops","remedy":"have it accept"},
		{"check":"routes","severity":"fail","what":"vmac3: the route to 10.6.1.1/32 is missing","remedy":"the agent sets this right"}]}`
)

func TestDoctor(t *testing.T) {
	f := &fakeCluster{
		pods: []corev1.Pod{agentPod("b", corev1.PodRunning), agentPod("a", corev1.PodRunning), agentPod("old", corev1.PodRunning), agentPod("sick", corev1.PodPending),
			agentPod("barred", corev1.PodRunning), agentPod("hangs", corev1.PodRunning), agentPod("mute", corev1.PodRunning)},
		refuses: map[string]error{"barred": apierrors.NewForbidden(schema.GroupResource{Resource: "pods/exec"}, "x", errors.New("no"))},
		says: func(node string, _ []string) (string, string) {
			switch node {
			case "a":
				return well, ""
			case "mute":
				return `{"node":"mu`, ""
			case "old":
				return "", `berth-agent: unknown command "doctor" for "berth-agent"`
			}
			return ill, "berth-agent: not as it should be"
		},
	}
	for _, tt := range []struct {
		args, want string
		err        string // "" for none; what is wrong is written
	}{
		{args: "doctor a", want: "a: 1 ok\n"},
		{args: "doctor a --all", want: "a: 1 ok\n  ok    link        vmac3 on eth0: up\n"},
		{args: "doctor b a", err: "something is wrong", want: `b: 1 fail, 1 warn, 1 ok
  fail  routes      vmac3: the route to 10.6.1.1/32 is missing
                    → the agent sets this right
  warn  forward     a firewall drops
                    → have it accept
a: 1 ok
`},
		{args: "doctor old", err: "something is wrong",
			want: "old: berth-agent doctor in pod berth-system/berth-agent-old: berth-agent: unknown command \"doctor\" for \"berth-agent\"; the agent is of an earlier version, upgrade it\n"},
		{args: "doctor sick", err: "something is wrong",
			want: "sick: the agent's pod berth-system/berth-agent-sick is Pending; see `kubectl -n berth-system describe pod berth-agent-sick`\n"},
		{args: "doctor mute", err: "something is wrong",
			want: "mute: berth-agent doctor in pod berth-system/berth-agent-mute: it ended without an answer: unexpected end of JSON input\n"},
		{args: "doctor nowhere", err: "something is wrong",
			want: "nowhere: node \"nowhere\" has no pod of berth-agent; see `kubectl get daemonset -A -l " + agentSelector + "`\n"},
		{args: "doctor hangs --timeout 20ms", err: "something is wrong", want: "hangs: exec in pod berth-system/berth-agent-hangs: no answer within 20ms\n"},
		{args: "doctor a -o json", want: `[{"node":"a","findings":[{"check":"link","severity":"ok","what":"vmac3 on eth0: up"}]}]` + "\n"},
		{args: "doctor a -o yaml", err: `--output "yaml" is neither text nor json`},
		{args: "doctor -n elsewhere", err: "is Berth installed here?"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			out, err := runCommand(t, f, tt.args)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, out); diff != "" {
				t.Error(diff)
			}
		})
	}
	out, err := runCommand(t, f, "doctor barred")
	if !errors.Is(err, errWrong) || !strings.Contains(out, "pods/exec") || !strings.Contains(out, "verb create") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := runCommand(t, f, "doctor --timeout 20ms"); !errors.Is(err, errWrong) || strings.Count(out, "\n") < 6 || !strings.HasPrefix(out, "a: ") {
		t.Errorf("all nodes: %q, %v", out, err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	if err := askAgent(ctx, f, agentOn{"hangs", &f.pods[5]}, time.Minute, nil, "doctor"); err == nil || strings.Contains(err.Error(), "no answer within") {
		t.Errorf("interrupted: %v", err)
	}
	f.err = errors.New("refused")
	if _, err := runCommand(t, f, "doctor"); !errors.Is(err, f.err) {
		t.Error(err)
	}
}

// TestDoctorFlags: the doctor is started with the agent's own flags.
func TestDoctorFlags(t *testing.T) {
	f := &fakeCluster{pods: []corev1.Pod{agentPod("a", corev1.PodRunning)}, ran: make(chan []string, 1),
		says: func(string, []string) (string, string) { return well, "" }}
	if _, err := runCommand(t, f, "doctor"); err != nil {
		t.Fatal(err)
	}
	want := []string{"agent", "/usr/local/bin/berth-agent", "doctor", "-o", "json", "--node-name=a", "--pin-dir", "/p/d", "--x=$(NONE)"}
	if diff := cmp.Diff(want, <-f.ran); diff != "" {
		t.Error(diff)
	}
}

// TestTwoAgents: while one is replaced, the one that runs is asked.
func TestTwoAgents(t *testing.T) {
	leaving := agentPod("a", corev1.PodRunning)
	leaving.Name, leaving.DeletionTimestamp = "leaving", &metav1.Time{Time: now}
	f := &fakeCluster{says: func(string, []string) (string, string) { return well, "" }}
	for _, f.pods = range [][]corev1.Pod{{leaving, agentPod("a", corev1.PodRunning)}, {agentPod("a", corev1.PodRunning), leaving}} {
		if out, err := runCommand(t, f, "doctor"); err != nil {
			t.Errorf("%s: %v", out, err)
		}
	}
}

// TestEnded: an exit code is for those who have said why, not for who was killed.
func TestEnded(t *testing.T) {
	killed := exec.CodeExitError{Err: errors.New("command terminated with exit code 137"), Code: 137}
	if err := ended(killed, true); err != nil {
		t.Error(err)
	}
	if err := ended(killed, false); err == nil || !strings.Contains(err.Error(), "137") {
		t.Error(err)
	}
	if err := ended(context.Canceled, true); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := ended(nil, false); err != nil {
		t.Error(err)
	}
}
