package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
)

// This file reads bbolt's file format by itself, with plain reads, because bbolt maps a file and trusts it: a wrong
// offset, a cycle or a short file is a panic, a fault or an endless walk there. All offsets and counts are checked here
// against what is really in the file.
//
// A page: id u64, flags u16, count u16, overflow u32 (how many pages follow it as its part), then its elements. Numbers
// are in the machine's byte order.

const (
	pageHead    = 16
	elementHead = 16
	bucketHead  = 16 // root page u64, sequence u64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	leafIsBucket = 0x01

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noFreelist  = ^uint64(0)

	maxPageDepth   = 64 // a tree of this depth would not fit any disk
	maxBucketDepth = 4  // we nest two
)

var native = binary.NativeEndian

// verifyFile checks the structure of a file, and the checksum of every value of a kind ("records", "buckets" or "queue").
func verifyFile(path, kind string) error {
	f, err := os.Open(path)
	if err != nil {
		return explain("open", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return explain("read", path, err)
	}
	err = verify(f, info.Size(), kind)
	if v := (*pageError)(nil); errors.As(err, &v) {
		return corrupt(path, "%v", v)
	}
	return explain("read", path, err)
}

// pageError is a fault in a page, apart from errors of reading.
type pageError struct {
	page uint64
	msg  string
}

func (e *pageError) Error() string { return fmt.Sprintf("page %d: %s", e.page, e.msg) }

type boltMeta struct {
	pageSize                   uint32
	root, freelist, high, txid uint64
}

func parseMeta(page []byte) (boltMeta, bool) {
	if len(page) < pageHead+64 {
		return boltMeta{}, false
	}
	b := page[pageHead:]
	h := fnv.New64a()
	h.Write(b[:56])
	m := boltMeta{native.Uint32(b[8:]), native.Uint64(b[16:]), native.Uint64(b[32:]), native.Uint64(b[40:]), native.Uint64(b[48:])}
	ok := native.Uint32(b) == boltMagic && native.Uint32(b[4:]) == boltVersion && native.Uint64(b[56:]) == h.Sum64() &&
		m.pageSize >= 1024 && m.pageSize <= 1<<24 && m.pageSize&(m.pageSize-1) == 0
	return m, ok
}

type verifier struct {
	r    io.ReaderAt
	kind string
	meta boltMeta
	seen []bool // pages in use, by id
	head []byte // scratch for a page's first part
	last uint64 // the highest number that the store has given out
}

func verify(r io.ReaderAt, size int64, kind string) error {
	readMeta := func(at int64) (boltMeta, bool, error) {
		var b [pageHead + 64]byte
		if at+int64(len(b)) > size {
			return boltMeta{}, false, nil
		}
		if _, err := r.ReadAt(b[:], at); err != nil {
			return boltMeta{}, false, err
		}
		m, ok := parseMeta(b[:])
		return m, ok, nil
	}
	best, found, err := readMeta(0)
	if err != nil {
		return err
	}
	// The second meta page is one page in. Without the first, its place tells the page size.
	sizes := []int64{int64(best.pageSize)}
	if !found {
		sizes = sizes[:0]
		for s := int64(1024); s <= 1<<24; s *= 2 {
			sizes = append(sizes, s)
		}
	}
	for _, s := range sizes {
		m, ok, err := readMeta(s)
		if err != nil {
			return err
		}
		if ok && int64(m.pageSize) == s && (!found || m.txid > best.txid) {
			best, found = m, true
		}
	}
	if !found {
		return &pageError{0, "this is not a database, or both of its meta pages are damaged"}
	}
	v := &verifier{r: r, kind: kind, meta: best}
	// The file may end inside the last page's overflow only if it was cut.
	if best.high < 2 || best.high > uint64(size)/uint64(best.pageSize) {
		return &pageError{0, fmt.Sprintf("the file is cut off: %d bytes, of at least %d pages of %d bytes", size, best.high, best.pageSize)}
	}
	v.seen = make([]bool, best.high)
	v.seen[0], v.seen[1] = true, true
	if err := v.tree(best.root, nil, 0, bounds{}); err != nil {
		return err
	}
	if best.freelist == noFreelist {
		return nil
	}
	if err := v.freelist(best.freelist); err != nil {
		return err
	}
	// A page that nothing refers to is one that a tree has lost: bbolt has none.
	if id := slices.Index(v.seen, false); id >= 0 {
		return v.fail(uint64(id), "it is neither in use nor free")
	}
	return nil
}

func (v *verifier) fail(page uint64, msg string, args ...any) error {
	return &pageError{page, fmt.Sprintf(msg, args...)}
}

// page reads a page with its overflow and marks it as used.
func (v *verifier) page(id uint64) (body []byte, flags uint16, count int, err error) {
	if id < 2 || id >= v.meta.high {
		return nil, 0, 0, v.fail(id, "there is no such page")
	}
	if v.seen[id] {
		return nil, 0, 0, v.fail(id, "it is referred to twice")
	}
	size := int64(v.meta.pageSize)
	if v.head == nil {
		v.head = make([]byte, size)
	}
	if _, err := v.r.ReadAt(v.head, int64(id)*size); err != nil {
		return nil, 0, 0, err
	}
	overflow := uint64(native.Uint32(v.head[12:]))
	if native.Uint64(v.head) != id {
		return nil, 0, 0, v.fail(id, "its number is wrong")
	}
	if id+overflow >= v.meta.high {
		return nil, 0, 0, v.fail(id, "it reaches past the end")
	}
	for i := id; i <= id+overflow; i++ {
		if v.seen[i] {
			return nil, 0, 0, v.fail(i, "it belongs to two pages")
		}
		v.seen[i] = true
	}
	body = make([]byte, int64(overflow+1)*size)
	copy(body, v.head)
	if overflow > 0 {
		if _, err := v.r.ReadAt(body[size:], (int64(id)+1)*size); err != nil {
			return nil, 0, 0, err
		}
	}
	return body, native.Uint16(body[8:]), int(native.Uint16(body[10:])), nil
}

// bounds are the keys that a page may have: from low, and below high unless that is nil. A page above says them; a key that lies
// outside would never be found, though it is there.
type bounds struct{ low, high []byte }

func (b bounds) has(key []byte) bool {
	return bytes.Compare(key, b.low) >= 0 && (b.high == nil || bytes.Compare(key, b.high) < 0)
}

// tree walks the pages of a bucket. path is the names of the buckets around it.
func (v *verifier) tree(root uint64, path [][]byte, depth int, within bounds) error {
	if depth > maxPageDepth {
		return v.fail(root, "the tree is too deep")
	}
	body, flags, count, err := v.page(root)
	if err != nil {
		return err
	}
	switch flags {
	case flagLeaf:
		// Only a bucket without anything has an empty page, and nothing was ever written behind the head of that one: bbolt fills pages that
		// it begins with zeros. Elsewhere the first element lies there, and the count is wrong.
		if count == 0 && (depth > 0 || !zero(body[pageHead:])) {
			return v.fail(root, "its count %d is wrong", count)
		}
		return v.leaf(root, body, count, path, within)
	case flagBranch:
	default:
		return v.fail(root, "its kind %#x is not one of a tree", flags)
	}
	if count == 0 || pageHead+count*elementHead > len(body) {
		return v.fail(root, "its count %d is wrong", count)
	}
	keys, children := make([][]byte, count), make([]uint64, count)
	end := uint64(pageHead + count*elementHead) // keys stand one after another: a count that is too low would hide some
	for i := range count {
		at := pageHead + i*elementHead
		e := body[at:]
		pos, ksize := uint64(native.Uint32(e)), uint64(native.Uint32(e[4:]))
		begin := uint64(at) + pos
		if begin != end || begin+ksize > uint64(len(body)) {
			return v.fail(root, "element %d is not where it belongs", i)
		}
		end = begin + ksize
		keys[i], children[i] = body[begin:begin+ksize], native.Uint64(e[8:])
		if i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0 || !within.has(keys[i]) {
			return v.fail(root, "element %d is out of order", i)
		}
	}
	for i, child := range children {
		below := bounds{keys[i], within.high}
		if i+1 < count {
			below.high = keys[i+1]
		}
		if err := v.tree(child, path, depth+1, below); err != nil {
			return err
		}
	}
	return nil
}

// leaf checks the elements of a leaf page, and the buckets below it.
func (v *verifier) leaf(id uint64, body []byte, count int, path [][]byte, within bounds) error {
	if pageHead+count*elementHead > len(body) {
		return v.fail(id, "its count %d is wrong", count)
	}
	var last []byte
	end := uint64(pageHead + count*elementHead)
	for i := range count {
		at := pageHead + i*elementHead
		e := body[at:]
		flags, pos, ksize, vsize := native.Uint32(e), uint64(native.Uint32(e[4:])), uint64(native.Uint32(e[8:])), uint64(native.Uint32(e[12:]))
		begin := uint64(at) + pos
		if begin != end || begin+ksize+vsize > uint64(len(body)) {
			return v.fail(id, "element %d is not where it belongs", i)
		}
		end = begin + ksize + vsize
		key, value := body[begin:begin+ksize], body[begin+ksize:begin+ksize+vsize]
		if i > 0 && bytes.Compare(last, key) >= 0 || !within.has(key) {
			return v.fail(id, "element %d is out of order", i)
		}
		last = key
		switch flags {
		case 0:
			if err := v.value(id, path, key, value); err != nil {
				return err
			}
		case leafIsBucket:
			if err := v.bucket(id, append(path[:len(path):len(path)], key), value); err != nil {
				return err
			}
		default:
			return v.fail(id, "element %d has an unknown kind %#x", i, flags)
		}
	}
	return nil
}

func (v *verifier) bucket(id uint64, path [][]byte, value []byte) error {
	if len(value) < bucketHead || len(path) > maxBucketDepth {
		return v.fail(id, "bucket %.40q is wrong", path[len(path)-1])
	}
	if len(path) == 1 && string(path[0]) == v.kind {
		v.last = native.Uint64(value[8:])
	}
	if root := native.Uint64(value); root != 0 {
		return v.tree(root, path, 0, bounds{})
	}
	inline := value[bucketHead:]
	if len(inline) < pageHead || native.Uint16(inline[8:]) != flagLeaf {
		return v.fail(id, "bucket %.40q is wrong", path[len(path)-1])
	}
	count := int(native.Uint16(inline[10:]))
	if count == 0 && len(inline) > pageHead {
		return v.fail(id, "the count of bucket %.40q is wrong", path[len(path)-1])
	}
	return v.leaf(id, inline, count, path, bounds{})
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// value checks the checksums that this package writes.
func (v *verifier) value(id uint64, path [][]byte, key, value []byte) error {
	if len(path) == 0 || string(path[0]) != v.kind {
		return nil
	}
	number, _, ok := unseal(key, value)
	if !ok {
		return v.fail(id, "the value of %.80q is damaged", key)
	}
	if v.kind != "queue" && number > v.last { // it would come again
		return v.fail(id, "%.80q has number %d, and the last is %d", key, number, v.last)
	}
	return nil
}

func (v *verifier) freelist(id uint64) error {
	body, flags, count, err := v.page(id)
	if err != nil {
		return err
	}
	if flags != flagFreelist {
		return v.fail(id, "its kind %#x is not that of the list of free pages", flags)
	}
	ids, n := body[pageHead:], uint64(count)
	if n == 0xFFFF { // the count did not fit, and is the first of the numbers
		n, ids = native.Uint64(ids), ids[8:]
	}
	if n > uint64(len(ids))/8 {
		return v.fail(id, "its count %d is wrong", n)
	}
	for i := range n {
		free := native.Uint64(ids[8*i:])
		if free < 2 || free >= v.meta.high || v.seen[free] {
			return v.fail(id, "page %d cannot be free", free)
		}
		v.seen[free] = true
	}
	return nil
}
