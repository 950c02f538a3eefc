package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func pods(node string, change func(*corev1.Pod)) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-0"}, Spec: corev1.PodSpec{NodeName: node}}
	change(&p)
	return p
}

func svc(name string, change func(*corev1.ServiceSpec)) corev1.Service {
	s := corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.10", []string{"10.96.0.10", "2001:db8:96::10"}
	s.Spec.Ports = []corev1.ServicePort{{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}, {Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP}, {Name: "metrics", Port: 9153}}
	change(&s.Spec)
	return s
}

const traced = `[{"node":"a","pod":"shop/web-0","to":"10.96.0.10:53/TCP","steps":[
	{"name":"interfaces","state":"passes","says":["net1: 10.6.1.1","net2: 10.7.1.1"]},{"name":"socket","state":"skipped","says":["fast mode is off"]}],"ends":"lost"},
	{"node":"a","pod":"shop/web-0","to":"[2001:db8:96::10]:53/TCP","steps":[],"ends":"lost, too"}]`

func TestTrace(t *testing.T) {
	f := &fakeCluster{
		ran: make(chan []string, 1),
		pods: []corev1.Pod{agentPod("a", corev1.PodRunning), pods("a", func(*corev1.Pod) {}),
			pods("a", func(p *corev1.Pod) { p.Name, p.Spec.HostNetwork = "host", true }), pods("", func(p *corev1.Pod) { p.Name = "pending" }),
			pods("a", func(p *corev1.Pod) { p.Name, p.Status.Phase = "done", corev1.PodSucceeded }), pods("b", func(p *corev1.Pod) { p.Name = "far" })},
		services: []corev1.Service{svc("dns", func(*corev1.ServiceSpec) {}), svc("headless", func(s *corev1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = "None", []string{"None"} }),
			svc("named", func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "example.org" }),
			svc("one", func(s *corev1.ServiceSpec) { s.Ports = s.Ports[2:] })},
		endpoints: []discoveryv1.EndpointSlice{{Ports: []discoveryv1.EndpointPort{{Name: ptr.To("metrics"), Port: ptr.To(int32(9000))}, {Name: ptr.To("dns"), Port: ptr.To(int32(5353)), Protocol: ptr.To(corev1.ProtocolUDP)}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.6.1.9"}}, {Addresses: []string{"10.6.1.10"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}}}}},
		says: func(string, []string) (string, string) { return traced, "" },
	}
	flags := " --node-name=a --pin-dir /p/d --x=$(NONE)"
	for _, tt := range []struct{ args, ran, err string }{
		{args: "pod/web-0 dns:53", ran: "10.96.0.10:53/TCP [2001:db8:96::10]:53/TCP"},
		{args: "web-0 shop/dns:53/udp", ran: "--endpoint 10.6.1.9:5353 10.96.0.10:53/UDP [2001:db8:96::10]:53/UDP"},
		{args: "pod/web-0 svc/shop/dns:dns", ran: "--endpoint 10.6.1.9:5353 10.96.0.10:53/UDP [2001:db8:96::10]:53/UDP"},
		{args: "pod/web-0 one", ran: "--endpoint 10.6.1.9:9000 10.96.0.10:9153/TCP [2001:db8:96::10]:9153/TCP"},
		{args: "-n shop pod/web-0 10.96.0.1:443", ran: "10.96.0.1:443/TCP"},
		{args: "pod/web-0 [2001:db8::1]:53/UDP", ran: "[2001:db8::1]:53/UDP"},
		{args: "pod/web-0 dns", err: "Service shop/dns has several ports; name one of dns (53/udp), dns-tcp (53/tcp), metrics (9153/tcp)"},
		{args: "pod/web-0 dns:54", err: "Service shop/dns has no port 54; it has dns (53/udp), dns-tcp (53/tcp), metrics (9153/tcp)"},
		{args: "pod/web-0 dns:metrics/udp", err: "Service shop/dns has no port metrics/udp; it has"},
		{args: "pod/web-0 dns:53/icmp", err: `protocol "icmp" is none of tcp, udp, sctp`},
		{args: "pod/web-0 10.96.0.1", err: `"10.96.0.1" has no port, as in 10.96.0.1:80`},
		{args: "pod/web-0 a/b/c", err: `"a/b/c" is neither SERVICE`},
		{args: "pod/web-0 dns.shop.svc:53", err: `"dns.shop.svc:53" is neither SERVICE`},
		{args: "pod/web-0 10.96.0.10/udp", err: `"10.96.0.10/udp" is neither SERVICE`},
		{args: "pod/web-0 10.96.0.10:http", err: `"10.96.0.10:http" is neither SERVICE`},
		{args: "pod/web-0 /dns:53", err: `"/dns:53" is neither SERVICE`},
		{args: "pod/web-0 headless:53", err: "has no cluster IP: its clients connect to endpoints"},
		{args: "pod/web-0 named", err: "is a name for example.org"},
		{args: "pod/web-0 none:53", err: `Service shop/none: services "none" not found`},
		{args: "pod/none dns:53", err: `pod shop/none: pods "none" not found`},
		{args: "deploy/web dns:53", err: `"deploy/web" is not pod/NAME`},
		{args: "pod/host dns:53", err: "has the network of its node"},
		{args: "pod/pending dns:53", err: "is on no node yet"},
		{args: "pod/done dns:53", err: "has finished (Succeeded)"},
		{args: "pod/far dns:53", err: `node "b" has no pod of berth-agent`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			_, err := runCommand(t, f, "trace "+tt.args)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := "agent /usr/local/bin/berth-agent trace shop/web-0 -o json " + tt.ran + flags
			if diff := cmp.Diff(want, strings.Join(<-f.ran, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
	out, err := runCommand(t, f, "trace pod/web-0 dns:53")
	<-f.ran
	want := `shop/web-0 → 10.96.0.10:53/TCP, on node a
 1. interfaces passes   net1: 10.6.1.1
                        net2: 10.7.1.1
 2. socket     skipped  fast mode is off
 ⇒  lost

shop/web-0 → [2001:db8:96::10]:53/TCP, on node a
 ⇒  lost, too
`
	if diff := cmp.Diff(want, out); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if out, err := runCommand(t, f, "trace -o json pod/web-0 dns:53"); err != nil || !strings.HasPrefix(out, `[{"node":"a","pod":"shop/web-0"`) {
		t.Errorf("%q, %v", out, err)
	}
	<-f.ran
	f.says = func(string, []string) (string, string) { return "", "berth-agent: the agent does not answer" }
	if _, err := runCommand(t, f, "trace pod/web-0 dns:53"); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Error(err)
	}
	<-f.ran
	for args, want := range map[string]string{
		"trace pod/web-0 --watch":                                  "-o text --watch --until-eof --rate 100 --for 10m0s",
		"trace pod/web-0 dns:53 --watch --rate 5 --for 9s -o json": "-o json 10.96.0.10:53/TCP [2001:db8:96::10]:53/TCP --watch --until-eof --rate 5 --for 9s",
	} {
		f.says = func(string, []string) (string, string) { return "a packet\n", "" }
		out, err := runCommand(t, f, args)
		if err != nil || out != "a packet\n" {
			t.Errorf("%s: %q, %v", args, out, err)
		}
		if diff := cmp.Diff("agent /usr/local/bin/berth-agent trace shop/web-0 "+want+flags, strings.Join(<-f.ran, " ")); diff != "" {
			t.Errorf("%s: %s", args, diff)
		}
		f.says = func(string, []string) (string, string) { return "", "berth-agent: unknown flag: --watch" }
		if _, err := runCommand(t, f, args); err == nil || !strings.Contains(err.Error(), "unknown flag: --watch; the agent is of an earlier version") {
			t.Errorf("%s: %v", args, err)
		}
		<-f.ran
	}
	if _, err := runCommand(t, f, "trace pod/web-0"); err == nil {
		t.Error("without --watch, of a pod alone: no error")
	}
}
