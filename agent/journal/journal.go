// Package journal is what a node knows without the Kubernetes API: which addresses its pods' interfaces were given, and which
// writes the API has not acknowledged yet. It is one bbolt file, and a copy of it in memory, which is what is read.
//
// The API is the truth, the journal a memory of it. So a journal that cannot be read is set aside, and one that cannot be written
// keeps no pod from starting while the API answers.
//
//	state of an interface      in the file                                       leaves by
//	(unknown)                  –                                                 ADD → held
//	held                       Entry; its leases name its holder                 DEL → released; new sandbox → to rebind
//	to rebind                  Entry; a lease names an earlier holder            the API's answer → held; DEL → released
//	released, untold           Release, Sent false: the API has not heard of it  new sandbox of the pod → to rebind; sent → told
//	released, told             Release, Sent true: it may be done or not         the API's answer → (unknown)
//
// Only an untold release may be taken back: of a told one nobody knows whether the address is another pod's by now. Nor is one of which
// a lease was free since, as an interface's other release of it, or whoever claimed it, has found.
package journal

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// Entry is one interface of one sandbox and what it was given. Entries are never changed in place.
type Entry struct {
	// Holder is the interface; a lease that names another holder is to be rebound to it.
	Holder v1alpha1.LeaseHolder `json:"holder"`
	// NetNS is CNI_NETNS; empty if it is not known.
	NetNS string `json:"netns,omitempty"`
	// Leases as the API last acknowledged them, IPv4 first.
	Leases []*v1alpha1.IPLease `json:"leases"`
	// Result that ADD was answered with, of CNI version 1.1.0; empty if the entry was made from the API's leases.
	Result json.RawMessage `json:"result,omitempty"`
	// Steered: the result has routes into the service path, which must be there before the pod runs.
	Steered bool `json:"steered,omitempty"`
	// Fast: its sockets may connect to backends of Services themselves.
	Fast bool `json:"fast,omitempty"`
	// Guard is how the interface is kept to its leases; nil if that is not known.
	Guard *Guard `json:"guard,omitempty"`
}

// Guard is how an interface is kept to its leases, as its ADD found it: neither an edit of a pool nor of an annotation changes it.
type Guard struct {
	On       bool           `json:"on,omitempty"`
	Required bool           `json:"required,omitempty"` // the interface must not be used without
	Allowed  []netip.Prefix `json:"allowed,omitempty"`  // beside the leases
	DHCP     bool           `json:"dhcp,omitempty"`     // an address is renewed by DHCP
}

// Release is what an interface gave up and the API has not acknowledged.
type Release struct {
	Entry
	ID    string    `json:"-"`
	Since time.Time `json:"since"`
	// Sent: the API may have heard of it.
	Sent bool `json:"sent,omitempty"`
}

// Rebind says whether a lease names another holder by the API's last word.
func (e *Entry) Rebind() bool {
	return slices.ContainsFunc(e.Leases, func(l *v1alpha1.IPLease) bool { return !e.Holds(l) })
}

// Answered says whether an ADD was answered with the entry, and how; false for nil.
func (e *Entry) Answered() bool { return e != nil && len(e.Result) > 0 }

// Holds says whether a lease names the interface as its holder, or as one of two.
func (e *Entry) Holds(l *v1alpha1.IPLease) bool {
	return slices.ContainsFunc(ipam.Holders(l), func(h *v1alpha1.LeaseHolder) bool { return *h == e.Holder })
}

// Unbound says whether a lease of an entry is there to be claimed again, see Journal.Unbind: it names nobody.
func Unbound(l *v1alpha1.IPLease) bool { return *l.Spec.Holder == v1alpha1.LeaseHolder{} }

func (e *Entry) key() string { return key(e.Holder.ContainerID, e.Holder.Interface) }

func key(containerID, ifName string) string { return containerID + "/" + ifName }

// Journal of one node. Its methods may be called from any goroutine; those that return an error return once the file is written.
type Journal struct {
	file   string // "" for none: then nothing is kept, and nothing is known
	log    *slog.Logger
	now    func() time.Time
	wanted chan chan error // changes to be written at once, and who waits for them
	lazy   chan struct{}   // there are others to be written soon
	end    chan struct{}   // closed by Close
	done   chan struct{}   // closed when the writer has ended

	mu    sync.RWMutex
	state *state

	db      *bbolt.DB // the writer's; nil while the file cannot be written
	tally   *tally    // of the file
	nextTry time.Time // of beginning another file, when db is nil
}

// Put an interface that has its leases by the API's word. What else the journal knew of them, and of earlier sandboxes of the pod's
// interface, is void.
func (j *Journal) Put(e *Entry) { j.lazily(func(s *state) { s.put(e) }) }

// Void what the journal knows of a lease: by the API's word it is not this node's. Releases of it stay to be told.
func (j *Journal) Void(lease string) {
	j.lazily(func(s *state) {
		for k, e := range s.entries {
			if has(e.Leases, lease) {
				s.lost(k, lease)
			}
		}
		s.wasFree(lease)
	})
}

// Adopt finds what the interface of holder had: this sandbox, or an earlier one of the same pod, if the result is known and its
// addresses were not told to the API as free. They are the holder's from now on. nil: there is none.
func (j *Journal) Adopt(h v1alpha1.LeaseHolder, netNS string) (e *Entry, err error) {
	err = j.durably(func(s *state) { e = s.adopt(h, netNS) })
	return e, err
}

// Known says whether Adopt would find something, now.
func (j *Journal) Known(containerID, ifName string, uid types.UID) *Entry {
	j.mu.RLock()
	defer j.mu.RUnlock()
	e, _ := j.state.find(containerID, ifName, uid)
	return e
}

// Release the leases that the sandbox's interface gives up, but for those that are another sandbox's by now. sent says that the API
// is going to hear of it at once. nil: there is nothing to give up. With an error the release is known, but not in the file.
func (j *Journal) Release(containerID, ifName string, leases []*v1alpha1.IPLease, sent bool) (r *Release, err error) {
	err = j.durably(func(s *state) { r = s.release(containerID, ifName, leases, sent, j.now()) })
	return r, err
}

// Send says whether the release is still to be told to the API, and takes note that it is.
func (j *Journal) Send(id string) (r *Release, err error) {
	err = j.durably(func(s *state) { r = s.sent(id, true) })
	return r, err
}

// Unsent takes note that the API has certainly not heard of the release.
func (j *Journal) Unsent(id string) { j.lazily(func(s *state) { s.sent(id, false) }) }

// WasFree takes note that by the API's word a lease was free, before somebody claimed it.
func (j *Journal) WasFree(lease string) { j.lazily(func(s *state) { s.wasFree(lease) }) }

// Freed takes note that the API has acknowledged the release of a lease.
func (j *Journal) Freed(id, lease string) { j.lazily(func(s *state) { s.freed(id, lease) }) }

// Bound takes note that the API has acknowledged a lease of the interface.
func (j *Journal) Bound(containerID, ifName string, l *v1alpha1.IPLease) {
	j.lazily(func(s *state) { s.bound(key(containerID, ifName), l) })
}

// Unbind takes note that by the API's word a lease is not the interface's, which uses its address: it is to be claimed again.
func (j *Journal) Unbind(containerID, ifName, lease string) {
	j.lazily(func(s *state) { s.unbind(key(containerID, ifName), lease) })
}

// Lost takes note that a lease is the interface's no more. Its result is of no use then.
func (j *Journal) Lost(containerID, ifName, lease string) {
	j.lazily(func(s *state) { s.lost(key(containerID, ifName), lease) })
}

// Interface of a sandbox; nil if nothing is known of it.
func (j *Journal) Interface(containerID, ifName string) *Entry {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.state.entries[key(containerID, ifName)]
}

// Entries are all interfaces, in no order.
func (j *Journal) Entries() []*Entry {
	j.mu.RLock()
	defer j.mu.RUnlock()
	out := make([]*Entry, 0, len(j.state.entries))
	for _, e := range j.state.entries {
		out = append(out, e)
	}
	return out
}

// Releases are all that the API has not acknowledged, in no order.
func (j *Journal) Releases() []*Release {
	j.mu.RLock()
	defer j.mu.RUnlock()
	out := make([]*Release, 0, len(j.state.releases))
	for _, r := range j.state.releases {
		out = append(out, r)
	}
	return out
}

// Node is what SetNode kept under a key, in this run of the agent or an earlier one; nil if nothing.
func (j *Journal) Node(key string) json.RawMessage {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.state.node[key]
}

// SetNode keeps what the node was told last, as JSON, under one of the keys of this package.
func (j *Journal) SetNode(key string, v json.RawMessage) {
	j.lazily(func(s *state) { s.setNode(key, v) })
}

// Keeps says whether there is a file: a journal without one knows nothing, and what it is told is not durable.
func (j *Journal) Keeps() bool { return j.file != "" }

// OfLease is the interface that has the lease, by the journal; nil if none has.
func (j *Journal) OfLease(lease string) *Entry {
	j.mu.RLock()
	defer j.mu.RUnlock()
	for _, e := range j.state.entries {
		if has(e.Leases, lease) {
			return e
		}
	}
	return nil
}

// Released says whether a release of the lease is still to be acknowledged.
func (j *Journal) Released(lease string) bool {
	j.mu.RLock()
	defer j.mu.RUnlock()
	for _, r := range j.state.releases {
		if has(r.Leases, lease) {
			return true
		}
	}
	return false
}
