package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	goruntime "runtime"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

// kernel is what this process has of the kernel for the return of memory.
type kernel struct {
	pagemap *os.File // nil where it cannot be opened
	fd      uintptr  // of it
	why     error
	scans   sync.Pool // of *scan
	pages   sync.Pool // of *[]byte
}

func (k *kernel) open() error {
	k.scans.New = func() any { return new(scan) }
	k.pages.New = func() any { b := make([]byte, 4096); return &b }
	if k.pagemap, k.why = os.Open("/proc/self/pagemap"); k.why == nil {
		k.fd = k.pagemap.Fd()
	}
	return nil
}

func (k *kernel) close() error {
	if k.pagemap == nil {
		return nil
	}
	return k.pagemap.Close()
}

// mappings is how many more mappings the kernel allows this process.
func (k *kernel) mappings() int {
	most := 65530 // the kernel's default
	if b, err := os.ReadFile("/proc/sys/vm/max_map_count"); err == nil {
		if n, err := strconv.Atoi(string(bytes.TrimSpace(b))); err == nil {
			most = n
		}
	}
	have := 1000
	if b, err := os.ReadFile("/proc/self/maps"); err == nil {
		have = bytes.Count(b, []byte("\n"))
	}
	return max(most-have, 0)
}

// mapping is a range of reserved addresses.
type mapping struct {
	base unsafe.Pointer
	open uint64 // bytes from base that may be touched
}

func (m *mapping) reserve(im *Image, max uint64) (buf []byte, err error) {
	max = whole(max)
	if m.base, err = unix.MmapPtr(-1, 0, nil, uintptr(max), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE); err != nil {
		return nil, fmt.Errorf("reserve %d bytes of address space: %w", max, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.MunmapPtr(m.base, uintptr(max)))
		}
	}()
	all := unsafe.Slice((*byte)(m.base), max)
	// A huge page would make one written byte cost 2 MiB, to hold and to clear.
	if err := unix.Madvise(all, unix.MADV_NOHUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: a kernel without them
		return nil, fmt.Errorf("refuse huge pages: %w", err)
	}
	if buf, err = m.extend(all[:0], im.size); err != nil {
		return nil, err
	}
	if im.store.fd < 0 {
		if im.store.view != nil {
			im.CopyTo(buf)
		}
		return buf, nil
	}
	for _, s := range im.segments {
		const flags = unix.MAP_PRIVATE | unix.MAP_FIXED | unix.MAP_NORESERVE
		if _, err := unix.MmapPtr(im.store.fd, int64(s.at), unsafe.Add(m.base, s.offset), uintptr(s.length), unix.PROT_READ|unix.PROT_WRITE, flags); err != nil {
			return nil, fmt.Errorf("map %d bytes of the image: %w", s.length, err)
		}
	}
	return buf, nil
}

// whole is n in whole pages of the host, at least one.
func whole(n uint64) uint64 { return max((n+hostPage-1)&^(hostPage-1), hostPage) }

// extend makes buf longer. What was touched before has been emptied by forget.
func (m *mapping) extend(buf []byte, size uint64) ([]byte, error) {
	if to := (size + hostPage - 1) &^ (hostPage - 1); to > m.open {
		if err := unix.Mprotect(unsafe.Slice((*byte)(unsafe.Add(m.base, m.open)), to-m.open), unix.PROT_READ|unix.PROT_WRITE); err != nil {
			return nil, fmt.Errorf("open %d bytes: %w", to-m.open, err)
		}
		m.open = to
	}
	return buf[:size], nil
}

// forget empties what of buf lies beyond size.
func (m *mapping) forget(buf []byte, size uint64) error {
	if err := unix.Madvise(buf[size:], unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("empty %d bytes: %w", uint64(len(buf))-size, err)
	}
	return nil
}

func (m *mapping) release(max uint64) error {
	err := engine.Vacate(unsafe.Slice((*byte)(m.base), m.open))
	if e := unix.MunmapPtr(m.base, uintptr(whole(max))); e != nil {
		err = errors.Join(err, fmt.Errorf("unmap memory: %w", e))
	}
	return err
}

// restore brings the bytes of the memory back, as far as private pages may be, or fails with errMuch.
func (m *Memory) restore() (kept uint64, err error) {
	method := m.method
	if m.image.store.fd < 0 && m.image.store.view != nil {
		method = Copy // every page is private, and there is nothing beneath it
	}
	if method != Scan || m.high > m.image.size+mostGrown { // else it is not long if it is empty
		if err := m.shorten(); err != nil {
			return 0, err
		}
	}
	if m.high == 0 {
		return 0, nil
	}
	var changed uint64
	again := m.unchanged()
	switch {
	case again && (method == Scan || method == Pagemap):
		for _, s := range m.known {
			kept += s.end - s.offset
			changed += m.putBack(s.offset, s.end)
		}
	case method == Scan:
		kept, changed, err = m.scan()
	case method == Pagemap:
		kept, changed, err = m.readPagemap()
	case method == Discard:
		return 0, m.discard()
	default:
		return max(m.kept, m.putBack(0, m.image.size)), nil
	}
	switch {
	case err != nil:
		return 0, err
	case kept > m.space.opts.Private:
		return 0, errMuch
	case kept < fewKept || changed > kept/4:
		m.wasteful = 0
	default:
		// One busy request made pages private that others leave alone, and each return looks at them.
		if m.wasteful++; m.wasteful == patience {
			m.wasteful = 0
			return 0, m.discard()
		}
	}
	return kept, nil
}

// faults is how many page faults the calling thread has had.
func faults() uint64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &u) != nil {
		return 0 // Watch is for systems that have passed counting
	}
	return uint64(u.Minflt) + uint64(u.Majflt)
}

// counting reports whether this system counts a thread's page faults exactly: a page of a private mapping cannot become private without one.
// Where the kernel lends no page of zeros to those who only read, reading is what makes one private.
func counting() bool {
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	const pages = 4
	size := pages * int(hostPage)
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil || !counted(b, false) {
		return false
	}
	s, err := newStore(uint64(size), func(to []byte) { to[0] = 1 })
	if err != nil {
		return false
	}
	defer func() { _ = s.close() }() // nobody has it
	if s.fd < 0 {
		return true // nothing is mapped, and all is copied back
	}
	b, err = unix.Mmap(s.fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	return err == nil && counted(b, true)
}

// counted reports whether the first write to each page of b is a page fault, or, if there is no file beneath it, the first read. It unmaps b.
func counted(b []byte, file bool) bool {
	defer func() { _ = unix.Munmap(b) }() // it was mapped just now
	_ = unix.Madvise(b, unix.MADV_NOHUGEPAGE)
	for at := 0; at < len(b); at += int(hostPage) {
		before := faults()
		read := b[at]
		if file {
			before = faults()
		}
		b[at] = read + 1
		if faults() == before {
			return false
		}
	}
	return true
}

// discard gives all private pages back.
func (m *Memory) discard() error {
	m.found()
	all := m.buf[:m.high]
	m.high = m.image.size
	return engine.Discard(all)
}

// PAGEMAP_SCAN (linux/fs.h, Documentation/admin-guide/mm/pagemap.rst).
const (
	pagemapScan = 0xC0606610

	pageIsFile    = 1 << 2
	pageIsPresent = 1 << 3
	pageIsSwapped = 1 << 4
	pageIsPFNZero = 1 << 5
)

// scan is the argument of PAGEMAP_SCAN and room for its answer.
type scan struct {
	arg struct {
		size, flags, start, end, walkEnd, vec, vecLen, maxPages, inverted, mask, anyOf, returned uint64
	}
	regions [64]struct{ start, end, categories uint64 }
}

// scan copies back the pages that the kernel says are private: there or swapped out, neither of a file nor the zero page.
func (m *Memory) scan() (kept, changed uint64, err error) {
	k := &m.space.kernel
	if k.pagemap == nil {
		return 0, 0, k.why
	}
	s := k.scans.Get().(*scan)
	defer k.scans.Put(s)
	m.found()
	base := uint64(uintptr(m.base))
	a := &s.arg
	a.size, a.start, a.end = uint64(unsafe.Sizeof(*a)), base, base+m.high
	a.vec, a.vecLen = uint64(uintptr(unsafe.Pointer(&s.regions))), uint64(len(s.regions)) // s is on the heap, and stays where it is
	a.inverted, a.mask = pageIsFile|pageIsPFNZero, pageIsFile|pageIsPFNZero
	a.anyOf, a.returned = pageIsPresent|pageIsSwapped, pageIsPresent
	var courtesy processor.Courtesy
	for a.start < a.end {
		courtesy.Yield()
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, k.fd, pagemapScan, uintptr(unsafe.Pointer(a)))
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, 0, fmt.Errorf("PAGEMAP_SCAN: %w", errno)
		}
		if a.walkEnd <= a.start || a.walkEnd > a.end || n > uintptr(len(s.regions)) {
			return 0, 0, fmt.Errorf("PAGEMAP_SCAN of %#x to %#x ended at %#x", a.start, a.end, a.walkEnd)
		}
		for _, r := range s.regions[:n] {
			if r.start < base || r.end > a.end || r.start > r.end {
				return 0, 0, fmt.Errorf("PAGEMAP_SCAN answered %#x to %#x", r.start, r.end)
			}
			if kept += r.end - r.start; kept > m.space.opts.Private {
				return kept, changed, nil
			}
			m.add(r.start-base, r.end-base)
			changed += m.putBack(r.start-base, r.end-base)
		}
		a.start = a.walkEnd
	}
	m.knowing = true
	goruntime.KeepAlive(s)
	return kept, changed, nil
}

// The bits of an entry of /proc/self/pagemap.
const (
	entryPresent = 1 << 63
	entrySwapped = 1 << 62
	entryFile    = 1 << 61
)

// readPagemap does what scan does, with the interface that older kernels have. It cannot tell the zero page from others.
func (m *Memory) readPagemap() (kept, changed uint64, err error) {
	k := &m.space.kernel
	if k.pagemap == nil {
		return 0, 0, k.why
	}
	p := k.pages.Get().(*[]byte)
	defer k.pages.Put(p)
	m.found()
	first := uint64(uintptr(m.base)) / hostPage
	size := m.image.size
	for off := uint64(0); off < size; {
		want := min((size-off)/hostPage*8, uint64(len(*p)))
		b := (*p)[:want]
		if n, err := k.pagemap.ReadAt(b, int64((first+off/hostPage)*8)); err != nil {
			return 0, 0, fmt.Errorf("read %d entries of pagemap: %d bytes: %w", want/8, n, err)
		}
		for ; len(b) > 0; b, off = b[8:], off+hostPage {
			e := binary.LittleEndian.Uint64(b)
			if e&(entryPresent|entrySwapped) == 0 || e&entryFile != 0 {
				continue
			}
			if kept += hostPage; kept > m.space.opts.Private {
				return kept, changed, nil
			}
			m.add(off, off+hostPage)
			changed += m.putBack(off, off+hostPage)
		}
	}
	m.knowing = true
	return kept, changed, nil
}
