package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

var (
	floorGroup = schema.GroupVersion{Group: "bench.berth.dev", Version: "v1alpha1"} // a small object, no rules
	leaseGroup = v1alpha1.GroupVersion                                              // a lease, with its rules
)

// floor is the least that an address known to the whole cluster can cost: a plugin that does nothing, and one write of a small
// object, by a client with its connection open.
type floor struct {
	*pluginContender
	client *gentype.ClientWithList[*v1alpha1.IPLease, *v1alpha1.IPLeaseList]
	pool   *ipam.Pool
	last   atomic.Uint32 // address given
	leases []*v1alpha1.IPLease
}

// newFloor writes objects of group. Each network has a floor of its own, as no address is given twice.
func newFloor(cfg *rest.Config, group schema.GroupVersion, network string, noop *pluginContender) (*floor, error) {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(group, &v1alpha1.IPLease{}, &v1alpha1.IPLeaseList{})
	metav1.AddToGroupVersion(scheme, group)
	cfg = rest.CopyConfig(cfg)
	cfg.UserAgent = "berth-bench"
	cfg.APIPath, cfg.GroupVersion = "/apis", &group
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, err
	}
	return &floor{
		pluginContender: noop,
		client: gentype.NewClientWithList("ipleases", c, runtime.NewParameterCodec(scheme), "",
			func() *v1alpha1.IPLease { return &v1alpha1.IPLease{} }, func() *v1alpha1.IPLeaseList { return &v1alpha1.IPLeaseList{} }),
		pool:   &ipam.Pool{Name: network, Network: network},
		leases: make([]*v1alpha1.IPLease, len(noop.pods)),
	}, nil
}

func (f *floor) add(ctx context.Context, i int) error {
	s := newSandbox(f.pods[i], f.kind)
	if _, err := f.call(ctx, "ADD", s); err != nil {
		return err
	}
	return f.create(ctx, i, s.containerID)
}

func (f *floor) create(ctx context.Context, i int, containerID string) (err error) {
	k := f.last.Add(1)
	address := netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)})
	f.leases[i], err = f.client.Create(ctx, ipam.NewLease(f.pool, address, ipam.Claimant{Holder: v1alpha1.LeaseHolder{
		Namespace: "bench", Pod: fmt.Sprintf("single-%d", i), UID: "00000000-0000-0000-0000-000000000000", Node: nodeName,
		ContainerID: containerID, Interface: podLink, Attachment: "bench-bridge", MAC: "02:00:00:00:00:00",
	}}, time.Now()), metav1.CreateOptions{})
	return err
}

func (f *floor) del(ctx context.Context, i int) error {
	if _, err := f.call(ctx, "DEL", sandbox{netns: f.pods[i].netns}); err != nil {
		return err
	}
	return f.release(ctx, i)
}

func (f *floor) release(ctx context.Context, i int) error {
	l := f.leases[i].DeepCopy()
	ipam.Release(l, l.Spec.Holder, time.Now())
	_, err := f.client.Update(ctx, l, metav1.UpdateOptions{})
	return err
}
