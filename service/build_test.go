package service

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berthdev/berth/ipam"
)

const (
	plain = "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ipFamilies: [IPv4], ports: [{name: p, port: 80}]"
	udp   = "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ipFamilies: [IPv4], ports: [{name: p, port: 53, protocol: UDP}]"
	outer = "type: NodePort, clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ipFamilies: [IPv4], ports: [{name: p, port: 80, nodePort: 30080}]"
)

// The names in brackets are those of the cases in Kubernetes 1.36 that these stand for: unit tests of pkg/proxy, and test/e2e/network.
func TestBuild(t *testing.T) {
	tests := []struct {
		name   string
		spec   string
		slices []string
		node   string // view from node-a: "node-a ZONE"; "" for zone a
		want   []string
		bad    []string
	}{
		// Readiness.
		{name: "ready ones [TestCategorizeEndpoints: Cluster traffic policy, some endpoints are Ready]", spec: plain,
			slices: []string{"s p=8080: 10.0.1.2; 10.0.1.1 ready; 10.0.1.3 notready; 10.0.1.4 terminating"},
			want:   []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080 10.0.1.2:8080"}},
		{name: "only terminating [Cluster traffic policy, all endpoints are terminating; e2e: should fallback to terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Cluster]",
			spec: plain, slices: []string{"s p=8080: 10.0.1.1 terminating; 10.0.1.2 gone; 10.0.1.3 notready"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080"}},
		{name: "none ready [Cluster traffic policy, endpoints not Ready]", spec: plain, slices: []string{"s p=8080: 10.0.1.1 notready; 10.0.1.2 gone"},
			want: []string{"p: 10.96.0.1:80/TCP ->"}},
		{name: "serving but neither ready nor terminating is no endpoint", spec: plain, slices: []string{"s p=8080: 10.0.1.1 notready"},
			want: []string{"p: 10.96.0.1:80/TCP ->"}},
		{name: "no endpoints [e2e: should be rejected when no endpoints exist]", spec: plain, want: []string{"p: 10.96.0.1:80/TCP ->"}},
		{name: "publishNotReadyAddresses [e2e: should serve endpoints of terminating pods]", spec: plain,
			slices: []string{"s p=8080: 10.0.1.1 published"}, want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080"}},

		// UDP that has begun [pkg/proxy/conntrack: TestCleanStaleEntries; IsServing].
		{name: "stays with who ends but serves", spec: udp, slices: []string{"s p=53/UDP: 10.0.1.1 terminating; 10.0.1.2; 10.0.1.3 notready; 10.0.1.4 gone"},
			want: []string{"p: 10.96.0.1:53/UDP -> 10.0.1.2:53 staying 10.0.1.1:53"}},
		{name: "stays with who serves other zones by now", spec: udp, node: "node-a a", slices: []string{"s p=53/UDP: 10.0.1.1 zones=a; 10.0.1.2 zones=b"},
			want: []string{"p: 10.96.0.1:53/UDP -> 10.0.1.1:53 staying 10.0.1.2:53"}},
		{name: "of those that end, when no other serves, none besides", spec: udp, slices: []string{"s p=53/UDP: 10.0.1.1 terminating"},
			want: []string{"p: 10.96.0.1:53/UDP -> 10.0.1.1:53"}},

		// Slices.
		{name: "two slices of one Service [TestEndpointsMapFromESC: 2 slices, overlapping endpoints]", spec: plain,
			slices: []string{"s2 p=8080: 10.0.1.3; 10.0.1.1", "s1 p=8080: 10.0.1.1; 10.0.1.2"},
			want:   []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080 10.0.1.2:8080 10.0.1.3:8080"}},
		{name: "of one address the pod that does not end [2 slices, overlapping endpoints, some endpoints unready]", spec: plain,
			slices: []string{"s1 p=8080: 10.0.1.1 terminating", "s2 p=8080: 10.0.1.1 ready"},
			want:   []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080"}},
		{name: "of one address the pod that does not end, though it is not ready", spec: plain,
			slices: []string{"s1 p=8080: 10.0.1.1 published", "s2 p=8080: 10.0.1.1 notready"}, want: []string{"p: 10.96.0.1:80/TCP ->"}},
		{name: "of one address the ready one", spec: plain, slices: []string{"s1 p=8080: 10.0.1.1 notready", "s2 p=8080: 10.0.1.1 ready"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080"}},
		{name: "one address, two ports [2 slices with different port]", spec: plain, slices: []string{"s1 p=8080: 10.0.1.1", "s2 p=8081: 10.0.1.1"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080 10.0.1.1:8081"}},
		{name: "ports by name [e2e: should serve multiport endpoints from pods]",
			spec:   "clusterIP: 10.96.0.1, ports: [{name: a, port: 80}, {name: b, port: 81}, {name: c, port: 82}]",
			slices: []string{"s a=100 b=101: 10.0.1.1", "t a=100: 10.0.1.2"},
			want:   []string{"a: 10.96.0.1:80/TCP -> 10.0.1.1:100 10.0.1.2:100", "b: 10.96.0.1:81/TCP -> 10.0.1.1:101", "c: 10.96.0.1:82/TCP ->"}},
		{name: "ports by protocol, too [e2e: should be able to serve endpoints on same port and different protocols]",
			spec:   "clusterIP: 10.96.0.10, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}, {name: dns, port: 54}]",
			slices: []string{"s dns=53/UDP dns-tcp=53/TCP: 10.0.1.1"},
			want:   []string{"dns: 10.96.0.10:53/UDP -> 10.0.1.1:53", "dns-tcp: 10.96.0.10:53/TCP -> 10.0.1.1:53", "dns: 10.96.0.10:54/TCP ->"}},
		{name: "a port without a name", spec: "clusterIP: 10.96.0.1, ports: [{port: 80}]", slices: []string{"s =8080: 10.0.1.1"},
			want: []string{": 10.96.0.1:80/TCP -> 10.0.1.1:8080"}},
		{name: "ports that are none [TestEndpointInfoByServicePort]", spec: plain, slices: []string{"s p=: 10.0.1.1", "t p=0: 10.0.1.2"},
			want: []string{"p: 10.96.0.1:80/TCP ->"},
			bad:  []string{"ports[0]: no port; of an endpoint all ports at once are no Service's", "ports[0]: port 0 is not 1 to 65535"}},
		{name: "addresses that are none's", spec: plain,
			slices: []string{"s p=8080: 127.0.0.1; 169.254.1.1; 224.0.0.1; 0.0.0.0; 255.255.255.255; nonsense; 010.0.1.1"},
			want:   []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080"},
			bad: []string{"endpoints[0]: 127.0.0.1 is loopback", "endpoints[1]: 169.254.1.1 is link-local", "endpoints[2]: 224.0.0.1 is multicast",
				"endpoints[3]: 0.0.0.0 is unspecified", "endpoints[4]: 255.255.255.255 is broadcast", `endpoints[5]: "nonsense" is not an IP address`}},

		// Frontends.
		{name: "dual stack [e2e: should create service with ipv4,v6 cluster ip]",
			spec:   "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6], type: NodePort, ports: [{name: p, port: 80, nodePort: 30080}]",
			slices: []string{"s p=8080: 10.0.1.1", "t p=8080: fd01::1"},
			want:   []string{"p: 10.96.0.1:80/TCP 0.0.0.0:30080/TCP -> 10.0.1.1:8080", "p: [fd00::1]:80/TCP [::]:30080/TCP -> [fd01::1]:8080"}},
		{name: "external addresses of a family without cluster IP are not served [TestServiceToServiceMap]",
			spec:   "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ipFamilies: [IPv4], externalIPs: [192.0.2.1, 'fd02::1'], ports: [{name: p, port: 80}]",
			slices: []string{"s p=8080: 10.0.1.1"}, want: []string{"p: 10.96.0.1:80/TCP 192.0.2.1:80/TCP -> 10.0.1.1:8080"}},
		{name: "load balancer [TestServiceToServiceMap: load balancer, ipMode]",
			spec:   "type: LoadBalancer, clusterIP: 10.96.0.1, ingress: [{ip: 192.0.2.1, ipMode: VIP}, {ip: 192.0.2.2, ipMode: Proxy}, {hostname: lb.example}, {ip: 192.0.2.3}], ports: [{name: p, port: 80, nodePort: 30080}]",
			slices: []string{"s p=8080: 10.0.1.1"},
			want:   []string{"p: 10.96.0.1:80/TCP 192.0.2.1:80/TCP 192.0.2.3:80/TCP 0.0.0.0:30080/TCP -> 10.0.1.1:8080"}},
		{name: "allocateLoadBalancerNodePorts false", spec: "type: LoadBalancer, allocateLoadBalancerNodePorts: false, clusterIP: 10.96.0.1, ingress: [{ip: 192.0.2.1}], ports: [{name: p, port: 80}]",
			slices: []string{"s p=8080: 10.0.1.1"}, want: []string{"p: 10.96.0.1:80/TCP 192.0.2.1:80/TCP -> 10.0.1.1:8080"}},
		{name: "ExternalName [TestUpdateServiceTypeExternalName]", spec: "type: ExternalName, clusterIP: 10.96.0.1, ports: [{port: 80}]"},
		{name: "headless [TestServiceMapUpdateHeadless]", spec: "clusterIP: None, clusterIPs: [None], ports: [{port: 80}]"},
		{name: "not yet a cluster IP", spec: "ports: [{port: 80}]"},
		{name: "somebody else's [e2e: should implement service.kubernetes.io/service-proxy-name]", spec: plain + ", labels: {service.kubernetes.io/service-proxy-name: x}"},
		{name: "one address in two roles", spec: "clusterIP: 10.96.0.1, externalIPs: [10.96.0.1, 192.0.2.1, 192.0.2.1], ingress: [{ip: 192.0.2.1}], ports: [{name: p, port: 80}]",
			want: []string{"p: 10.96.0.1:80/TCP 192.0.2.1:80/TCP ->"}},
		{name: "what is wrong in a Service",
			spec: "clusterIP: 10.96.0.1, externalIPs: [nonsense, 127.0.0.1, 169.254.169.254, 0.0.0.0], ports: [{name: p, port: 80}, {name: q}, {name: r, port: 80}, {name: p, port: 81}, {name: s, port: 1, protocol: X}]",
			want: []string{"p: 10.96.0.1:80/TCP ->"},
			bad: []string{`externalIPs[0]: "nonsense" is not an IP address`, "externalIPs[1]: 127.0.0.1 is loopback", "externalIPs[2]: 169.254.169.254 is link-local",
				"externalIPs[3]: 0.0.0.0 is unspecified", "ports[1]: port 0 is not 1 to 65535", "ports[2]: port 80 or nodePort 0 is another port's of protocol TCP",
				`ports[3]: a second port with name "p" and protocol TCP`, `ports[4]: protocol "X" is none of TCP, UDP, SCTP`}},
		{name: "cluster IP of the wrong family", spec: "clusterIP: 'fd00::1', clusterIPs: ['fd00::1'], ipFamilies: [IPv4], ports: [{port: 80}]",
			bad: []string{"clusterIPs[0]: fd00::1 is not of ipFamilies[0], IPv4"}},

		// Policies.
		{name: "internalTrafficPolicy Local [iTP: Local, some endpoints are local; e2e: should respect internalTrafficPolicy=Local Pod to Pod]",
			spec: plain + ", internalTrafficPolicy: Local", slices: []string{"s p=8080: 10.0.1.1 on=node-a; 10.0.1.2 on=node-b"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080"}},
		{name: "all endpoints are remote [internalTrafficPolicy: Local, but all endpoints are remote]",
			spec: plain + ", internalTrafficPolicy: Local", slices: []string{"s p=8080: 10.0.1.2 on=node-b; 10.0.1.3"},
			want: []string{`p: 10.96.0.1:80/TCP -> drop steered="internalTrafficPolicy Local, and no endpoint on this node"`}},
		{name: "no endpoint at all: refused, not dropped [internalTrafficPolicy: Local, with empty endpoints]",
			spec: plain + ", internalTrafficPolicy: Local", slices: []string{"s p=8080: 10.0.1.2 notready on=node-b"}, want: []string{"p: 10.96.0.1:80/TCP ->"}},
		{name: "terminating here, ready elsewhere [e2e: should fallback to local terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Local]",
			spec: plain + ", internalTrafficPolicy: Local", slices: []string{"s p=8080: 10.0.1.1 terminating on=node-a; 10.0.1.2 on=node-b"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080"}},
		{name: "externalTrafficPolicy Local [iTP: Cluster, eTP: Local, some endpoints local]",
			spec: outer + ", externalTrafficPolicy: Local", slices: []string{"s p=8080: 10.0.1.1 on=node-a; 10.0.1.2 on=node-b"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080 10.0.1.2:8080", `p: 0.0.0.0:30080/TCP -> 10.0.1.1:8080 steered="externalTrafficPolicy Local"`}},
		{name: "both Local [iTP: Local, eTP: Local, all endpoints remote]",
			spec: outer + ", externalTrafficPolicy: Local, internalTrafficPolicy: Local", slices: []string{"s p=8080: 10.0.1.2 on=node-b"},
			want: []string{`p: 10.96.0.1:80/TCP -> drop steered="internalTrafficPolicy Local, and no endpoint on this node"`,
				`p: 0.0.0.0:30080/TCP -> drop steered="externalTrafficPolicy Local"`}},
		{name: "inside Local, outside Cluster [iTP: Local, eTP: Cluster, some endpoints local]",
			spec: outer + ", internalTrafficPolicy: Local", slices: []string{"s p=8080: 10.0.1.1 on=node-a; 10.0.1.2 on=node-b"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080", "p: 0.0.0.0:30080/TCP -> 10.0.1.1:8080 10.0.1.2:8080"}},
		{name: "terminating here [iTP: Cluster, eTP: Local, with terminating endpoints; e2e: externalTrafficPolicy=Local fallback]",
			spec: outer + ", externalTrafficPolicy: Local", slices: []string{"s p=8080: 10.0.1.1 terminating on=node-a; 10.0.1.2 gone on=node-a; 10.0.1.3 on=node-b"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.3:8080", `p: 0.0.0.0:30080/TCP -> 10.0.1.1:8080 steered="externalTrafficPolicy Local"`}},
		{name: "ending elsewhere only [iTP: Local, eTP: Local, all endpoints remote and terminating]",
			spec: outer + ", externalTrafficPolicy: Local, internalTrafficPolicy: Local", slices: []string{"s p=8080: 10.0.1.2 terminating on=node-b; 10.0.1.1 gone on=node-a"},
			want: []string{`p: 10.96.0.1:80/TCP -> drop steered="internalTrafficPolicy Local, and no endpoint on this node"`,
				`p: 0.0.0.0:30080/TCP -> drop steered="externalTrafficPolicy Local"`}},
		{name: "externalTrafficPolicy ignored if not externally accessible", spec: plain + ", externalTrafficPolicy: Local",
			slices: []string{"s p=8080: 10.0.1.2 on=node-b"}, want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.2:8080"}},

		// Topology.
		{name: "zone hints [should use topology since all endpoints have hints ...; e2e: should create hints for zones]", spec: plain,
			slices: []string{"s p=8080: 10.0.1.1 zones=a; 10.0.1.2 zones=b; 10.0.1.3 zones=b,a"},
			want:   []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080 10.0.1.3:8080"}},
		{name: "node without a zone [empty zone label]", spec: plain, node: "node-a -", slices: []string{"s p=8080: 10.0.1.1 zones=a; 10.0.1.2 zones=b"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080 10.0.1.2:8080"}},
		{name: "hints for other zones only [node in different zone, no endpoint filtering]", spec: plain, node: "node-a c",
			slices: []string{"s p=8080: 10.0.1.1 zones=a; 10.0.1.2 zones=b"}, want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080 10.0.1.2:8080"}},
		{name: "a zone whose name begins alike", spec: plain, node: "node-a a", slices: []string{"s p=8080: 10.0.1.1 zones=aa; 10.0.1.2 zones=a-1"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080 10.0.1.2:8080"}},
		{name: "hint missing for one [missing hints, no filtering applied]", spec: plain, slices: []string{"s p=8080: 10.0.1.1 zones=a; 10.0.1.2"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080 10.0.1.2:8080"}},
		{name: "hint missing for one that is not ready", spec: plain, slices: []string{"s p=8080: 10.0.1.1 zones=a; 10.0.1.2 zones=b; 10.0.1.3 notready"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080"}},
		{name: "only unready endpoints in same zone (should not filter)", spec: plain, slices: []string{"s p=8080: 10.0.1.1 zones=a notready; 10.0.1.2 zones=b"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.2:8080"}},
		{name: "terminating ones serve whatever their hints", spec: plain, slices: []string{"s p=8080: 10.0.1.1 zones=a terminating; 10.0.1.2 zones=b terminating"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080 10.0.1.2:8080"}},
		{name: "PreferSameNode [PreferSameNode available]", spec: plain,
			slices: []string{"s p=8080: 10.0.1.1 zones=a nodes=node-a; 10.0.1.2 zones=a nodes=node-b"}, want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080"}},
		{name: "PreferSameNode ignored if some endpoints unhinted", spec: plain,
			slices: []string{"s p=8080: 10.0.1.1 zones=a nodes=node-a; 10.0.1.2 zones=a; 10.0.1.3 zones=b"}, want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080 10.0.1.2:8080"}},
		{name: "PreferSameNode falls back to PreferSameZone if no endpoint for node", spec: plain,
			slices: []string{"s p=8080: 10.0.1.1 zones=a nodes=node-c; 10.0.1.2 zones=b nodes=node-b"}, want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.1:8080"}},
		{name: "hints mean nothing to Local [externalTrafficPolicy: Local, topology ignored for Local endpoints]", spec: outer + ", externalTrafficPolicy: Local",
			slices: []string{"s p=8080: 10.0.1.1 zones=b on=node-a; 10.0.1.2 zones=a on=node-a; 10.0.1.3 zones=a on=node-b"},
			want: []string{"p: 10.96.0.1:80/TCP -> 10.0.1.2:8080 10.0.1.3:8080",
				`p: 0.0.0.0:30080/TCP -> 10.0.1.1:8080 10.0.1.2:8080 steered="externalTrafficPolicy Local"`}},
		{name: "each port for itself", spec: "clusterIP: 10.96.0.1, ports: [{name: a, port: 80}, {name: b, port: 81}]",
			slices: []string{"s a=1: 10.0.1.1 zones=a; 10.0.1.2 zones=b", "t b=2: 10.0.1.1; 10.0.1.2 zones=b"},
			want:   []string{"a: 10.96.0.1:80/TCP -> 10.0.1.1:1", "b: 10.96.0.1:81/TCP -> 10.0.1.1:2 10.0.1.2:2"}},

		// What else there is.
		{name: "affinity [e2e: should have session affinity work]", spec: plain + ", sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}",
			want: []string{"p: 10.96.0.1:80/TCP -> affinity=1m0s"}},
		{name: "affinity that does not say how long", spec: plain + ", sessionAffinity: ClientIP", want: []string{"p: 10.96.0.1:80/TCP -> affinity=3h0m0s"}},
		{name: "SCTP", spec: "clusterIP: 10.96.0.1, ports: [{name: p, port: 80, protocol: SCTP}]", slices: []string{"s p=8080/SCTP: 10.0.1.1"},
			want: []string{`p: 10.96.0.1:80/SCTP -> 10.0.1.1:8080 steered="SCTP"`}},
		{name: "source ranges [e2e: should respect loadBalancerSourceRanges]",
			spec:   "type: LoadBalancer, clusterIP: 10.96.0.1, externalIPs: [192.0.2.2], ingress: [{ip: 192.0.2.1}], loadBalancerSourceRanges: [' 10.6.0.0/16', '', 192.168.0.1/24, 'fd00::/8'], ports: [{name: p, port: 80, nodePort: 30080}]",
			slices: []string{"s p=8080: 10.0.1.1"},
			want: []string{"p: 10.96.0.1:80/TCP 192.0.2.2:80/TCP 0.0.0.0:30080/TCP -> 10.0.1.1:8080",
				`p: 192.0.2.1:80/TCP -> 10.0.1.1:8080 from=[10.6.0.0/16 192.168.0.0/24] steered="loadBalancerSourceRanges"`}},
		{name: "a range of everything [zero-masked]",
			spec: "type: LoadBalancer, clusterIP: 10.96.0.1, ingress: [{ip: 192.0.2.1}], loadBalancerSourceRanges: [10.6.0.0/16, 1.2.3.4/0], ports: [{name: p, port: 80}]",
			want: []string{"p: 10.96.0.1:80/TCP 192.0.2.1:80/TCP ->"}},
		{name: "ranges of the other family only", spec: "type: LoadBalancer, clusterIP: 10.96.0.1, ingress: [{ip: 192.0.2.1}], loadBalancerSourceRanges: ['fd00::/8', x], ports: [{name: p, port: 80}]",
			want: []string{"p: 10.96.0.1:80/TCP 192.0.2.1:80/TCP ->"}, bad: []string{`loadBalancerSourceRanges[1]: "x" is not a CIDR`}},
		{name: "where backends are", spec: plain,
			slices: []string{"s p=1: 10.6.0.10; 10.6.0.5; 10.7.0.10; 10.0.0.1; 10.0.0.2; 10.0.1.1; 198.51.100.1; 10.6.0.2"},
			want:   []string{"p: 10.96.0.1:80/TCP -> 10.0.0.1:1 10.0.0.2:1!node 10.0.1.1:1 10.6.0.2:1!node 10.6.0.5:1 10.6.0.10:1@blue 10.7.0.10:1 198.51.100.1:1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.node == "" {
				tt.node = "node-a a"
			}
			// 10.7.0.0/24 is of two networks; 10.6.0.2 is a node's address in the midst of a pool.
			v := NewView("node-a", []*Node{nodeOf(tt.node + " 10.0.0.1"), nodeOf("node-b a 10.0.0.2 10.6.0.2 10.0.0.1")}, []*ipam.Pool{
				poolOf(t, "blue 10.6.0.0/16 10.6.0.1-10.6.0.4 10.6.0.10-10.6.0.20"), poolOf(t, "blue 10.7.0.0/24"), poolOf(t, "red 10.7.0.0/24")})
			spec, bad := ReadSpec(serviceOf(t, tt.spec))
			var list []*Slice
			for _, text := range tt.slices {
				s, more := ReadSlice(sliceOf(t, text), "node-a")
				bad, list = append(bad, more...), append(list, s)
			}
			var got []string
			if spec != nil {
				s, more := Build(spec, list, v, nil)
				got, bad = show(s), append(bad, more...)
			}
			if d := cmp.Diff(tt.want, got, cmpopts.EquateEmpty()); d != "" {
				t.Errorf("want -, got +\n%s", d)
			}
			if d := cmp.Diff(tt.bad, texts(bad), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("left out: want -, got +\n%s", d)
			}
		})
	}
}

func TestReadSliceOfOthers(t *testing.T) {
	for name, edit := range map[string]string{
		"headless [e2e: should implement service.kubernetes.io/headless]": "service.kubernetes.io/headless",
		"of another proxy": ProxyNameLabel,
	} {
		s := sliceOf(t, "s p=1: 10.0.0.1")
		s.Labels[edit] = ""
		if got, bad := ReadSlice(s, "node-a"); got != nil || bad != nil {
			t.Errorf("%s: got %v, %v", name, got, bad)
		}
	}
	s := sliceOf(t, "s p=1: 10.0.0.1")
	s.AddressType = "FQDN"
	if got, bad := ReadSlice(s, "node-a"); got != nil || bad != nil {
		t.Errorf("FQDN: got %v, %v", got, bad)
	}
	s = sliceOf(t, "s p=1: fd00::1")
	s.Endpoints[0].Addresses = []string{"10.0.0.1"}
	s.Endpoints = append(s.Endpoints, s.Endpoints[0])
	s.Endpoints[1].Addresses = nil
	s.Ports[0].Name = nil
	got, bad := ReadSlice(s, "node-a")
	want := []string{"ports[0]: no name; that of the Service's port, which may be empty, is needed", "endpoints[0]: 10.0.0.1 is not of addressType IPv6", "endpoints[1]: no address"}
	if d := cmp.Diff(want, texts(bad)); d != "" || got.Endpoints() != 0 {
		t.Errorf("%d endpoints; want -, got +\n%s", got.Endpoints(), d)
	}
}
