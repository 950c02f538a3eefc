package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// theCPU is the one that carries all of a pinned measurement: both ends, and so all that the kernel does between them.
const theCPU = 0

// processOf finds the process of a pod's container by the host name that Kubernetes gave it, which is the pod's.
func processOf(pod string) (int, error) {
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return 0, err
	}
	for _, file := range environments {
		env, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		dir := filepath.Dir(file)
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if slices.Contains(strings.Split(string(env), "\x00"), "HOSTNAME="+pod) && bytes.Contains(command, []byte("testapp")) {
			return strconv.Atoi(filepath.Base(dir))
		}
	}
	return 0, fmt.Errorf("no process of pod %s on this machine", pod)
}

// first is the priority of both ends, so that what else the machine does shows less.
const first = -20

// pin all threads of processes to theCPU, or let them go.
func pin(pinned bool, pids ...int) error {
	var set unix.CPUSet
	for cpu := range runtime.NumCPU() {
		if !pinned || cpu == theCPU {
			set.Set(cpu)
		}
	}
	for _, pid := range pids {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		for _, t := range threads {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(tid, &set); err != nil {
				return fmt.Errorf("pin thread %d of %d: %w", tid, pid, err)
			}
			if err := unix.Setpriority(unix.PRIO_PROCESS, tid, first); err != nil {
				return fmt.Errorf("priority of thread %d of %d: %w", tid, pid, err)
			}
		}
	}
	return nil
}

// reusePorts lets connections of a process's network namespace have ports of closed ones after a second. In fast mode those to a Service and
// those to its backend have the same peer, and the kernel would soon search thousands of ports for each (14,000 of them, which connect tries first).
func reusePorts(ctx context.Context, pid int) error {
	cmd := exec.CommandContext(ctx, "nsenter", "--net=/proc/"+strconv.Itoa(pid)+"/ns/net", "--", "sysctl", "-qw", "net.ipv4.tcp_tw_reuse=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, out)
	}
	return nil
}

// traffic of one kind.
type traffic struct {
	testapp string
	pinned  bool
	port    string
	args    []string
	field   string // of the answer
}

// end of traffic: out of the network namespace of a process, to an address.
type end struct {
	from int
	to   string
}

// settled is how long kube-proxy has for a new Service, be it one of thousands.
const settled = 5 * time.Minute

// pairs of rates at two ends, in turn; the first pair is for neighbours and connection tracking, and not counted.
func (t traffic) pairs(ctx context.Context, n int, a, b end) (as, bs sample, err error) {
	for begin := time.Now(); ; time.Sleep(time.Second) {
		if _, err := t.rate(ctx, b); err == nil {
			break
		} else if time.Since(begin) > settled {
			return nil, nil, fmt.Errorf("to %s: %w", b.to, err)
		}
	}
	for i := range n + 1 {
		order := []end{a, b}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, at := range order {
			rate, err := t.rate(ctx, at)
			if err != nil {
				return nil, nil, fmt.Errorf("to %s: %w", at.to, err)
			}
			switch {
			case i == 0:
			case at == a:
				as = append(as, rate)
			default:
				bs = append(bs, rate)
			}
		}
	}
	return as, bs, nil
}

func (t traffic) rate(ctx context.Context, at end) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	argv := []string{"nice", "-n", strconv.Itoa(first), "nsenter", "--net=/proc/" + strconv.Itoa(at.from) + "/ns/net", "--"}
	if t.pinned {
		argv = append(argv, "taskset", "-c", strconv.Itoa(theCPU))
	}
	if t.args == nil {
		self, err := os.Executable()
		if err != nil {
			return 0, err
		}
		argv = append(argv, self, crrCommand)
	} else {
		argv = append(append(argv, t.testapp), t.args...)
	}
	argv = append(argv, at.to+":"+t.port)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, &stderr)
	}
	var answer map[string]any
	if err := json.Unmarshal(out, &answer); err != nil {
		return 0, fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
	}
	rate, ok := answer[t.field].(float64)
	if !ok || rate <= 0 {
		return 0, fmt.Errorf("%s: no %s in %s", strings.Join(argv, " "), t.field, out)
	}
	return rate, nil
}
