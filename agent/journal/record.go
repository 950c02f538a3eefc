package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"go.etcd.io/bbolt"
)

// Buckets of the file, and keys in bucketNode. A value is a CRC-32C of key and JSON, big endian, and the JSON: bbolt has no check
// sums but of its meta pages.
const (
	bucketEntries  = "interfaces" // container ID/interface → Entry
	bucketReleases = "releases"   // container ID/interface#number → Release
	bucketNode     = "node"

	keyFormat = "format" // → format
	keyTally  = "tally"  // → tally, 8 bytes, big endian

	// What the node was told last, for a start without the API.
	KeyPrefixes  = "prefixes"  // → path.Prefixes
	KeyNetspaces = "netspaces" // → []*v1alpha1.Netspace
	KeyTenants   = "tenants"   // → path.Tenants
)

// nodeKeys are the keys of SetNode.
var nodeKeys = []string{KeyPrefixes, KeyNetspaces, KeyTenants}

// format of the records. A file of another is set aside.
const format = 2

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal a value under its key.
func seal(key string, v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(nil, sum([]byte(key), data)), data...), nil
}

func open(key, value []byte, into any) error {
	if len(value) < 4 || binary.BigEndian.Uint32(value) != sum(key, value[4:]) {
		return fmt.Errorf("record %q: wrong check sum", key)
	}
	if err := json.Unmarshal(value[4:], into); err != nil {
		return fmt.Errorf("record %q: %w", key, err)
	}
	return nil
}

func sum(key, data []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, key), castagnoli, data)
}

// encode a record of the state; nil if it is no more.
func (s *state) encode(r record) ([]byte, error) {
	switch r.bucket {
	case bucketEntries:
		if e := s.entries[r.key]; e != nil {
			return seal(r.key, e)
		}
	case bucketReleases:
		if e := s.releases[r.key]; e != nil {
			return seal(r.key, e)
		}
	case bucketNode:
		if v := s.node[r.key]; v != nil {
			return seal(r.key, v)
		}
	}
	return nil, nil
}

// load the state, or write an empty one to a file that is new.
func load(db *bbolt.DB) (*state, *tally, error) {
	s, t := newState(), &tally{of: map[record]uint64{}}
	empty := false
	err := db.View(func(tx *bbolt.Tx) error {
		node := tx.Bucket([]byte(bucketNode))
		if node == nil {
			k, _ := tx.Cursor().First()
			empty = k == nil
			if !empty {
				return errors.New("not a journal of berth-agent")
			}
			return nil
		}
		var f int
		if err := open([]byte(keyFormat), node.Get([]byte(keyFormat)), &f); err != nil || f != format {
			return errors.Join(fmt.Errorf("format %d, not %d: of another version of berth-agent", f, format), err)
		}
		for bucket, load := range map[string]func(k, v []byte) error{
			bucketNode: s.loadNode, bucketEntries: s.loadEntry, bucketReleases: s.loadRelease,
		} {
			b := tx.Bucket([]byte(bucket))
			if b == nil {
				return fmt.Errorf("bucket %s is missing", bucket)
			}
			if err := b.ForEach(func(k, v []byte) error {
				if r := (record{bucket, string(k)}); r != (record{bucketNode, keyTally}) {
					t.set(r, v)
				}
				return load(k, v)
			}); err != nil {
				return err
			}
		}
		return t.check(node.Get([]byte(keyTally)))
	})
	if err != nil || !empty {
		return s, t, err
	}
	return s, t, db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{bucketEntries, bucketReleases, bucketNode} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		value, err := seal(keyFormat, format)
		if err != nil {
			return err
		}
		return t.write(tx, map[record][]byte{{bucketNode, keyFormat}: value})
	})
}

func (s *state) loadNode(k, v []byte) error {
	if key := string(k); slices.Contains(nodeKeys, key) {
		var value json.RawMessage
		if err := open(k, v, &value); err != nil {
			return err
		}
		s.node[key] = value
	}
	return nil
}

func (s *state) loadEntry(k, v []byte) error {
	e := &Entry{}
	if err := open(k, v, e); err != nil {
		return err
	}
	if err := e.valid(string(k), e.key()); err != nil {
		return err
	}
	s.entries[string(k)] = e
	return nil
}

func (s *state) loadRelease(k, v []byte) error {
	r := &Release{ID: string(k)}
	if err := open(k, v, r); err != nil {
		return err
	}
	n := number(r.ID)
	if err := r.valid(string(k), fmt.Sprintf("%s#%d", r.key(), n)); err != nil {
		return err
	}
	s.releases[r.ID] = r
	s.last = max(s.last, n)
	return nil
}

func (e *Entry) valid(key, want string) error {
	if key != want || len(e.Leases) == 0 {
		return fmt.Errorf("record %q is of %q and has %d leases", key, want, len(e.Leases))
	}
	for _, l := range e.Leases {
		if l == nil || l.Spec.Holder == nil {
			return fmt.Errorf("record %q: a lease without holder", key)
		}
	}
	return nil
}
