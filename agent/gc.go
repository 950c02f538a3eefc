package agent

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/delegate"
	"github.com/berthdev/berth/ipam"
)

// collector is a GC on its way. The runtime's list alone is not believed (Multus gives its own cached one, and for its first network
// only): an interface must be missing from two lists, some time apart, and its pod must be gone by the API's word.
type collector struct {
	*Agent
	call
	conf  *delegate.Config
	valid []types.GCAttachment // the runtime's, and those that are not proven dead
	runs  toRun
	errs  []error
}

// gc frees what interfaces of a network have, whose sandboxes the runtime no longer knows, and has the delegates do the same. One
// failure does not keep it from the others (CNI spec 1.1.0, section 2, "GC").
func (a *Agent) gc(c call) error {
	if !a.isReady() {
		return errNotReady
	}
	conf, err := delegate.ParseConfig(c.Config)
	if err != nil {
		return badConfig{err}
	}
	if conf.ValidAttachments == nil {
		return nil // unknown is not none
	}
	g := &collector{Agent: a, call: c, conf: conf, valid: slices.Clone(conf.ValidAttachments)}
	notes, err := a.notes.all()
	g.fail(err)
	held := map[types.GCAttachment][]*v1alpha1.IPLease{}
	for _, l := range a.store.Bound() {
		if h := ipam.HolderOn(l, a.cfg.NodeName); h != nil && h.Attachment == conf.Name {
			at := types.GCAttachment{ContainerID: h.ContainerID, IfName: h.Interface}
			held[at] = append(held[at], l)
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(held), func(a, b types.GCAttachment) int {
		return cmp.Or(strings.Compare(a.ContainerID, b.ContainerID), strings.Compare(a.IfName, b.IfName))
	}) {
		leases := held[at]
		g.collect(at, *ipam.HolderOn(leases[0], a.cfg.NodeName), leases[0].Name, leases...)
	}
	for _, n := range notes { // of interfaces that hold no lease: their ADD did not end, or the controller has freed them
		at := types.GCAttachment{ContainerID: n.Holder.ContainerID, IfName: n.Holder.Interface}
		if n.Holder.Attachment == conf.Name && held[at] == nil {
			g.collect(at, n.Holder, at.ContainerID+"@"+at.IfName)
		}
	}
	g.forward()
	if len(g.runs) > 0 {
		return g.runs
	}
	return errors.Join(g.errs...)
}

func (g *collector) fail(err error) {
	if err != nil {
		g.errs = append(g.errs, err)
	}
}

// collect what an interface has, if it is twice found without a sandbox and its pod is gone. name is what the suspicion goes by.
func (g *collector) collect(at types.GCAttachment, h v1alpha1.LeaseHolder, name string, leases ...*v1alpha1.IPLease) {
	if slices.Contains(g.conf.ValidAttachments, at) {
		g.suspect.clear(name)
		return
	}
	dead := false
	if h.UID != "" && g.suspect.twice(name, h.ContainerID, g.cfg.Now()) { // without UID, who it is for is not known: live
		var err error
		if g.doubt(&h) != doubtNetNSExists {
			dead, err = g.pods.gone(g, h.Namespace, h.Pod, string(h.UID))
		}
		g.fail(err)
	}
	if !dead {
		if !slices.Contains(g.valid, at) {
			g.valid = append(g.valid, at)
		}
		return
	}
	defer g.lock.lock(h.ContainerID, h.Interface)()
	back, err := g.giveBack(g.Request, h.ContainerID, h.Interface, true, leases)
	if err != nil {
		g.fail(err)
		return
	}
	if len(back.runs) > 0 {
		g.runs = append(g.runs, back.runs...)
		return
	}
	g.log.Info("free what an interface without a sandbox has", "interface", h.Interface, "pod", h.Namespace+"/"+h.Pod, "leases", len(leases))
	g.fail(g.endReturn(g.call, h.ContainerID, h.Interface, back, leases, surrendered.tell))
	g.suspect.clear(name)
}

// forward GC to the delegates of the pools that serve this node. Their list has all that may be alive, so that they free no more
// than Berth does.
func (g *collector) forward() {
	for _, p := range g.pools.all() {
		if p.Delegate == nil || !p.ServesNode(g.pods.thisNode().Labels) {
			continue
		}
		d := delegationOf(p)
		run, err := d.run("GC", g.Request)
		if err == nil {
			run.Config, err = delegate.WithAttachments(run.Config, g.valid)
		}
		if err != nil {
			g.fail(err)
			continue
		}
		switch ran := find(g.Ran, run); {
		case ran == nil:
			g.runs = append(g.runs, run)
		case ran.Error != nil && !unknown(ran.Error):
			g.fail(delegateError{d.Pool, d.Type, ran.Error})
		}
	}
}

// apart is how long two observations must lie apart.
const apart = 30 * time.Second

// suspects are leases once found without a sandbox.
type suspects struct {
	mu    sync.Mutex
	since map[string]suspicion // by lease name
}

type suspicion struct {
	containerID string
	since       time.Time
}

func newSuspects() *suspects { return &suspects{since: map[string]suspicion{}} }

// twice says whether this is a second observation of the same sandbox's lease, and long enough after the first.
func (s *suspects) twice(name, containerID string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if first, ok := s.since[name]; ok && first.containerID == containerID {
		return now.Sub(first.since) >= apart
	}
	s.since[name] = suspicion{containerID, now}
	return false
}

func (s *suspects) clear(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.since, name)
}
