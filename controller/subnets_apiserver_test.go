//go:build apiserver

package controller

import (
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
)

// TestCarvedPoolOnAPIServer: with the rights of the service account, and with all parts of the controller, a pool is carved, serves,
// waits for its leases and returns to its Subnet.
func TestCarvedPoolOnAPIServer(t *testing.T) {
	c := newCluster(t)
	c.start(t, nil)
	s := &v1alpha1.Subnet{}
	s.Name, s.Spec.Network = "carved", "carvednet"
	s.Spec.CIDRs = []v1alpha1.SubnetCIDR{{CIDR: "10.6.0.0/24", Gateway: "10.6.0.1"}}
	c.create(t, s)
	p := &v1alpha1.IPPool{}
	p.Name, p.Spec.Network, p.Spec.Subnet, p.Spec.Size = "carved", "carvednet", s.Name, new(int32(5))
	c.create(t, p)
	c.wantFree(t, p.Name, "5")
	status, err := c.status(t, p.Name)
	if err != nil || !strings.HasPrefix(condition(status, v1alpha1.PoolReady), "True") || !strings.HasPrefix(condition(status, v1alpha1.PoolCarved), "True") {
		t.Errorf("%+v (%v)", status, err)
	}
	l := c.lease(t, "carvednet", "10.6.0.3", p.Name, v1alpha1.LeaseBound, &v1alpha1.LeaseHolder{Node: "elsewhere"})
	c.wantFree(t, p.Name, "4")
	if err := c.admin.Patch(t.Context(), p, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"size":1}}`))); err != nil {
		t.Fatal(err)
	}
	c.wantFree(t, p.Name, "0") // the address in use is the one that stays
	if err := c.admin.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := c.admin.Delete(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	if err := c.admin.Delete(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	c.eventually(t, func() error {
		err := c.admin.Get(t.Context(), client.ObjectKeyFromObject(s), s)
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the subnet is still there, %v: %w", s.Status.Conditions, err)
	})
	var blocks v1alpha1.IPBlockList
	if err := c.admin.List(t.Context(), &blocks, client.MatchingFields{"spec.network": "carvednet"}); err != nil || len(blocks.Items) > 0 {
		t.Errorf("%d blocks are left (%v)", len(blocks.Items), err)
	}
}
