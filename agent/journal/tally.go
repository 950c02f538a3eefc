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

// write records into the file, nil for those to delete, and then the tally.
func (t *tally) write(tx *bbolt.Tx, values map[record][]byte) error {
	for r, value := range values {
		b := tx.Bucket([]byte(r.bucket))
		var err error
		if value == nil {
			err = b.Delete([]byte(r.key))
		} else {
			err = b.Put([]byte(r.key), value)
		}
		if err != nil {
			return err
		}
		t.set(r, value)
	}
	return tx.Bucket([]byte(bucketNode)).Put([]byte(keyTally), t.value())
}

func (t *tally) value() []byte { return binary.BigEndian.AppendUint64(nil, t.all) }

func (t *tally) check(value []byte) error {
	if string(value) != string(t.value()) {
		return errors.New("it is a mixture of records of different times")
	}
	return nil
}
