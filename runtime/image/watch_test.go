package image

import (
	"bytes"
	"testing"
)

// watched makes a memory of 8 pages whose first page is private, and known to be. It is nil where memory cannot be watched.
func watched(t *testing.T) *Memory {
	s := space(t, SpaceOptions{})
	if !s.counts || s.method != Scan && s.method != Pagemap {
		t.Skip("memory is not watched here")
	}
	m := memoryOf(t, s, take(t, Source{Memory: bytes.Repeat([]byte{1}, 8*page)}), 8*page)
	during(t, m, func() { m.Bytes()[0] = 2 })
	if !m.knowing || m.Private() != hostPage {
		t.Fatalf("%d bytes are private, known: %t", m.Private(), m.knowing)
	}
	return m
}

// during returns the memory after act, which is watched, and reports whether all that was written is known without a look.
func during(t *testing.T, m *Memory, act func()) (known bool) {
	t.Helper()
	m.Watch()
	act()
	m.Unwatch()
	if m.Watching() {
		t.Error("the watch goes on")
	}
	return returned(t, m)
}

func returned(t *testing.T, m *Memory) (known bool) {
	t.Helper()
	known = m.knowing && m.seen && !m.missed
	if err := m.Return(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.Bytes(), bytes.Repeat([]byte{1}, 8*page)) {
		t.Error("memory is not as before")
	}
	return known
}

func TestAWatchedMemoryKnowsWhatMayDifferFromItsImage(t *testing.T) {
	m := watched(t)
	if !during(t, m, func() { m.Bytes()[7] = 3; _ = m.Bytes()[0] }) {
		t.Error("a page that was private was looked for")
	}
	if during(t, m, func() { m.Bytes()[5*page] = 4 }) {
		t.Error("a write to another page went unseen")
	}
	if m.Private() != 2*hostPage {
		t.Errorf("%d bytes are private", m.Private())
	}
	if !during(t, m, func() { m.Bytes()[7], m.Bytes()[5*page+9] = 5, 5 }) {
		t.Error("the other page is not known")
	}
}

func TestWhatNobodyWatchedIsLookedFor(t *testing.T) {
	m := watched(t)
	m.Bytes()[3*page] = 2
	if returned(t, m) {
		t.Error("a write without a watch went unseen")
	}
	m.Missed()
	m.Bytes()[4*page] = 2
	if during(t, m, func() {}) {
		t.Error("a write before a watch went unseen")
	}
	if during(t, m, func() { m.Missed(); m.Bytes()[6*page] = 2 }) {
		t.Error("a write after the end of a watch went unseen")
	}
	if !during(t, m, func() {}) {
		t.Error("what was missed in an earlier round counts")
	}
}

func TestWhatIsWrittenAfterTheReturnIsKnownOrLookedFor(t *testing.T) {
	m := watched(t)
	m.Bytes()[9] = 2
	m.Written(9, 1)
	if !during(t, m, func() {}) {
		t.Error("a page that was private was looked for")
	}
	m.Bytes()[2*page] = 2
	m.Written(2*page, 8)
	if during(t, m, func() {}) {
		t.Error("a write after the return went unseen")
	}
	m.Bytes()[hostPage] = 2
	m.Written(hostPage-1, 2) // half of it is known
	if during(t, m, func() {}) {
		t.Error("a write across pages went unseen")
	}
}
