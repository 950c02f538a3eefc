package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
)

const netConf = `{"cniVersion": "1.1.0", "name": "hammer", "type": "macvlan", "master": "eth0", "ipam": {"type": "berth"}}`

func (m *machine) request(s *sandbox, ifName string) *delegate.Request {
	p := s.pod
	var sum uint32
	for _, b := range []byte(s.id + ifName) {
		sum = sum*16777619 ^ uint32(b)
	}
	return &delegate.Request{
		ContainerID: s.id, NetNS: m.netns(s.id), IfName: ifName, Config: json.RawMessage(netConf),
		MAC: fmt.Sprintf("02:00:%02x:%02x:%02x:%02x", byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)),
		Args: fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_INFRA_CONTAINER_ID=%s;K8S_POD_UID=%s",
			p.Namespace, p.Name, s.id, p.UID),
	}
}

// add an interface to a sandbox. A success is looked up in the API server, unless the pod has given it up meanwhile.
func (m *machine) add(ctx context.Context, s *sandbox, ifName string) error {
	of := s.of(ifName)
	m.history.add(Event{Kind: Asked, Node: m.name, Pod: s.pod.Name, Of: of})
	res, err := m.call(ctx, delegate.PathAdd, m.request(s, ifName))
	var leases []string
	if err == nil {
		leases, err = leasesOf(res)
	}
	if err != nil {
		m.history.add(Event{Kind: Refused, Node: m.name, Pod: s.pod.Name, Of: of, Note: err.Error()})
		var e *delegate.Error
		if errors.As(err, &e) {
			m.history.count(fmt.Sprintf("ADD code %d", e.Code))
		}
		return err
	}
	m.mu.Lock()
	if s.gone {
		m.mu.Unlock()
		m.history.add(Event{Kind: Refused, Node: m.name, Pod: s.pod.Name, Of: of, Note: "the sandbox is gone"})
		return errNoAgent
	}
	given := m.history.add(Event{Kind: Given, Node: m.name, Pod: s.pod.Name, Of: of, Leases: leases, Keeper: s.keeper})
	m.mu.Unlock()
	if wrong := cmp.Or(paired(m.pairs, leases), trespass(m.all, s.pod, leases)); wrong != "" {
		m.history.violate(Event{Kind: Given, Node: m.name, Pod: s.pod.Name, Of: of, Leases: leases}, wrong)
	}
	for _, name := range leases {
		err := m.insist(ctx, func() error {
			since := m.history.last()
			l, err := m.leases.Get(ctx, name, metav1.GetOptions{})
			seen := Lease{Name: name}
			if err == nil {
				seen = leaseOf(l)
				if wrong := trespassCarved(l, s.pod); wrong != "" {
					m.history.violate(Event{Kind: Given, Node: m.name, Pod: s.pod.Name, Of: of, Leases: leases}, wrong)
				}
			} else if !isNotFound(err) {
				return err
			}
			m.history.add(Event{Kind: Read, Seen: []Lease{seen}, Since: max(since, given)})
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// del an interface of a sandbox, which need not be there any more.
func (m *machine) del(ctx context.Context, s *sandbox, ifName string) error {
	e := Event{Kind: Dropped, Node: m.name, Pod: s.pod.Name, Of: s.of(ifName)}
	m.history.add(e)
	_, err := m.call(ctx, delegate.PathDel, m.request(s, ifName))
	if e.Kind = Deleted; err != nil {
		e.Kind, e.Note = Left, err.Error()
	}
	m.history.add(e)
	return err
}

// check that an interface has what it was given.
func (m *machine) check(ctx context.Context, s *sandbox, ifName string) error {
	_, err := m.call(ctx, delegate.PathCheck, m.request(s, ifName))
	var e *delegate.Error
	if errors.As(err, &e) && e.Code == delegate.CodeNotBound {
		m.mu.Lock()
		gone := s.gone
		m.mu.Unlock()
		if !gone {
			m.history.violate(Event{Kind: Read, Node: m.name, Pod: s.pod.Name, Of: s.of(ifName)}, "CHECK: "+e.Msg)
		}
	}
	return err
}

// isReady says whether the runtime would make a sandbox: it asks for STATUS before (CNI spec 1.1.0, section 3).
func (m *machine) isReady(ctx context.Context) bool {
	_, err := m.call(ctx, delegate.PathStatus, &delegate.Request{Config: json.RawMessage(netConf)})
	return err == nil
}

// gc tells the agent which attachments the runtime has.
func (m *machine) gc(ctx context.Context) error {
	valid := []types.GCAttachment{}
	m.mu.Lock()
	for _, s := range m.sandboxes {
		for _, i := range s.interfaces {
			valid = append(valid, types.GCAttachment{ContainerID: s.id, IfName: i})
		}
	}
	m.mu.Unlock()
	list, err := json.Marshal(valid)
	if err != nil {
		return err
	}
	conf := strings.Replace(netConf, `"ipam"`, `"cni.dev/valid-attachments": `+string(list)+`, "ipam"`, 1)
	_, err = m.call(ctx, delegate.PathGC, &delegate.Request{Config: json.RawMessage(conf)})
	return err
}

func leasesOf(res *types100.Result) ([]string, error) {
	var out []string
	for _, ip := range res.IPs {
		a, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, fmt.Errorf("address %v in the answer", ip.Address)
		}
		out = append(out, ipam.LeaseName(network, a.Unmap()))
	}
	if len(out) == 0 {
		return nil, errors.New("no address in the answer")
	}
	slices.Sort(out)
	return out, nil
}
