//go:build apiserver

package controller

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/ipam/store/apitest"
	"github.com/berthdev/berth/nad"
)

// yard is a namespace and a Subnet, in which workloads are made. No controller of Kubernetes runs: what those would do, the test does.
type yard struct {
	*cluster
	ns, subnet string
}

func newYard(t *testing.T, c *cluster) *yard {
	t.Helper()
	y := &yard{cluster: c, ns: apitest.Unique("yard")}
	y.subnet = y.ns
	c.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: y.ns}})
	c.create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: y.ns, Name: "default"}})
	y.makeSubnet(t)
	t.Cleanup(func() { y.removePools(t) })
	return y
}

func (y *yard) makeSubnet(t *testing.T) {
	t.Helper()
	s := &v1alpha1.Subnet{ObjectMeta: metav1.ObjectMeta{Name: y.subnet}}
	s.Spec.Network, s.Spec.CIDRs = y.subnet, []v1alpha1.SubnetCIDR{{CIDR: "10.64.0.0/16"}}
	y.create(t, s)
}

// removePools of the yard, past what would wait for leases.
func (y *yard) removePools(t *testing.T) {
	for _, p := range y.pools(t) {
		y.remove(t, &p)
	}
}

func (y *yard) pools(t *testing.T) (out []v1alpha1.IPPool) {
	var list v1alpha1.IPPoolList
	if err := y.admin.List(context.Background(), &list); err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		if p.Spec.Owner != nil && p.Spec.Owner.Namespace == y.ns {
			out = append(out, p)
		}
	}
	return out
}

func (y *yard) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: y.ns, Name: name, Labels: map[string]string{"app": name}}
}

// template with annotations "key=value"; by default the Subnet.
func (y *yard) template(name string, annotations ...string) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}, Annotations: map[string]string{nad.SubnetAnnotation: y.subnet}}}
	for _, a := range annotations {
		key, value, _ := strings.Cut(a, "=")
		t.Annotations[key] = strings.ReplaceAll(value, "$", y.subnet)
	}
	t.Spec.Containers = []corev1.Container{{Name: "c", Image: "none"}}
	t.Spec.AutomountServiceAccountToken = new(bool)
	return t
}

func (y *yard) deployment(name string, replicas int32, annotations ...string) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: y.meta(name)}
	d.Spec.Replicas, d.Spec.Selector, d.Spec.Template = &replicas, &metav1.LabelSelector{MatchLabels: d.Labels}, y.template(name, annotations...)
	return d
}

func (y *yard) owner(apiVersion, kind, name string) v1alpha1.PoolOwner {
	return v1alpha1.PoolOwner{APIVersion: apiVersion, Kind: kind, Namespace: y.ns, Name: name}
}

func (y *yard) poolName(kind, name string) string {
	version := "apps/v1"
	if kind == "Job" || kind == "CronJob" {
		version = "batch/v1"
	}
	return nad.PoolName(y.owner(version, kind, name), "", "eth0", y.subnet)
}

// wantSize of a pool, eventually.
func (y *yard) wantSize(t *testing.T, pool string, size int32) *v1alpha1.IPPool {
	t.Helper()
	var p v1alpha1.IPPool
	y.eventually(t, func() error {
		p = v1alpha1.IPPool{}
		if err := y.admin.Get(t.Context(), client.ObjectKey{Name: pool}, &p); err != nil {
			return err
		}
		if *p.Spec.Size != size || p.DeletionTimestamp != nil {
			return fmt.Errorf("pool %s has size %d (deleted: %v), want %d", pool, *p.Spec.Size, p.DeletionTimestamp, size)
		}
		return nil
	})
	return &p
}

func (y *yard) wantGone(t *testing.T, pool string) {
	t.Helper()
	y.eventually(t, func() error {
		err := y.admin.Get(t.Context(), client.ObjectKey{Name: pool}, &v1alpha1.IPPool{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("pool %s is still there: %w", pool, err)
	})
}

// use the first n addresses of a pool, once it has them.
func (y *yard) use(t *testing.T, pool string, n int) (leases []*v1alpha1.IPLease) {
	t.Helper()
	var addrs []netip.Addr
	y.eventually(t, func() error {
		var p v1alpha1.IPPool
		if err := y.admin.Get(t.Context(), client.ObjectKey{Name: pool}, &p); err != nil {
			return err
		}
		c, err := ipam.Compile(&p)
		if err != nil {
			return err
		}
		addrs = nil
		for _, r := range c.Ranges(ipam.IPv4) {
			for a := r.From; a.Compare(r.To) <= 0; a = a.Next() {
				addrs = append(addrs, a)
			}
		}
		if len(addrs) < n {
			return fmt.Errorf("pool %s has %d addresses, want %d: %+v", pool, len(addrs), n, p.Status.Conditions)
		}
		return nil
	})
	for i, a := range addrs[:n] {
		h := &v1alpha1.LeaseHolder{Namespace: y.ns, Pod: fmt.Sprint("p", i), UID: types.UID(fmt.Sprint("u", i)), Node: "n", ContainerID: "c", Interface: "eth0"}
		leases = append(leases, y.lease(t, y.subnet, a.String(), pool, v1alpha1.LeaseBound, h))
	}
	y.eventually(t, func() error { return y.wantBound(t, pool, int64(n)) })
	return leases
}

func (y *yard) change(t *testing.T, o client.Object, f func()) {
	t.Helper()
	y.eventually(t, func() error {
		if err := y.admin.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		f()
		return y.admin.Update(t.Context(), o)
	})
}

// swiftly, but no lease is freed that the test does not free.
func swiftly(cfg *Config) {
	cfg.ShrinkAfter, cfg.ReturnAfter, cfg.ConfirmAfter = time.Second, time.Second, time.Hour
}

// patiently frees nothing and shrinks nothing within a test.
func patiently(cfg *Config) { cfg.ShrinkAfter, cfg.ConfirmAfter = time.Hour, time.Hour }

func (y *yard) wantBound(t *testing.T, pool string, n int64) error {
	s, err := y.status(t, pool)
	if err == nil && (s.IPv4 == nil || s.IPv4.Bound != n) {
		err = fmt.Errorf("pool %s: %+v, want %d bound", pool, s.IPv4, n)
	}
	return err
}
