//go:build apiserver

package rest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// What may go wrong with a request to the API server.
type fault int

const (
	none    fault = iota
	refused       // 403
	lost          // it is carried out, and the answer lost
)

var errLost = errors.New("connection lost, says the test")

// faults happen to writes that are no dry runs.
type faults struct {
	client.Client
	of func(verb string, r resource) fault
}

// faulty has another REST API serve the cluster, to whose writes this happens.
func (c *cluster) faulty(t *testing.T, of func(verb string, r resource) fault) {
	t.Helper()
	c.serve(t, apitest.Connect(t), func(s *Server) { s.api.client = &faults{s.api.client, of} })
}

func (f *faults) Create(ctx context.Context, o client.Object, opts ...client.CreateOption) error {
	var all client.CreateOptions
	all.ApplyOptions(opts)
	return f.do(ctx, "create", o, len(all.DryRun) > 0, func() error { return f.Client.Create(ctx, o, opts...) })
}

func (f *faults) Delete(ctx context.Context, o client.Object, opts ...client.DeleteOption) error {
	var all client.DeleteOptions
	all.ApplyOptions(opts)
	return f.do(ctx, "delete", o, len(all.DryRun) > 0, func() error { return f.Client.Delete(ctx, o, opts...) })
}

func (f *faults) do(ctx context.Context, verb string, o client.Object, dry bool, request func() error) error {
	if dry {
		return request()
	}
	r := leases
	if _, ok := o.(*v1alpha1.IPLease); !ok {
		r = kindOf(o)
	}
	switch f.of(verb, r) {
	case refused:
		return apierrors.NewForbidden(schema.GroupResource{Group: r.group, Resource: r.plural}, o.GetName(), errors.New("says the test"))
	case lost:
		there := o.DeepCopyObject().(client.Object)
		if verb == "create" {
			if err := f.Client.Create(context.WithoutCancel(ctx), there); err != nil {
				return err
			}
			return errLost
		}
		return errLost
	}
	return request()
}

// at gives a fault of these writes, "create network-attachment-definitions".
func at(what fault, writes ...string) func(string, resource) fault {
	return func(verb string, r resource) fault {
		if slices.Contains(writes, strings.Join([]string{verb, r.plural}, " ")) {
			return what
		}
		return none
	}
}
