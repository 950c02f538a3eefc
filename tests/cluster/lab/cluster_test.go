package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCluster brings a lab up, uses every kind of network in it, breaks it, and
// takes it down. It needs root, two minutes and what `lab build` has built, so
// it runs on demand only:
//
//	LAB_DIR=$PWD/../../.lab go test -run TestCluster -v ./lab
func TestCluster(t *testing.T) {
	dir := os.Getenv("LAB_DIR")
	if dir == "" {
		t.Skip("LAB_DIR is not set")
	}
	ctx := t.Context()
	before := machine(t, "labtest")
	l, err := New(dir, "labtest", t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	if err := l.Up(ctx, ""); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := l.Up(ctx, ""); err != nil || time.Since(start) > 10*time.Second {
		t.Errorf("up again: %v after %v", err, time.Since(start))
	}

	kubectl := func(args ...string) string {
		t.Helper()
		out, err := l.kubectl().Run(ctx, "", args...)
		if err != nil {
			t.Errorf("%v", err)
		}
		return out
	}
	kubectl("apply", "-f", "../testdata/smoke.yaml", "-f", "../testdata/daemonset.yaml")
	kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
	kubectl("rollout", "status", "-n", "kube-system", "daemonset/agent", "--timeout=60s")

	inPod := func(pod string, argv ...string) string {
		t.Helper()
		return kubectl(append([]string{"exec", pod, "--"}, argv...)...)
	}
	inPod("over-a", "testapp", "get", "http://over")
	inPod("over-a", "testapp", "get", "-6", "http://over.default.svc.cluster.local")
	inPod("over-b", "testapp", "udp", "over:8081")
	inPod("second-a", "ping", "-c", "1", "-W", "2", address(t, inPod("second-b", "ip", "-4", "addr", "show", "net1"), "inet "))
	inPod("second-a", "ping", "-6", "-c", "1", "-W", "2", address(t, inPod("second-b", "ip", "-6", "addr", "show", "net1"), "inet6 fd"))
	if got := inPod("first-a", "ip", "-4", "addr", "show", "eth0"); !strings.Contains(got, "inet 10.6.2.") {
		t.Errorf("the default network of first-a is not macvlan: %s", got)
	}
	if got := kubectl("logs", "over-a"); !strings.Contains(got, "HTTP on :8080") {
		t.Errorf("logs: %q", got)
	}
	kubectl("delete", "pod", "second-a", "first-a", "--timeout=30s")

	t.Run("exec", func(t *testing.T) {
		for member, want := range map[string]string{"node-b": "10.7.0.12/16", "router": "10.7.0.1/16", "control": ""} {
			argv, err := l.EnterCommand(member)
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(argv[0], append(argv[1:], "ip", "-br", "addr")...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("%s: %v, want %s in\n%s", member, err, want, out)
			}
		}
	})

	// An up that lost parts says which; down copes.
	for _, name := range []string{"kube-apiserver", "node-a holder", "node-b kubelet"} {
		p, ok := l.table.Lookup(name)
		if !ok {
			t.Fatalf("no process %q", name)
		}
		if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	if err := l.Up(ctx, ""); err == nil || !strings.Contains(err.Error(), "lab down") {
		t.Errorf("up of a lab half dead: %v", err)
	}
	if err := l.Down(); err != nil {
		t.Fatal(err)
	}
	var left []string
	for range 50 { // the kernel and the machine's first process clean up in their own time
		if left = missing(machine(t, "labtest"), before); len(left) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	if err := l.Down(); err != nil {
		t.Errorf("down again: %v", err)
	}
}

func TestAPIServer(t *testing.T) {
	dir := os.Getenv("LAB_DIR")
	if dir == "" {
		t.Skip("LAB_DIR is not set")
	}
	l, err := New(dir, "labtest", t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.APIServerUp(context.Background()); err != nil {
		t.Fatal(err)
	}
	k := l.kubectl()
	k.Kubeconfig = l.APIServerKubeconfig()
	if out, err := k.Run(t.Context(), "", "get", "namespaces"); err != nil || !strings.Contains(out, "kube-system") {
		t.Errorf("%v: %s", err, out)
	}
	if err := l.APIServerDown(); err != nil {
		t.Error(err)
	}
}

// machine lists what a lab called name could leave on the machine.
func machine(t *testing.T, name string) []string {
	t.Helper()
	var out []string
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Name, name) || strings.HasPrefix(l.Name, "veth") {
			out = append(out, "link "+l.Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range strings.Split(string(mounts), "\n") {
		if strings.Contains(m, "/"+name) {
			out = append(out, "mount "+m)
		}
	}
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		cmd := strings.ReplaceAll(string(b), "\x00", " ")
		if err == nil && (strings.Contains(cmd, "/run/"+name+"/") || strings.Contains(cmd, "pause "+name)) {
			out = append(out, fmt.Sprintf("process %s: %s", f, cmd))
		}
	}
	for _, f := range []string{"/sys/fs/cgroup/*/k8s.io/*", "/run/netns/" + name + "*", "/opt/cni", "/etc/cni",
		"/var/lib/kubelet", "/var/lib/cni", "/var/lib/berth", "/var/lib/containerd", "/var/log/pods", "/run/containerd", "/sys/fs/bpf/*"} {
		found, err := filepath.Glob(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	for _, s := range []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward"} {
		b, err := os.ReadFile("/proc/sys/" + s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s+" = "+strings.TrimSpace(string(b)))
	}
	return out
}

// missing lists what is in now and was not before. Cgroups of other labs may
// come and go meanwhile; they have processes, which those left behind have not.
func missing(now, before []string) []string {
	var out []string
	for _, s := range now {
		if slices.Contains(before, s) {
			continue
		}
		if b, err := os.ReadFile(filepath.Join(s, "cgroup.procs")); err == nil && len(b) > 0 {
			continue
		}
		out = append(out, s)
	}
	return out
}

// address finds the address after a word in what `ip addr` prints.
func address(t *testing.T, out, word string) string {
	t.Helper()
	_, rest, ok := strings.Cut(out, word)
	if !ok {
		t.Fatalf("no %q in %s", word, out)
	}
	addr, _, _ := strings.Cut(rest, "/")
	if strings.HasPrefix(word, "inet6") {
		addr = strings.TrimPrefix(word, "inet6 ") + addr
	}
	return addr
}
