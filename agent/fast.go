package agent

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/berthdev/berth/agent/fast"
	"github.com/berthdev/berth/agent/services"
	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/bpf/sock"
	"github.com/berthdev/berth/ipam"
	"github.com/berthdev/berth/nad"
)

// fastMode is what the agent needs of package fast.
type fastMode interface {
	services.Sink
	runner
	SetNodes([]netip.Addr) error
	Put(fast.Interface) error
	Drop(containerID, ifName string)
	SyncInterfaces([]fast.Interface) error
	Counters() (map[string]uint64, error)
	Close() error
}

// openFast mode, if this node can have it. Otherwise all connections to Services go through the node, and why says it.
func openFast(cfg Config, log *slog.Logger) (f fastMode, why error) {
	if cfg.NoServicePath {
		return nil, nil
	}
	if cfg.NoFastMode {
		return nil, fast.Cleanup(cfg.PinDir) // of an agent that had it
	}
	cgroup, err := sock.FindCgroup(cfg.CgroupDirs...)
	if err != nil {
		return nil, err
	}
	opened, err := fast.Open(fast.Config{PinDir: cfg.PinDir, Cgroup: cgroup}, log)
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// fast says whether the pod, its pools and this node want its sockets to connect to backends of Services themselves.
func (t *transaction) fast(ask nad.Ask) bool {
	for _, p := range t.pools {
		if !p.FastMode {
			return false
		}
	}
	return !ask.NoFastMode
}

// hasten an interface's connections to Services. Without they only are slower, so a failure is nobody's but the log's.
func (a *Agent) hasten(h v1alpha1.LeaseHolder, netNS, network string, res *types100.Result) {
	if a.fast == nil {
		return
	}
	i, err := a.fastInterface(h, netNS, network, res)
	if err == nil {
		err = a.fast.Put(i)
	}
	if err != nil {
		a.log.Warn("connections to Services go through the node", "pod", h.Namespace+"/"+h.Pod, "interface", h.Interface, "err", err)
	}
}

func (a *Agent) fastInterface(h v1alpha1.LeaseHolder, netNS, network string, res *types100.Result) (fast.Interface, error) {
	path, ok := a.seen(netNS)
	if !ok {
		return fast.Interface{}, fmt.Errorf("network namespace %q is not in /run/netns", netNS)
	}
	cookie, err := sock.Cookie(path)
	if err != nil {
		return fast.Interface{}, err
	}
	return fast.Interface{ContainerID: h.ContainerID, Name: h.Interface, Cookie: cookie, NetNS: path, Parent: h.Parent,
		Ways: fast.Ways(res, network, h.Parent)}, nil
}

// slow leaves to the node what a sandbox's interface connects to: it gives up addresses.
func (a *Agent) slow(k sandbox) {
	if a.fast != nil {
		a.fast.Drop(k.containerID, k.ifName)
	}
}

// syncFast tells of the interfaces that there are when the agent starts.
func (a *Agent) syncFast() {
	if a.fast == nil {
		return
	}
	of := map[sandbox]bool{}
	for _, l := range a.bound() {
		if h := ipam.HolderOn(l, a.cfg.NodeName); h != nil {
			of[sandbox{h.ContainerID, h.Interface}] = true
		}
	}
	var all []fast.Interface
	for k := range of {
		e := a.journal.Interface(k.containerID, k.ifName)
		if !e.Answered() || !e.Fast {
			continue
		}
		res := &types100.Result{}
		i := fast.Interface{}
		err := json.Unmarshal(e.Result, res)
		if err == nil {
			i, err = a.fastInterface(e.Holder, e.NetNS, networkOf(e.Leases), res)
		}
		if err != nil {
			a.log.Warn("connections to Services go through the node", "pod", e.Holder.Namespace+"/"+e.Holder.Pod, "interface", k.ifName, "err", err)
			continue
		}
		all = append(all, i)
	}
	if err := a.fast.SyncInterfaces(all); err != nil {
		a.log.Warn("fast mode", "err", err)
	}
}

func networkOf(leases []*v1alpha1.IPLease) string {
	if len(leases) == 0 {
		return ""
	}
	return leases[0].Spec.Network
}
