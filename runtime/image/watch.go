package image

import goruntime "runtime"

// watch is what a Memory knows of the writes since it last returned. A page of the mapping becomes private by a page fault of the thread that
// writes to it, and the kernel counts those by thread. As long as the count stays what it was, the private pages are those that there were,
// and nobody has to walk through all of them to find out: for a Go guest of 5 MB the walk takes longer than copying back what it wrote.
type watch struct {
	on      bool
	faults  uint64 // of the thread, when the watch began
	seen    bool   // there was a watch since the last return
	missed  bool   // something may have been written that no watch saw, or one saw a fault
	known   []span // private when it last returned; ascending
	knowing bool   // known holds
}

// span is a part of the memory, on blocks.
type span struct{ offset, end uint64 }

// Watch begins to watch who writes to the memory, and Unwatch ends it. Between them the caller's goroutine keeps its thread, and nobody else
// writes or reads; nor does anybody read outside of a watch what was not touched within one, since a kernel that lends no page of zeros makes what is
// read private, too. If all writes since the last Return were watched, and none was Missed, the next one need not look for them everywhere. A Memory
// that nobody watches returns all the same, more slowly.
func (m *Memory) Watch() {
	if !m.space.counts || m.on {
		m.seen = m.seen || m.on
		return
	}
	goruntime.LockOSThread()
	m.on, m.seen, m.faults = true, true, faults()
}

// Unwatch ends what Watch began. It does nothing if that has ended.
func (m *Memory) Unwatch() {
	if !m.on {
		return
	}
	m.on = false
	m.missed = m.missed || faults() != m.faults
	goruntime.UnlockOSThread()
}

// Watching reports whether Watch has begun and not ended.
func (m *Memory) Watching() bool { return m.on }

// Missed says that something was, or will be, written or read that no watch sees, and ends the watch if there is one, so that its goroutine may wait.
func (m *Memory) Missed() {
	m.missed = true
	m.Unwatch()
}

// Written says that the memory was written to from off for n bytes after it returned and outside of a watch.
func (m *Memory) Written(off, n uint64) {
	if !m.knowing {
		return
	}
	for _, s := range m.known {
		if s.offset <= off && off+n <= s.end {
			return
		}
	}
	m.missed = true
}

// unchanged reports that only known may differ from the image, and begins the next round.
func (m *Memory) unchanged() bool {
	ok := m.knowing && m.seen && !m.missed && !m.on
	m.seen, m.missed = false, false
	return ok
}

// found begins a list of what is private.
func (w *watch) found() { w.known, w.knowing = w.known[:0], false }

// add notes a private part after those that were added before.
func (w *watch) add(off, end uint64) {
	if n := len(w.known); n > 0 && w.known[n-1].end == off {
		w.known[n-1].end = end
	} else {
		w.known = append(w.known, span{off, end})
	}
}
