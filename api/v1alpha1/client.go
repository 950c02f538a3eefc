package v1alpha1

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"
)

// PoolClient and its like are typed clients of the API server.
type (
	PoolClient     = gentype.ClientWithList[*IPPool, *IPPoolList]
	LeaseClient    = gentype.ClientWithList[*IPLease, *IPLeaseList]
	SubnetClient   = gentype.ClientWithList[*Subnet, *SubnetList]
	BlockClient    = gentype.ClientWithList[*IPBlock, *IPBlockList]
	NetspaceClient = gentype.ClientWithList[*Netspace, *NetspaceList]

	HostNetworkClient = gentype.ClientWithList[*HostNetwork, *HostNetworkList]
)

// NewClients for pools and leases, over one connection.
func NewClients(cfg *rest.Config) (*PoolClient, *LeaseClient, error) {
	c, params, err := newRESTClient(cfg)
	if err != nil {
		return nil, nil, err
	}
	pools := gentype.NewClientWithList("ippools", c, params, "",
		func() *IPPool { return &IPPool{} }, func() *IPPoolList { return &IPPoolList{} })
	leases := gentype.NewClientWithList("ipleases", c, params, "",
		func() *IPLease { return &IPLease{} }, func() *IPLeaseList { return &IPLeaseList{} })
	return pools, leases, nil
}

// NewSubnetClients for Subnets and their blocks, over one connection.
func NewSubnetClients(cfg *rest.Config) (*SubnetClient, *BlockClient, error) {
	c, params, err := newRESTClient(cfg)
	if err != nil {
		return nil, nil, err
	}
	subnets := gentype.NewClientWithList("subnets", c, params, "",
		func() *Subnet { return &Subnet{} }, func() *SubnetList { return &SubnetList{} })
	blocks := gentype.NewClientWithList("ipblocks", c, params, "",
		func() *IPBlock { return &IPBlock{} }, func() *IPBlockList { return &IPBlockList{} })
	return subnets, blocks, nil
}

// NewNetspaceClient for Netspaces.
func NewNetspaceClient(cfg *rest.Config) (*NetspaceClient, error) {
	c, params, err := newRESTClient(cfg)
	if err != nil {
		return nil, err
	}
	return gentype.NewClientWithList("netspaces", c, params, "",
		func() *Netspace { return &Netspace{} }, func() *NetspaceList { return &NetspaceList{} }), nil
}

// NewHostNetworkClient for HostNetworks.
func NewHostNetworkClient(cfg *rest.Config) (*HostNetworkClient, error) {
	c, params, err := newRESTClient(cfg)
	if err != nil {
		return nil, err
	}
	return gentype.NewClientWithList("hostnetworks", c, params, "",
		func() *HostNetwork { return &HostNetwork{} }, func() *HostNetworkList { return &HostNetworkList{} }), nil
}

// newRESTClient of this group.
func newRESTClient(cfg *rest.Config) (*rest.RESTClient, runtime.ParameterCodec, error) {
	scheme := runtime.NewScheme()
	if err := AddToScheme(scheme); err != nil {
		return nil, nil, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.APIPath = "/apis"
	cfg.GroupVersion = &GroupVersion
	cfg.ContentType = runtime.ContentTypeJSON // custom resources have no protobuf
	cfg.AcceptContentTypes = runtime.ContentTypeJSON
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, nil, err
	}
	return c, runtime.NewParameterCodec(scheme), nil
}
