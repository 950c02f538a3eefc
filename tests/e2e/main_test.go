// Package e2e tests Berth on the two-node lab of tests/cluster: a real Kubernetes with Multus, and Berth installed on it with
// deploy/install.yaml. It needs root.
//
//	go test ./tests/e2e -count=1                        a lab of its own, brought up and taken down (make test-e2e does this)
//	go test ./tests/e2e -count=1 -keep                  the same, but the lab stays
//	go test ./tests/e2e -count=1 -reuse -run TestZones  on the lab that stayed, with the Berth that is installed there
//	go test ./tests/e2e -count=1 -proxy-mode iptables   on a lab whose nodes have kube-proxy in another mode, or none
//
// Tests that disturb a whole node run one after the other. Those that call newSpace alone run side by side, after them.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	labName = flag.String("lab", "berthe2e", "name of the lab, at most 10 lower-case letters and digits")
	labDir  = flag.String("lab-dir", "", "where the lab keeps its parts (default: .lab of the checkout)")
	keep    = flag.Bool("keep", false, "leave the lab up")
	proxies = flag.String("proxy-mode", "nftables", "nftables, iptables or none: kube-proxy of the lab that is brought up")
	reuse   = flag.Bool("reuse", false, "take the lab that is up, and the Berth installed on it; leave it up")
)

// inLab is set for the process that runs the tests.
const inLab = "BERTH_E2E_IN_LAB"

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("tests on the lab are skipped with -short")
		os.Exit(0)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		fatal(err)
	}
	if *labDir == "" {
		*labDir = filepath.Join(root, ".lab")
	}
	lab := &lab{name: *labName, dir: *labDir, root: root}
	if os.Getenv(inLab) != "" {
		if on, err = connect(lab); err != nil {
			fatal(err)
		}
		if err := sweepAll(); err != nil {
			fatal(err)
		}
		if !given("test.parallel") { // tests wait for the cluster more than they compute
			if err := flag.Set("test.parallel", "6"); err != nil {
				fatal(err)
			}
		}
		os.Exit(m.Run())
	}
	os.Exit(run(lab))
}

// run the tests in a process of their own, so that the lab is taken down even after a panic or a timeout.
func run(l *lab) (code int) {
	if os.Geteuid() != 0 {
		fatal(errors.New("the lab makes namespaces and needs root: use sudo, or -short to skip these tests"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer stop()
	begin := time.Now()
	if !*reuse {
		if !*keep {
			defer func() {
				if err := l.command(context.Background(), "down").Run(); err != nil {
					fmt.Fprintln(os.Stderr, "e2e: lab down:", err)
					code = max(code, 1)
				}
			}()
		}
		if err := setUp(ctx, l); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
	}
	self, err := os.Executable()
	if err != nil {
		fatal(err)
	}
	args := os.Args[1:]
	if limit := flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration); limit > 0 {
		// The time of the set-up counts. Of two flags the last one holds.
		args = append(args, fmt.Sprint("-test.timeout=", max(limit-time.Since(begin), time.Second)))
	}
	tests := exec.CommandContext(ctx, self, args...)
	tests.Cancel = func() error { return tests.Process.Signal(os.Interrupt) }
	tests.WaitDelay = 3 * time.Second
	tests.Env = append(os.Environ(), inLab+"=1")
	tests.Stdout, tests.Stderr = os.Stdout, os.Stderr
	tests.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := tests.Run(); err != nil {
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
			return exit.ExitCode()
		}
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return 0
}

// setUp builds everything, brings the lab up and installs Berth as a user would.
func setUp(ctx context.Context, l *lab) error {
	build := exec.CommandContext(ctx, "make", "--no-print-directory", "image", "bin/lab")
	build.Dir = l.root
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("make image: %w\n%s", err, out)
	}
	manifest := filepath.Join(l.root, "deploy", "install.yaml")
	for _, step := range []*exec.Cmd{
		l.command(ctx, "down"), // what a run that was killed has left
		l.command(ctx, "up", "--proxy-mode", *proxies),
		l.command(ctx, "load", filepath.Join(l.root, "dist", "image.tar")),
		l.kubectl(ctx, "apply", "-f", manifest),
		// What tests give back is to be others' before they end.
		l.kubectl(ctx, "-n", berthNamespace, "patch", "deployment", controllerName, "--type=json",
			"-p", `[{"op": "add", "path": "/spec/template/spec/containers/0/command/-", "value": "--return-after=20s"}]`),
		l.findAPI(ctx),
		l.kubectl(ctx, "-n", berthNamespace, "rollout", "status", "daemonset/"+agentName, "--timeout=2m"),
		l.kubectl(ctx, "-n", berthNamespace, "rollout", "status", "deployment/"+controllerName, "--timeout=2m"),
	} {
		begin := time.Now()
		what := filepath.Base(step.Path) + " " + strings.Join(step.Args[1:], " ")
		if out, err := step.CombinedOutput(); err != nil {
			if strings.Contains(what, " down ") {
				continue
			}
			return fmt.Errorf("%s: %w\n%s\n%s", what, err, out, l.installState())
		}
		fmt.Printf("e2e: %s (%s)\n", what, time.Since(begin).Round(100*time.Millisecond))
	}
	return nil
}

// findAPI has Berth reach the API server without Services, as docs/operations.md says, where nodes have no kube-proxy.
func (l *lab) findAPI(ctx context.Context) *exec.Cmd {
	if *proxies != "none" {
		return exec.CommandContext(ctx, "true")
	}
	const script = `at=$("$0" --kubeconfig "$1" get endpointslices kubernetes -o jsonpath='KUBERNETES_SERVICE_HOST={.endpoints[0].addresses[0]} KUBERNETES_SERVICE_PORT={.ports[0].port}') &&
exec "$0" --kubeconfig "$1" -n "$2" set env daemonset/berth-agent deployment/berth-controller $at`
	return exec.CommandContext(ctx, "sh", "-c", script, filepath.Join(l.dir, "bin", "kubectl"), l.kubeconfig(), berthNamespace)
}

// given says whether a flag is on the command line.
func given(name string) (found bool) {
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "e2e:", err)
	os.Exit(1)
}
