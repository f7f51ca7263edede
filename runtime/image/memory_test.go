package image

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/ripstop-vm/ripstop/runtime/engine"
)

const page = engine.PageSize

func space(t testing.TB, opts SpaceOptions) *Space {
	t.Helper()
	s, err := NewSpace(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// working lists the methods that this machine has.
func working(t testing.TB) []Method {
	t.Helper()
	trials, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	var out []Method
	for _, tr := range trials {
		if tr.Err == nil {
			out = append(out, tr.Method)
		} else {
			t.Logf("%s does not work here: %v", tr.Method, tr.Err)
		}
	}
	return out
}

func take(t testing.TB, s Source) *Image {
	t.Helper()
	im, err := Take(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := im.Close(); err != nil {
			t.Error(err)
		}
	})
	return im
}

func memoryOf(t testing.TB, s *Space, im *Image, max uint64) *Memory {
	t.Helper()
	m, err := s.NewMemory(im, max, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestOneMethodIsChosenAmongThoseThatWork(t *testing.T) {
	trials, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	chosen := 0
	for _, tr := range trials {
		t.Logf("%-14s %v %v chosen=%t", tr.Method, tr.Took, tr.Err, tr.Chosen)
		if tr.Chosen {
			chosen++
			if tr.Err != nil || tr.Took <= 0 {
				t.Errorf("%s was chosen", tr.Method)
			}
		}
		if tr.Method == Copy && tr.Err != nil {
			t.Errorf("copying works everywhere: %v", tr.Err)
		}
	}
	if chosen != 1 || len(trials) != len(Methods()) {
		t.Errorf("%d of %d were chosen", chosen, len(trials))
	}
}

// contents draws what a memory may hold: runs of bytes here and there.
func contents(t *rapid.T) []byte {
	mem := make([]byte, rapid.IntRange(0, 12).Draw(t, "pages")*page)
	if len(mem) == 0 {
		return mem
	}
	for range rapid.IntRange(0, 20).Draw(t, "runs") {
		scribble(t, mem)
	}
	return mem
}

func scribble(t *rapid.T, mem []byte) {
	at := rapid.IntRange(0, len(mem)-1).Draw(t, "at")
	n := rapid.SampledFrom([]int{1, 8, 100, block, 3*block + 5, page}).Draw(t, "length")
	v := rapid.Byte().Draw(t, "value")
	for i := at; i < min(at+n, len(mem)); i++ {
		mem[i] = v
	}
}

func TestMemoryReturnsByteForByteWhateverWasDone(t *testing.T) {
	for _, method := range working(t) {
		t.Run(method.String(), func(t *testing.T) {
			s := space(t, SpaceOptions{Method: method, Private: 32 * block})
			rapid.Check(t, func(t *rapid.T) {
				want := contents(t)
				im, err := Take(Source{Memory: want})
				if err != nil {
					t.Fatal(err)
				}
				defer im.Close()
				most := uint64(len(want)) + uint64(rapid.IntRange(0, 5).Draw(t, "room"))*page
				m, err := s.NewMemory(im, most, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				for range rapid.IntRange(1, 4).Draw(t, "invocations") {
					if !bytes.Equal(m.Bytes(), want) {
						t.Fatal("it does not begin as the image")
					}
					watched := rapid.SampledFrom([]string{"by nobody", "throughout", "for a while"}).Draw(t, "watched")
					if watched != "by nobody" {
						m.Watch()
					}
					for range rapid.IntRange(0, 6).Draw(t, "acts") {
						if watched == "for a while" {
							m.Missed()
						}
						if rapid.Bool().Draw(t, "grow") {
							was, to := len(m.Bytes()), uint64(len(m.Bytes()))+uint64(rapid.IntRange(0, 3).Draw(t, "by"))*page
							err := m.Grow(to)
							var limit *engine.LimitError
							switch {
							case to > most:
								if !errors.As(err, &limit) || len(m.Bytes()) != was {
									t.Fatalf("grown past its bound: %v", err)
								}
							case err != nil:
								t.Fatal(err)
							case !bytes.Equal(m.Bytes()[was:], make([]byte, int(to)-was)):
								t.Fatal("new memory is not empty")
							}
						} else if len(m.Bytes()) > 0 {
							scribble(t, m.Bytes())
						}
					}
					m.Unwatch()
					if err := m.Return(); err != nil {
						t.Fatal(err)
					}
				}
				if !bytes.Equal(m.Bytes(), want) {
					t.Fatal("it did not return to the image")
				}
			})
			if st := s.Stats(); st != (Stats{}) {
				t.Errorf("left behind: %+v", st)
			}
		})
	}
}

func TestMemoriesOfOneImageDoNotSeeEachOther(t *testing.T) {
	s := space(t, SpaceOptions{})
	im := take(t, Source{Memory: bytes.Repeat([]byte{1, 2}, page)})
	a, b := memoryOf(t, s, im, 4*page), memoryOf(t, s, im, 4*page)
	a.Bytes()[5] = 99
	if b.Bytes()[5] != 2 || memoryOf(t, s, im, 4*page).Bytes()[5] != 2 {
		t.Error("one guest's write reached another")
	}
}

func TestAnImageMayBeClosedBeforeItsMemories(t *testing.T) {
	s := space(t, SpaceOptions{})
	im := take(t, Source{Memory: bytes.Repeat([]byte{1}, page)})
	m := memoryOf(t, s, im, page)
	if err := im.Close(); err != nil {
		t.Fatal(err)
	}
	m.Bytes()[0] = 2
	if err := m.Return(); err != nil || m.Bytes()[0] != 1 {
		t.Errorf("%v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewMemory(im, page, nil); err == nil {
		t.Error("a memory of a closed image was made")
	}
}

func TestMappingsAreRefusedBeforeTheKernelRunsOut(t *testing.T) {
	im := take(t, Source{Memory: bytes.Repeat([]byte{1}, page)})
	each := mappings(len(im.segments))
	s := space(t, SpaceOptions{Mappings: 3 * each})
	var all []*Memory
	for range 3 {
		all = append(all, memoryOf(t, s, im, page))
	}
	if _, err := s.NewMemory(im, page, nil); !errors.Is(err, ErrMappings) {
		t.Errorf("a fourth: %v", err)
	}
	if st := s.Stats(); st.Memories != 3 || st.Mappings != 3*each || st.Reserved != 3*page {
		t.Errorf("%+v", st)
	}
	if err := all[0].Close(); err != nil {
		t.Fatal(err)
	}
	memoryOf(t, s, im, page)
}

// Whoever is alone leaves half of them. When another has come, both have their part once the first has closed its surplus.
func TestAPartTakesNoMoreMappingsThanItLeaves(t *testing.T) {
	im := take(t, Source{Memory: bytes.Repeat([]byte{1}, page)})
	each := mappings(len(im.segments))
	s := space(t, SpaceOptions{Mappings: 12 * each})
	fill := func(p *Part) (all []*Memory) {
		for {
			m, err := s.NewMemory(im, page, p)
			if errors.Is(err, ErrMappings) {
				return all
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = m.Close() })
			all = append(all, m)
		}
	}
	var first, second Part
	held := fill(&first)
	if len(held) != 6 || held[0].Surplus() {
		t.Fatalf("alone it has %d of 12, which is too much: %t", len(held), held[0].Surplus())
	}
	others := fill(&second)
	if len(others) != 3 || others[0].Surplus() || !held[0].Surplus() {
		t.Fatalf("another has %d; too much: %t, and of the first %t", len(others), others[0].Surplus(), held[0].Surplus())
	}
	for range 6 {
		for len(held) > 0 && held[0].Surplus() {
			if err := held[0].Close(); err != nil {
				t.Fatal(err)
			}
			held = held[1:]
		}
		others = append(others, fill(&second)...)
	}
	if len(held) != 4 || len(others) != 4 || held[0].Surplus() || others[0].Surplus() {
		t.Errorf("in the end one has %d and the other %d", len(held), len(others))
	}
	for _, m := range append(held, others...) {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if first.taken.Load() != 0 || second.taken.Load() != 0 || s.left.Load() != int64(12*each) || s.Stats() != (Stats{}) {
		t.Errorf("%d and %d stayed booked, %d are left: %+v", first.taken.Load(), second.taken.Load(), s.left.Load(), s.Stats())
	}
}

func TestAnImageLargerThanTheBoundIsRefused(t *testing.T) {
	s := space(t, SpaceOptions{})
	im := take(t, Source{Memory: make([]byte, 2*page)})
	var limit *engine.LimitError
	if _, err := s.NewMemory(im, page, nil); !errors.As(err, &limit) || limit.Used != 2*page || limit.Max != page {
		t.Errorf("%v", err)
	}
}

func TestWhatAGuestWroteIsCountedAndGivenBackPastABound(t *testing.T) {
	for _, method := range working(t) {
		if method != Scan && method != Pagemap {
			continue
		}
		t.Run(method.String(), func(t *testing.T) {
			s := space(t, SpaceOptions{Method: method, Private: 10 * hostPage})
			m := memoryOf(t, s, take(t, Source{Memory: bytes.Repeat([]byte{1}, 8*page)}), 8*page)
			dirty := func(n int) {
				for i := range n {
					m.Bytes()[i*int(hostPage)] = 2
				}
				if err := m.Return(); err != nil {
					t.Fatal(err)
				}
			}
			dirty(10)
			if m.Private() != 10*hostPage || s.Stats().Private != 10*hostPage {
				t.Errorf("%d, %+v", m.Private(), s.Stats())
			}
			dirty(11)
			if m.Private() != 0 || s.Stats().Private != 0 {
				t.Errorf("%d, %+v", m.Private(), s.Stats())
			}
		})
	}
}

// BenchmarkReturn is a round of a guest that writes to 40 pages, by method and size.
func BenchmarkReturn(b *testing.B) {
	for _, kb := range []int{64, 2560, 16384} {
		src := bytes.Repeat([]byte{1}, kb<<10)
		im := take(b, Source{Memory: src})
		for _, method := range working(b) {
			for _, dirty := range []int{2, 40, 400} {
				if dirty*4 > kb/2 && dirty > 2 {
					continue
				}
				b.Run(fmt.Sprintf("%s/image=%dKiB/dirty=%d", method, kb, dirty), func(b *testing.B) {
					s := space(b, SpaceOptions{Method: method})
					m := memoryOf(b, s, im, 64<<20)
					step := len(src) / dirty &^ 63
					for b.Loop() {
						for i := range dirty {
							m.Bytes()[i*step]++
						}
						if err := m.Return(); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

func TestPagesThatOneBusyRequestLeftAreGivenBackAfterAWhile(t *testing.T) {
	s := space(t, SpaceOptions{})
	if s.Method() != Scan && s.Method() != Pagemap {
		return // nothing is kept then
	}
	m := memoryOf(t, s, take(t, Source{Memory: bytes.Repeat([]byte{1}, 32*page)}), 32*page)
	round := func(n int) uint64 {
		for i := range n {
			m.Bytes()[i*int(hostPage)]++
		}
		if err := m.Return(); err != nil {
			t.Fatal(err)
		}
		return m.Private()
	}
	if round(200) != 200*hostPage {
		t.Fatalf("%d bytes are private", m.Private())
	}
	for i := range patience - 1 {
		if round(2) != 200*hostPage {
			t.Fatalf("%d bytes are private after %d more", m.Private(), i)
		}
	}
	if round(2) != 0 || round(2) != 2*hostPage {
		t.Errorf("%d bytes are private", m.Private())
	}
}

// What an image of nothing but zeros is the length of costs nothing, and pages that a guest grew by are kept like others.
func TestAnEmptyImageTakesNoMemoryAndGrowsIntoZeros(t *testing.T) {
	s := space(t, SpaceOptions{Private: 8 * block})
	im, err := Empty(4096 * page)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if _, err := Empty(page + 1); err == nil {
		t.Error("an image of a page and a byte was made")
	}
	if im.StoredBytes() != 0 || im.MemoryBytes() != 4096*page {
		t.Errorf("it stores %d bytes, of %d", im.StoredBytes(), im.MemoryBytes())
	}
	if same := take(t, Source{Memory: make([]byte, page)}); same.Digest() == im.Digest() {
		t.Error("images of different lengths have one name")
	}
	if !s.Scans() || hostPage != block {
		return // TestOneMethodIsChosenAmongThoseThatWork says what works
	}
	m, err := s.NewScanned(im, 4100*page, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	grown := func() []byte {
		t.Helper()
		if err := m.Grow(4099 * page); err != nil {
			t.Fatal(err)
		}
		return m.Bytes()[4098*page:]
	}
	grown()[5], m.Bytes()[7] = 1, 1
	if !m.Spared() || m.Private() != 2*uint64(hostPage) || m.Bytes()[7] != 0 || len(m.Bytes()) != 4096*page {
		t.Errorf("%d bytes are kept of %d", m.Private(), len(m.Bytes()))
	}
	b := grown()
	if b[5] != 0 {
		t.Error("it grew into what was there before")
	}
	for i := range 9 {
		b[i*block] = 1
	}
	if m.Spared() {
		t.Error("a memory with more private pages than are kept was spared")
	}
}

func TestAMemoryOfWhichMuchWasReadIsNotSpared(t *testing.T) {
	s := space(t, SpaceOptions{})
	if !s.Scans() {
		return // and nobody asks
	}
	const large = 1 << 30
	for _, c := range []struct {
		size, grown uint64
		times       int // that it is spared at most
	}{{page, large, 0}, {large, large, 20}} {
		im, err := Empty(c.size)
		if err != nil {
			t.Fatal(err)
		}
		defer im.Close()
		m, err := s.NewScanned(im, large, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		m.Bytes()[0] = 1
		if !m.Spared() {
			t.Fatalf("a memory of %d bytes of which one was written is not spared", c.size)
		}
		if err := m.Grow(c.grown); err != nil {
			t.Fatal(err)
		}
		var sum byte
		for b, at := m.Bytes(), 0; at < len(b); at += int(hostPage) {
			sum |= b[at]
		}
		if sum != 0 {
			t.Fatal("it was not empty")
		}
		times := 0
		for m.Spared() && times <= c.times { // each of these walks through tables of so many pages
			times++
		}
		if times > c.times {
			t.Errorf("a memory of %d bytes of which %d were read is spared again and again", c.size, c.grown)
		}
	}
}
