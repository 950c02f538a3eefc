// Command lab runs a real Kubernetes of two nodes in two zones, with Multus,
// on this machine, for tests and demonstrations.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/berthdev/berth/tests/cluster/build"
	"github.com/berthdev/berth/tests/cluster/lab"
)

const usage = `usage: lab COMMAND [flags]

  build            build all parts (about 8 minutes the first time)
  up               bring the cluster up: node-a in zone a, node-b in zone b
  down             stop it and leave nothing behind
  apiserver up     etcd and kube-apiserver alone, on loopback
  apiserver down
  apiserver kill PART   SIGKILL for etcd or kube-apiserver; the data stays
  apiserver start PART  start it again, with its data
  kill MEMBER      end node-a, node-b, etcd or kube-apiserver as a loss of power does
  start MEMBER     start it again, with its disk
  proxy NODE MODE  change the mode of one node's kube-proxy: nftables, iptables or none
  proxy NODE MODE  run kube-proxy of one node in another mode, until down
  load IMAGE.tar   import an image archive into both nodes
  exec NODE -- CMD run a command on a node (also: router, control)
  kubectl -- ARGS  kubectl as administrator
  env              print the lines that set KUBECONFIG and PATH

flags, after the command:
  --dir DIR          where everything is kept (default: .lab of the repository)
  --name NAME        tells labs apart (default: berth)
  --proxy-mode MODE  up: nftables, iptables or none (default: nftables)
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

type options struct {
	dir, name, proxyMode string
	controlPlaneOnly     bool
	args                 []string
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
		fmt.Print(usage)
		return nil
	}
	command, args := args[0], args[1:]
	if command == "apiserver" && len(args) > 0 {
		command, args = command+" "+args[0], args[1:]
	}
	o, err := parse(command, args)
	if err != nil {
		return err
	}
	l, err := lab.New(o.dir, o.name, say)
	if err != nil {
		return err
	}
	switch command {
	case "build":
		return buildAll(ctx, o.dir)
	case "up":
		if o.controlPlaneOnly {
			return apiserverUp(ctx, l, o)
		}
		if err := ready(ctx, o.dir); err != nil {
			return err
		}
		if err := l.Up(ctx, o.proxyMode); err != nil {
			return err
		}
		fmt.Printf("\n%s", l.Env())
		return nil
	case "down":
		return l.Down()
	case "apiserver up":
		return apiserverUp(ctx, l, o)
	case "apiserver down":
		return l.APIServerDown()
	case "apiserver kill", "apiserver start":
		if len(o.args) != 1 {
			return fmt.Errorf("%s: which part, etcd or kube-apiserver?", command)
		}
		if command == "apiserver kill" {
			return l.APIServerKill(o.args[0])
		}
		return l.APIServerStart(o.args[0])
	case "kill", "start":
		if len(o.args) != 1 {
			return fmt.Errorf("%s: want node-a, node-b, etcd or kube-apiserver", command)
		}
		if command == "kill" {
			return l.Kill(o.args[0])
		}
		return l.Start(ctx, o.args[0])
	case "proxy":
		if len(o.args) != 2 {
			return fmt.Errorf("proxy: want NODE nftables|iptables|none")
		}
		return l.Proxy(o.args[0], o.args[1])
	case "load":
		if len(o.args) == 0 {
			return fmt.Errorf("load: which image archive?")
		}
		return l.Load(o.args...)
	case "exec":
		if len(o.args) < 2 {
			return fmt.Errorf("exec: want NODE -- CMD…")
		}
		prefix, err := l.EnterCommand(o.args[0])
		if err != nil {
			return err
		}
		cmd := o.args[1:]
		if cmd[0] == "--" {
			cmd = cmd[1:]
		}
		return replace(append(prefix, cmd...))
	case "kubectl":
		return replace(append([]string{filepath.Join(o.dir, "bin", "kubectl"), "--kubeconfig=" + l.Kubeconfig()}, o.args...))
	case "env":
		fmt.Print(l.Env())
		return nil
	}
	return fmt.Errorf("no command %q\n%s", command, usage)
}

func parse(command string, args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("lab "+command, flag.ContinueOnError)
	f.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	f.StringVar(&o.dir, "dir", "", "")
	f.StringVar(&o.name, "name", "berth", "")
	f.StringVar(&o.proxyMode, "proxy-mode", "", "")
	f.BoolVar(&o.controlPlaneOnly, "control-plane-only", false, "")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.args = f.Args()
	if o.dir == "" {
		src, err := source()
		if err != nil {
			return o, err
		}
		o.dir = filepath.Join(filepath.Dir(filepath.Dir(src)), ".lab")
	}
	dir, err := filepath.Abs(o.dir)
	o.dir = dir
	return o, err
}

func apiserverUp(ctx context.Context, l *lab.Lab, o options) error {
	if err := ready(ctx, o.dir); err != nil {
		return err
	}
	if err := l.APIServerUp(ctx); err != nil {
		return err
	}
	fmt.Printf("export KUBECONFIG=%s\n", l.APIServerKubeconfig())
	return nil
}

// ready builds what is missing, and checks what Debian must provide.
func ready(ctx context.Context, dir string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the lab makes namespaces and needs root: use sudo")
	}
	if err := lab.Preflight(); err != nil {
		return err
	}
	return buildAll(ctx, dir)
}

func buildAll(ctx context.Context, dir string) error {
	src, err := source()
	if err != nil {
		return err
	}
	b := build.Builder{Source: src, Dir: dir, Say: say}
	return b.Build(ctx)
}

// source finds tests/cluster of the checkout that the working directory or
// this binary is in.
func source() (string, error) {
	var starts []string
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	for _, d := range starts {
		for ; d != "/"; d = filepath.Dir(d) {
			src := filepath.Join(d, "tests", "cluster")
			if _, err := os.Stat(filepath.Join(src, "components", "kubernetes", "go.mod")); err == nil {
				return src, nil
			}
		}
	}
	return "", fmt.Errorf("not in a checkout of Berth: run this inside one")
}

// replace turns this process into another, which so has its terminal, its
// signals and its exit code.
func replace(argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", path, syscall.Exec(path, argv, os.Environ()))
}
