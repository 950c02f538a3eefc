package controlplane

import (
	"fmt"
	"path/filepath"

	"github.com/berthdev/berth/tests/cluster/topology"
)

const (
	podCIDRs     = topology.PodCIDR4 + "," + topology.PodCIDR6
	serviceCIDRs = topology.ServiceCIDR4 + "," + topology.ServiceCIDR6
)

func (c *Config) etcdArgs() []string {
	peer := fmt.Sprintf("http://127.0.0.1:%d", c.PeerPort)
	return []string{
		flag("name", "lab"),
		flag("data-dir", filepath.Join(c.Dir, "etcd")),
		flag("listen-client-urls", c.etcd()),
		flag("advertise-client-urls", c.etcd()),
		flag("listen-peer-urls", peer),
		flag("initial-advertise-peer-urls", peer),
		flag("initial-cluster", "lab="+peer),
		flag("logger", "zap"),
	}
}

func (c *Config) apiserverArgs() []string {
	args := []string{
		flag("bind-address", c.Address),
		flag("advertise-address", c.Address),
		flag("secure-port", c.APIPort),
		flag("cert-dir", filepath.Join(c.Dir, "pki")),
		flag("etcd-servers", c.etcd()),
		flag("allow-privileged", true),
		flag("authorization-mode", "Node,RBAC"),
		flag("enable-admission-plugins", "NodeRestriction"),
		flag("client-ca-file", c.pki("ca.crt")),
		flag("tls-cert-file", c.pki("apiserver.crt")),
		flag("tls-private-key-file", c.pki("apiserver.key")),
		flag("kubelet-certificate-authority", c.pki("ca.crt")),
		flag("kubelet-client-certificate", c.pki("apiserver-kubelet.crt")),
		flag("kubelet-client-key", c.pki("apiserver-kubelet.key")),
		flag("kubelet-preferred-address-types", "InternalIP"),
		flag("proxy-client-cert-file", c.pki("front-proxy.crt")),
		flag("proxy-client-key-file", c.pki("front-proxy.key")),
		flag("requestheader-client-ca-file", c.pki("front-proxy-ca.crt")),
		flag("requestheader-allowed-names", "front-proxy"),
		flag("requestheader-username-headers", "X-Remote-User"),
		flag("requestheader-group-headers", "X-Remote-Group"),
		flag("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
		flag("service-account-issuer", "https://kubernetes.default.svc."+topology.ClusterDomain),
		flag("service-account-key-file", c.pki("service-accounts.crt")),
		flag("service-account-signing-key-file", c.pki("service-accounts.key")),
		flag("service-cluster-ip-range", serviceCIDRs),
		flag("profiling", false),
		// There is no kube-proxy here: webhooks are called by the addresses of
		// their pods, to which there are routes.
		flag("enable-aggregator-routing", true),
	}
	if c.Address.IsLoopback() {
		// A loopback address is no endpoint, and nobody looks for one.
		args = append(args, flag("endpoint-reconciler-type", "none"))
	}
	return args
}

func (c *Config) controllerArgs() []string {
	kc := filepath.Join(c.Dir, "kube-controller-manager.kconf")
	return []string{
		flag("kubeconfig", kc),
		flag("authentication-kubeconfig", kc),
		flag("authorization-kubeconfig", kc),
		flag("bind-address", "127.0.0.1"),
		flag("cert-dir", filepath.Join(c.Dir, "pki")),
		flag("leader-elect", false),
		flag("allocate-node-cidrs", true),
		flag("cluster-cidr", podCIDRs),
		flag("node-cidr-mask-size-ipv4", 24),
		flag("node-cidr-mask-size-ipv6", 64),
		flag("service-cluster-ip-range", serviceCIDRs),
		flag("service-account-private-key-file", c.pki("service-accounts.key")),
		flag("root-ca-file", c.pki("ca.crt")),
		flag("cluster-signing-cert-file", c.pki("ca.crt")),
		flag("cluster-signing-key-file", c.pki("ca.key")),
		flag("use-service-account-credentials", true),
		flag("profiling", false),
	}
}

func (c *Config) schedulerArgs() []string {
	kc := filepath.Join(c.Dir, "kube-scheduler.kconf")
	return []string{
		flag("kubeconfig", kc),
		flag("authentication-kubeconfig", kc),
		flag("authorization-kubeconfig", kc),
		flag("bind-address", "127.0.0.1"),
		flag("cert-dir", filepath.Join(c.Dir, "pki")),
		flag("leader-elect", false),
		flag("profiling", false),
	}
}
