//go:build apiserver

package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam/carve"
	"github.com/berthdev/berth/ipam/store/apitest"
)

// landlord has a Subnet, of which tenants have shares, on a link that no other test has.
type landlord struct {
	*cluster
	*testing.T
	total *v1alpha1.Subnet
	link  string
}

func newLandlord(t *testing.T, cidrs ...v1alpha1.SubnetCIDR) *landlord {
	t.Helper()
	l := &landlord{cluster: newCluster(t), T: t}
	l.withNetworks(t)
	name := apitest.Unique("t")
	l.link = "b" + name[len(name)-6:]
	l.total = l.subnet(name, cidrs...)
	return l
}

// atOnce returns what was given up at once: nobody claims an address here without knowing.
func atOnce(c *Config) { c.ReturnAfter = time.Second }

func (l *landlord) subnet(name string, cidrs ...v1alpha1.SubnetCIDR) *v1alpha1.Subnet {
	l.Helper()
	s := &v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	s.Spec.Network, s.Spec.CIDRs = name, cidrs
	l.create(l.T, s)
	return s
}

// netspace of these namespaces, with a share of 16 addresses, without a finalizer left when the test ends.
func (l *landlord) netspace(change func(*v1alpha1.NetspaceSpec), namespaces ...string) *v1alpha1.Netspace {
	l.Helper()
	n := &v1alpha1.Netspace{ObjectMeta: metav1.ObjectMeta{Name: apitest.Unique("n")}}
	n.Spec.Namespaces = namespaces
	n.Spec.Share = &v1alpha1.NetspaceShare{Subnet: l.total.Name, Size: 16, VLANs: "910-911", Parent: l.link}
	if change != nil {
		change(&n.Spec)
	}
	l.create(l.T, n)
	l.Cleanup(func() { l.clean(n.Name) })
	return n
}

// clean what a netspace has, if the test failed and the controller did not.
func (l *landlord) clean(netspace string) {
	ctx := context.Background()
	var pools v1alpha1.IPPoolList
	var subnets v1alpha1.SubnetList
	if err := errors.Join(l.admin.List(ctx, &pools), l.admin.List(ctx, &subnets)); err != nil {
		l.Error(err)
	}
	for i := range pools.Items {
		if pools.Items[i].Spec.Netspace == netspace {
			l.remove(l.T, &pools.Items[i])
		}
	}
	for i := range subnets.Items {
		if subnets.Items[i].Spec.Netspace == netspace {
			l.remove(l.T, &subnets.Items[i])
		}
	}
}

func (l *landlord) ready(n *v1alpha1.Netspace, parts ...string) {
	l.Helper()
	apitest.Eventually(l.T, "netspace "+n.Name, func() error {
		if err := l.admin.Get(l.Context(), client.ObjectKeyFromObject(n), n); err != nil {
			return err
		}
		c := meta.FindStatusCondition(n.Status.Conditions, v1alpha1.NetspaceReady)
		if c == nil || n.Status.ObservedGeneration != n.Generation {
			return errors.New("no condition")
		}
		got := fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
		for _, p := range parts {
			if !strings.Contains(got, p) {
				return fmt.Errorf("%s, want %s", got, p)
			}
		}
		return nil
	})
}

func (l *landlord) gone(o client.Object) {
	l.Helper()
	apitest.Eventually(l.T, o.GetName()+" is gone", func() error {
		err := l.admin.Get(l.Context(), client.ObjectKeyFromObject(o), o)
		if err == nil {
			return fmt.Errorf("%s is still there: %+v", o.GetName(), o)
		}
		return client.IgnoreNotFound(err)
	})
}

func (l *landlord) free(s *v1alpha1.Subnet, want string) {
	l.Helper()
	apitest.Eventually(l.T, "subnet "+s.Name, func() error {
		if err := l.admin.Get(l.Context(), client.ObjectKeyFromObject(s), s); err != nil {
			return err
		}
		if s.Status.Free != want {
			return fmt.Errorf("%s free in subnet %s, want %s: %+v", s.Status.Free, s.Name, want, s.Status.IPv4)
		}
		return nil
	})
}

// filled waits for a pool to have n ranges of addresses.
func (l *landlord) filled(name string) *v1alpha1.IPPool {
	l.Helper()
	p := &v1alpha1.IPPool{}
	apitest.Eventually(l.T, "pool "+name, func() error {
		if err := l.admin.Get(l.Context(), client.ObjectKey{Name: name}, p); err != nil {
			return err
		}
		if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.PoolCarved); len(p.Spec.Subnets) == 0 || c == nil || c.Status != metav1.ConditionTrue {
			return fmt.Errorf("subnets %+v, conditions %+v", p.Spec.Subnets, p.Status.Conditions)
		}
		return nil
	})
	return p
}

// check what must hold at any time: no address is of two, no VLAN of two netspaces, and no netspace has two shares.
func (l *landlord) check() {
	l.Helper()
	var blocks v1alpha1.IPBlockList
	if err := l.admin.List(l.Context(), &blocks); err != nil {
		l.Fatal(err)
	}
	of := map[string][]*carve.Block{}
	for i := range blocks.Items {
		b, err := carve.Read(&blocks.Items[i])
		if err != nil {
			l.Fatal(err)
		}
		of[blocks.Items[i].Spec.Network] = append(of[blocks.Items[i].Spec.Network], b)
	}
	for network, list := range of {
		if wrong := carve.Check(list...); len(wrong) > 0 {
			l.Fatalf("blocks of %s: %s", network, strings.Join(wrong, "; "))
		}
	}
	var subnets v1alpha1.SubnetList
	if err := l.admin.List(l.Context(), &subnets); err != nil {
		l.Fatal(err)
	}
	vlans, shares := map[string]string{}, map[string]string{}
	for _, s := range subnets.Items {
		if s.Spec.Netspace == "" || !strings.HasPrefix(s.Spec.Parent, l.link) || s.DeletionTimestamp != nil || len(s.Spec.CIDRs) > 0 && len(s.Spec.CIDRs[0].Reserved) > 0 {
			continue // of another test, or not settled
		}
		if by := vlans[s.Spec.Parent]; by != "" {
			l.Errorf("%s and %s have both %s", by, s.Name, s.Spec.Parent)
		}
		if by := shares[s.Spec.Netspace]; by != "" {
			l.Errorf("netspace %s has both %s and %s", s.Spec.Netspace, by, s.Name)
		}
		vlans[s.Spec.Parent], shares[s.Spec.Netspace] = s.Name, s.Name
	}
}
