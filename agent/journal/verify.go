package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
)

// The layout of a bbolt file, as far as a journal has it (go.etcd.io/bbolt v1.4, internal/common: page.go, meta.go, bucket.go). All
// numbers are in the byte order of the machine.
//
//	page     id u64, flags u16, count u16, overflow u32; then count elements, then what they point to
//	meta     magic u32, version u32, page size u32, flags u32, root {page u64, sequence u64}, free list u64, pages u64, transaction u64,
//	         FNV-1a of the former u64
//	branch   pos u32, key size u32, page u64
//	leaf     flags u32, pos u32, key size u32, value size u32; with flag 1 the value is a bucket: root u64, sequence u64, and if root
//	         is 0 its one page
const (
	pageHeader  = 16
	metaSum     = 56 // offset of the check sum in a meta page
	elementSize = 16
	bucketHead  = 16

	flagBranch   = 1
	flagLeaf     = 2
	flagMeta     = 4
	flagFreelist = 16

	metaMagic   = 0xED0CDAED
	metaVersion = 2
	noFreelist  = ^uint64(0)
	maxDepth    = 32
)

var order = binary.NativeEndian

// verify that bbolt can work with a file of this content: every page that its newest transaction reaches is within the file, is what
// it should be, is reached once, and has its keys in order. It never fails otherwise than by an error, whatever the content.
func verify(content []byte, pageSize int) error {
	v := verifier{file: content, pageSize: uint64(pageSize), seen: map[uint64]bool{}}
	if len(content) < 4*pageSize {
		return fmt.Errorf("torn: %d bytes, of at least %d", len(content), 4*pageSize)
	}
	meta := v.meta(0)
	if other := v.meta(1); meta == nil || other != nil && order.Uint64(other[48:]) > order.Uint64(meta[48:]) {
		meta = other
	}
	if meta == nil {
		return errors.New("neither of the meta pages is valid")
	}
	root, freelist, pages := order.Uint64(meta[16:]), order.Uint64(meta[32:]), order.Uint64(meta[40:])
	if pages > uint64(len(content))/v.pageSize {
		return fmt.Errorf("torn: %d bytes of %d pages", len(content), pages)
	}
	v.pages = pages
	if freelist != noFreelist { // bbolt's of an empty file; no journal writes one
		b, _, err := v.page(freelist)
		if err != nil || order.Uint16(b[8:]) != flagFreelist || order.Uint16(b[10:]) != 0 {
			return errors.Join(errors.New("a list of free pages, which a journal has not"), err)
		}
	}
	return v.tree(root, &keys{}, 0, true)
}

type verifier struct {
	file     []byte
	pageSize uint64
	pages    uint64
	seen     map[uint64]bool
}

// keys of a bucket, as its leaves are met from left to right.
type keys struct{ last, least []byte }

func (k *keys) next(key []byte) error {
	if len(key) == 0 || k.last != nil && bytes.Compare(key, k.last) <= 0 || bytes.Compare(key, k.least) < 0 {
		return fmt.Errorf("key %q after %q, in a branch of %q", key, k.last, k.least)
	}
	k.last = key
	return nil
}

// meta page 0 or 1; nil if it is not valid.
func (v *verifier) meta(n uint64) []byte {
	b := v.file[n*v.pageSize:][:v.pageSize]
	m := b[pageHeader:]
	h := fnv.New64a()
	h.Write(m[:metaSum])
	if order.Uint32(m) != metaMagic || order.Uint32(m[4:]) != metaVersion || uint64(order.Uint32(m[8:])) != v.pageSize ||
		order.Uint64(m[metaSum:]) != h.Sum64() || order.Uint64(b) != n || order.Uint16(b[8:]) != flagMeta {
		return nil
	}
	return m
}

// page with its overflow; each may be reached once.
func (v *verifier) page(id uint64) (b []byte, flags uint16, err error) {
	if id < 2 || id >= v.pages {
		return nil, 0, fmt.Errorf("page %d of %d", id, v.pages)
	}
	b = v.file[id*v.pageSize:]
	more := uint64(order.Uint32(b[12:]))
	if order.Uint64(b) != id || id+more >= v.pages {
		return nil, 0, fmt.Errorf("page %d says that it is %d, with %d more, of %d", id, order.Uint64(b), more, v.pages)
	}
	for i := id; i <= id+more; i++ {
		if v.seen[i] {
			return nil, 0, fmt.Errorf("page %d is used twice", i)
		}
		v.seen[i] = true
	}
	return b[:(1+more)*v.pageSize], order.Uint16(b[8:]), nil
}

// tree of a bucket from a page on. Only the root bucket has buckets in it.
func (v *verifier) tree(id uint64, k *keys, depth int, root bool) error {
	b, flags, err := v.page(id)
	switch {
	case err != nil:
		return err
	case depth > maxDepth:
		return fmt.Errorf("page %d is deeper than %d", id, maxDepth)
	case flags == flagLeaf && depth > 0 && order.Uint16(b[10:]) == 0: // bbolt removes such a page with its last key
		return fmt.Errorf("page %d is an empty leaf of a branch", id)
	case flags == flagLeaf:
		return v.leaf(b, k, root)
	case flags != flagBranch:
		return fmt.Errorf("page %d has flags %#x", id, flags)
	}
	n := int(order.Uint16(b[10:]))
	if n == 0 {
		return fmt.Errorf("page %d is an empty branch", id)
	}
	var before []byte // the key of the branch element before
	for i := range n {
		key, e, err := cell(b, i)
		switch {
		case err != nil:
			return fmt.Errorf("page %d: %w", id, err)
		case before != nil && bytes.Compare(key, before) <= 0, k.last != nil && bytes.Compare(key, k.last) <= 0:
			return fmt.Errorf("page %d: branch %q after %q and %q", id, key, before, k.last)
		}
		before, k.least = key, key
		if err := v.tree(order.Uint64(e[8:]), k, depth+1, root); err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) leaf(b []byte, k *keys, root bool) error {
	for i := range int(order.Uint16(b[10:])) {
		key, e, err := cell(b, i)
		if err != nil {
			return err
		}
		if err := k.next(key); err != nil {
			return err
		}
		value, err := cut(b, at(i)+uint64(order.Uint32(e[4:]))+uint64(len(key)), uint64(order.Uint32(e[12:])))
		if err != nil {
			return fmt.Errorf("value of %q: %w", key, err)
		}
		switch isBucket := order.Uint32(e) == 1; {
		case isBucket != root || order.Uint32(e) > 1:
			return fmt.Errorf("key %q has flags %#x", key, order.Uint32(e))
		case isBucket:
			if err := v.bucket(value); err != nil {
				return fmt.Errorf("bucket %q: %w", key, err)
			}
		}
	}
	return nil
}

// bucket is the value that stands for one.
func (v *verifier) bucket(b []byte) error {
	if len(b) < bucketHead {
		return fmt.Errorf("%d bytes", len(b))
	}
	if id := order.Uint64(b); id != 0 {
		return v.tree(id, &keys{}, 0, false)
	}
	if b = b[bucketHead:]; len(b) < pageHeader || order.Uint16(b[8:]) != flagLeaf {
		return errors.New("it is neither a page nor has one in it")
	}
	return v.leaf(b, &keys{}, false)
}

// cell is an element of a page and its key. Position and size of the key are at the same place in both kinds, but for the leaf's flags.
func cell(page []byte, i int) (key, element []byte, err error) {
	element, err = cut(page, at(i), elementSize)
	if err != nil {
		return nil, nil, err
	}
	where := element
	if order.Uint16(page[8:]) == flagLeaf {
		where = element[4:]
	}
	from := at(i) + uint64(order.Uint32(where))
	// What the elements point to follows them at once (node.write of bbolt), so that a count that has shrunk is noticed.
	if count := int(order.Uint16(page[10:])); i == 0 && from != at(count) {
		return nil, nil, fmt.Errorf("the first of %d elements is at %d", count, from)
	}
	key, err = cut(page, from, uint64(order.Uint32(where[4:])))
	return key, element, err
}

// at is the offset of an element, to which its positions are relative.
func at(i int) uint64 { return pageHeader + uint64(i)*elementSize }

func cut(b []byte, from, length uint64) ([]byte, error) {
	if from > uint64(len(b)) || length > uint64(len(b))-from {
		return nil, fmt.Errorf("%d bytes at %d, of %d", length, from, len(b))
	}
	return b[from:][:length], nil
}
