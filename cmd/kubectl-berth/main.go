// Command kubectl-berth shows what is free, who holds or last held an address, and what is wrong with the way to Services: "kubectl berth".
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/berthdev/berth/api/v1alpha1"
)

// version is set by the linker.
var version = "dev"

// reader is what the commands ask of the API server.
type reader interface {
	pools(ctx context.Context) ([]v1alpha1.IPPool, error)
	leases(ctx context.Context, o metav1.ListOptions) ([]v1alpha1.IPLease, error)
	subnets(ctx context.Context) ([]v1alpha1.Subnet, error)
	block(ctx context.Context, name string) (*v1alpha1.IPBlock, error) // nil: there is none
}

// env is the world of a command.
type env struct {
	out     io.Writer
	now     func() time.Time
	connect func() (reader, error)
	reach   func() (cluster, error)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	klog.SetLogger(logr.Discard()) // client-go's complaints, say of streams that an interrupt ends; what matters is returned as an error
	var kubeconfig, kubecontext string
	e := &env{out: os.Stdout, now: time.Now}
	e.connect = func() (reader, error) { return connect(kubeconfig, kubecontext) }
	e.reach = func() (cluster, error) { return reach(kubeconfig, kubecontext) }
	cmd := command(e)
	cmd.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file; default: as kubectl finds it")
	cmd.PersistentFlags().StringVar(&kubecontext, "context", "", "context of the kubeconfig")
	err := cmd.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errWrong) {
		fmt.Fprintln(os.Stderr, "error:", err)
	}
	if err != nil {
		os.Exit(1)
	}
}

func command(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:           "kubectl-berth",
		Short:         "Addresses of pods: pools, leases and holders; and their way to Services",
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl berth"},
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(e.out)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(poolsCommand(e), subnetsCommand(e), leasesCommand(e), whoCommand(e), doctorCommand(e), traceCommand(e), &cobra.Command{
		Use:   "version",
		Short: "Version of this program",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(e.out, version)
			return err
		},
	})
	for _, c := range root.Commands() {
		if c.Args != nil {
			c.Args = withUsage(c.Args)
		}
	}
	return root
}

// withUsage adds to a complaint of the number of arguments what they are.
func withUsage(args cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if err := args(cmd, given); err != nil {
			return fmt.Errorf("%w; usage: %s", err, cmd.UseLine())
		}
		return nil
	}
}

type server struct {
	poolClient  *v1alpha1.PoolClient
	leaseClient *v1alpha1.LeaseClient

	subnetClient *v1alpha1.SubnetClient
	blockClient  *v1alpha1.BlockClient
}

func connect(kubeconfig, kubecontext string) (reader, error) {
	rc, err := clientConfig(kubeconfig, kubecontext).ClientConfig()
	if err != nil {
		return nil, err
	}
	return newServer(rc)
}

func reach(kubeconfig, kubecontext string) (cluster, error) {
	config := clientConfig(kubeconfig, kubecontext)
	rc, err := config.ClientConfig()
	if err != nil {
		return nil, err
	}
	namespace, _, err := config.Namespace()
	if err != nil {
		return nil, err
	}
	return newKube(rc, namespace)
}

func clientConfig(kubeconfig, kubecontext string) clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: kubecontext})
}

func newServer(rc *rest.Config) (*server, error) {
	rc = rest.CopyConfig(rc)
	rc.UserAgent = "kubectl-berth/" + version
	pools, leases, err := v1alpha1.NewClients(rc)
	if err != nil {
		return nil, err
	}
	subnets, blocks, err := v1alpha1.NewSubnetClients(rc)
	if err != nil {
		return nil, err
	}
	return &server{pools, leases, subnets, blocks}, nil
}

func (s *server) pools(ctx context.Context) ([]v1alpha1.IPPool, error) {
	l, err := s.poolClient.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list of pools: %w", hint(err))
	}
	return l.Items, nil
}

func (s *server) leases(ctx context.Context, o metav1.ListOptions) ([]v1alpha1.IPLease, error) {
	l, err := s.leaseClient.List(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("list of leases: %w", hint(err))
	}
	return l.Items, nil
}

func (s *server) subnets(ctx context.Context) ([]v1alpha1.Subnet, error) {
	l, err := s.subnetClient.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list of subnets: %w", hint(err))
	}
	return l.Items, nil
}

func (s *server) block(ctx context.Context, name string) (*v1alpha1.IPBlock, error) {
	b, err := s.blockClient.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("block %q: %w", name, hint(err))
	}
	return b, nil
}
