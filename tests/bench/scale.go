package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// The size that the service path is made for.
const (
	manyServices  = 10_000
	endpointsEach = 5
)

// measureScale takes what an agent's memory and its maps come to with many Services, in fast mode and with Berth's own table besides.
func measureScale(ctx context.Context, n *node, r *report) error {
	say("%d Services with %d endpoints", manyServices, manyServices*endpointsEach)
	client, err := kubernetes.NewForConfig(n.rest)
	if err != nil {
		return err
	}
	if err := makeManyServices(ctx, client); err != nil {
		return err
	}
	base := fmt.Sprintf("scale/%d-with-%d-endpoints", manyServices, manyServices*endpointsEach)
	for _, by := range []struct{ name, serviceProxy string }{{"fast", "never"}, {"fast-and-table", "always"}} {
		if err := stopAgent(n.agent); err != nil {
			return err
		}
		if n.agent, err = n.runAgent(ctx, nodeName, n.socket(), "--service-proxy", by.serviceProxy); err != nil {
			return err
		}
		if err := n.idle(ctx); err != nil {
			return err
		}
		rss, err := n.residentMiB()
		if err != nil {
			return err
		}
		maps, err := n.mapsMiB()
		if err != nil {
			return err
		}
		if err := r.add(Result{Name: base + "/" + by.name + "/agent/rss", Unit: "MiB", Value: rss, Aim: "≤ 120"},
			Result{Name: base + "/" + by.name + "/maps", Unit: "MiB", Value: maps, Aim: "≤ 32"}); err != nil {
			return err
		}
	}
	return nil
}

func makeManyServices(ctx context.Context, client kubernetes.Interface) error {
	var g errgroup.Group
	g.SetLimit(16)
	for i := range manyServices {
		g.Go(func() error {
			service, slice := manyService(i)
			if _, err := client.CoreV1().Services(service.Namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
				return err
			}
			_, err := client.DiscoveryV1().EndpointSlices(slice.Namespace).Create(ctx, slice, metav1.CreateOptions{})
			return err
		})
	}
	return g.Wait()
}

// manyService is the i-th, with endpoints that are macvlan pods of the pool "single".
func manyService(i int) (*corev1.Service, *discoveryv1.EndpointSlice) {
	name, port, tcp := fmt.Sprintf("service-%05d", i), int32(8080), corev1.ProtocolTCP
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "bench", Name: name + "-abcde",
		Labels: map[string]string{discoveryv1.LabelServiceName: name}}, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Port: &port, Protocol: &tcp}}}
	for j := range endpointsEach {
		k := i*endpointsEach + j + 1
		at, ready := fmt.Sprintf("elsewhere-%d", k%100), true
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{NodeName: &at, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			Addresses: []string{netip.AddrFrom4([4]byte{10, 210, byte(k >> 8), byte(k)}).String()},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "bench", Name: fmt.Sprintf("%s-%d", name, j)}})
	}
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "bench", Name: name},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, Protocol: tcp}}}}, slice
}

// idle waits until the agent has had next to nothing to do for some seconds.
func (n *node) idle(ctx context.Context) error {
	const quiet = 5
	for calm, before := 0, -1; calm < quiet; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.agent.Process.Pid))
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest) // from the third on, see proc(5)
		user, err := strconv.Atoi(fields[11])
		if err != nil {
			return err
		}
		if calm++; user-before > 5 { // hundredths of a second
			calm = 0
		}
		before = user
	}
	return nil
}

// mapsMiB is what the eBPF maps that the agent has open take of the kernel's memory.
func (n *node) mapsMiB() (mib float64, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", n.agent.Process.Pid))
	if err != nil {
		return 0, err
	}
	seen := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // closed meanwhile
		}
		values := map[string]string{}
		for _, line := range strings.Split(string(text), "\n") {
			key, value, _ := strings.Cut(line, ":")
			values[key] = strings.TrimSpace(value)
		}
		if id := values["map_id"]; id != "" && !seen[id] {
			seen[id] = true
			bytes, err := strconv.ParseFloat(values["memlock"], 64)
			if err != nil {
				return 0, fmt.Errorf("%s: memlock: %w", file, err)
			}
			mib += bytes / (1 << 20)
		}
	}
	return mib, nil
}
