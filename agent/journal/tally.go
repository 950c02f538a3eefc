package journal

import (
	"encoding/binary"
	"errors"
	"hash/fnv"

	"go.etcd.io/bbolt"
)

// tally is the XOR of the hashes of all records of the file but itself, which is one of them: it is written with each transaction. The
// check sum of a record does not tell an old one from the newest, and a page that bbolt has freed holds whole old ones.
type tally struct {
	of  map[record]uint64
	all uint64
}

// set a record; nil is none.
func (t *tally) set(r record, value []byte) {
	t.all ^= t.of[r]
	delete(t.of, r)
	if value == nil {
		return
	}
	h := fnv.New64a()
	h.Write([]byte(r.bucket + "\x00" + r.key + "\x00"))
	h.Write(value)
	t.of[r] = h.Sum64()
	t.all ^= t.of[r]
}

// put a record into the file, and then the tally; a value of nil deletes it.
func (t *tally) put(tx *bbolt.Tx, r record, value []byte) error {
	b := tx.Bucket([]byte(r.bucket))
	if value == nil {
		if err := b.Delete([]byte(r.key)); err != nil {
			return err
		}
	} else if err := b.Put([]byte(r.key), value); err != nil {
		return err
	}
	t.set(r, value)
	return tx.Bucket([]byte(bucketNode)).Put([]byte(keyTally), t.value())
}

func (t *tally) value() []byte { return binary.BigEndian.AppendUint64(nil, t.all) }

func (t *tally) check(value []byte) error {
	if string(value) != string(t.value()) {
		return errors.New("it is a mixture of records of different times")
	}
	return nil
}
