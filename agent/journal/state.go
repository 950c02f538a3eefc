package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berthdev/berth/api/v1alpha1"
	"github.com/berthdev/berth/ipam"
)

// state is the journal in memory, and which of its records are not in the file yet. The objects in it are never changed in place.
type state struct {
	entries  map[string]*Entry          // by container ID and interface
	releases map[string]*Release        // by ID
	node     map[string]json.RawMessage // by key
	last     int                        // number in the ID of the newest release

	dirty map[record]bool
}

// record of the file.
type record struct{ bucket, key string }

func newState() *state {
	return &state{entries: map[string]*Entry{}, releases: map[string]*Release{}, node: map[string]json.RawMessage{}, dirty: map[record]bool{}}
}

func (s *state) set(e *Entry) {
	s.entries[e.key()] = e
	s.dirty[record{bucketEntries, e.key()}] = true
}

func (s *state) drop(key string) {
	if s.entries[key] != nil {
		delete(s.entries, key)
		s.dirty[record{bucketEntries, key}] = true
	}
}

func (s *state) setRelease(r *Release) {
	s.releases[r.ID] = r
	s.dirty[record{bucketReleases, r.ID}] = true
}

func (s *state) dropRelease(id string) {
	if s.releases[id] != nil {
		delete(s.releases, id)
		s.dirty[record{bucketReleases, id}] = true
	}
}

func (s *state) setNode(key string, v json.RawMessage) {
	if !bytes.Equal(s.node[key], v) {
		s.node[key] = v
		s.dirty[record{bucketNode, key}] = true
	}
}

// put an entry, and forget what others say of its leases and what is left of the pod's interface.
func (s *state) put(e *Entry) {
	for k, other := range s.entries {
		if k == e.key() {
			continue
		}
		rest := without(other.Leases, e.Leases)
		if len(rest) < len(other.Leases) || len(rest) == 0 {
			s.shrink(other, rest)
		}
	}
	for id, r := range s.releases {
		if rest := without(r.Leases, e.Leases); len(rest) < len(r.Leases) {
			s.shrinkRelease(id, rest)
		}
	}
	s.set(e)
}

// shrink an entry to some of its leases. Its result says more than that.
func (s *state) shrink(e *Entry, rest []*v1alpha1.IPLease) {
	if len(rest) == 0 {
		s.drop(e.key())
		return
	}
	n := *e
	n.Leases, n.Result = rest, nil
	s.set(&n)
}

func (s *state) shrinkRelease(id string, rest []*v1alpha1.IPLease) {
	if len(rest) == 0 {
		s.dropRelease(id)
		return
	}
	n := *s.releases[id]
	n.Leases, n.Result = rest, nil
	s.setRelease(&n)
}

// find what an interface had: of this sandbox, else of another of its pod, else of one that has given it up untold. The release is
// returned with the entry of it.
func (s *state) find(containerID, ifName string, uid types.UID) (*Entry, *Release) {
	if e := s.entries[key(containerID, ifName)]; e.Answered() {
		return e, nil
	}
	if uid == "" {
		return nil, nil
	}
	same := func(e *Entry) bool {
		return e.Holder.UID == uid && e.Holder.Interface == ifName && e.Answered()
	}
	for _, e := range s.entries {
		if same(e) {
			return e, nil
		}
	}
	var newest *Release
	for _, r := range s.releases {
		if same(&r.Entry) && !s.mayBeFree(r) && (newest == nil || newest.Since.Before(r.Since)) {
			newest = r
		}
	}
	if newest == nil {
		return nil, nil
	}
	return &newest.Entry, newest
}

// mayBeFree says whether the API may have heard of the release, or of another of the same leases: a DEL may come twice.
func (s *state) mayBeFree(r *Release) bool {
	for _, o := range s.releases {
		if o.Sent && len(without(r.Leases, o.Leases)) < len(r.Leases) {
			return true
		}
	}
	return r.Sent
}

func (s *state) adopt(h v1alpha1.LeaseHolder, netNS string) *Entry {
	found, r := s.find(h.ContainerID, h.Interface, h.UID)
	if found == nil {
		return nil
	}
	if r == nil && found.Holder == h && found.NetNS == netNS {
		return found
	}
	n := *found
	n.Holder, n.NetNS = h, netNS
	s.put(&n)
	return &n
}

func (s *state) release(containerID, ifName string, leases []*v1alpha1.IPLease, sent bool, now time.Time) *Release {
	k := key(containerID, ifName)
	for other, e := range s.entries {
		if other != k {
			leases = without(leases, e.Leases)
		}
	}
	if len(leases) == 0 {
		return nil
	}
	s.last++
	r := &Release{ID: fmt.Sprintf("%s#%d", k, s.last), Since: now, Sent: sent}
	r.Holder = *leases[0].Spec.Holder
	for _, h := range ipam.Holders(leases[0]) {
		if key(h.ContainerID, h.Interface) == k {
			r.Holder = *h
		}
	}
	if e := s.entries[k]; e != nil {
		rest := without(e.Leases, leases)
		if len(rest) == 0 {
			r.Entry = *e
		}
		r.Holder = e.Holder
		s.shrink(e, rest)
	}
	if len(r.Leases) != len(leases) { // a part of what the interface has, or more than was known
		r.Result = nil
	}
	r.Leases = leases
	s.setRelease(r)
	return r
}

func (s *state) sent(id string, sent bool) *Release {
	r := s.releases[id]
	if r == nil || r.Sent == sent {
		return r
	}
	n := *r
	n.Sent = sent
	s.setRelease(&n)
	return &n
}

func (s *state) freed(id, lease string) {
	if r := s.releases[id]; r != nil {
		s.shrinkRelease(id, withoutName(r.Leases, lease))
	}
	s.wasFree(lease)
}

// wasFree: no release of the lease is taken back any more.
func (s *state) wasFree(lease string) {
	for _, r := range s.releases {
		if len(r.Result) > 0 && has(r.Leases, lease) {
			n := *r
			n.Result = nil
			s.setRelease(&n)
		}
	}
}

func (s *state) bound(key string, l *v1alpha1.IPLease) {
	e := s.entries[key]
	if e == nil {
		return
	}
	i := slices.IndexFunc(e.Leases, func(o *v1alpha1.IPLease) bool { return o.Name == l.Name })
	if i < 0 {
		return
	}
	n := *e
	n.Leases = slices.Clone(e.Leases)
	n.Leases[i] = l
	s.set(&n)
}

func (s *state) unbind(key, lease string) {
	if e := s.entries[key]; e != nil {
		for _, l := range e.Leases {
			if l.Name == lease {
				l = l.DeepCopy()
				l.ResourceVersion, l.Spec.Holder, l.Spec.Next = "", &v1alpha1.LeaseHolder{}, nil
				s.bound(key, l)
			}
		}
	}
}

func (s *state) lost(key, lease string) {
	if e := s.entries[key]; e != nil {
		s.shrink(e, withoutName(e.Leases, lease))
	}
}

// without those leases of a that b has.
func without(a, b []*v1alpha1.IPLease) (out []*v1alpha1.IPLease) {
	for _, l := range a {
		if !slices.ContainsFunc(b, func(o *v1alpha1.IPLease) bool { return o.Name == l.Name }) {
			out = append(out, l)
		}
	}
	return out
}

func withoutName(a []*v1alpha1.IPLease, name string) []*v1alpha1.IPLease {
	return slices.DeleteFunc(slices.Clone(a), func(l *v1alpha1.IPLease) bool { return l.Name == name })
}

func has(leases []*v1alpha1.IPLease, name string) bool {
	return slices.ContainsFunc(leases, func(l *v1alpha1.IPLease) bool { return l.Name == name })
}
