package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func encoded(t testing.TB, im *Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if n, err := im.WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatalf("%d bytes of %d: %v", n, b.Len(), err)
	}
	return b.Bytes()
}

// small is an image with something of everything.
func small() Source {
	mem := make([]byte, 2*page)
	mem[5], mem[page+block] = 1, 2
	return Source{Module: sha256.Sum256([]byte("m")), Memory: mem, Globals: []Global{
		{"sp", hostcall.I32, 65536}, {"f", hostcall.F64, 1 << 63}, {"", hostcall.I64, 1<<64 - 1}},
		Random: Random{Offsets: []uint64{8, 4096}, Warning: "perhaps"}}
}

func TestAnImageIsAFile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mem := contents(t)
		src := Source{Memory: mem}
		for _, name := range rapid.SliceOfDistinct(rapid.String(), rapid.ID[string]).Draw(t, "globals") {
			src.Globals = append(src.Globals, Global{name, hostcall.I64, rapid.Uint64().Draw(t, "bits")})
		}
		im, err := Take(src)
		if err != nil {
			t.Fatal(err)
		}
		defer im.Close()
		var b bytes.Buffer
		if _, err := im.WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		back, err := Parse(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		defer back.Close()
		got := bytes.Repeat([]byte{0xaa}, len(mem))
		back.CopyTo(got)
		if !bytes.Equal(got, mem) || back.Digest() != im.Digest() || !slices.Equal(back.Globals(), im.Globals()) {
			t.Fatal("it is not what was written")
		}
	})
}

func TestTheSameStateHasTheSameDigestAndAnyOtherAnother(t *testing.T) {
	a := take(t, small())
	if b := take(t, small()); a.Digest() != b.Digest() {
		t.Error("the same state, two digests")
	}
	for what, change := range map[string]func(*Source){
		"module":  func(s *Source) { s.Module[0]++ },
		"memory":  func(s *Source) { s.Memory[0]++ },
		"size":    func(s *Source) { s.Memory = append(s.Memory, make([]byte, page)...) },
		"global":  func(s *Source) { s.Globals[0].Bits++ },
		"warning": func(s *Source) { s.Random.Warning = "" },
	} {
		s := small()
		change(&s)
		if take(t, s).Digest() == a.Digest() {
			t.Errorf("another %s, the same digest", what)
		}
	}
	// The digest must not depend on the host or the version of this program.
	const want = "a6c9b0ce8af949c66dedb26feee72cffe813776d0062c06f07ef932a0bf8b77f"
	if got := a.Digest().String(); got != want {
		t.Errorf("the digest of a known state is %s, and was %s", got, want)
	}
}

// sealed puts the right digest at the end of b.
func sealed(b []byte) []byte {
	b = b[:len(b)-sha256.Size-sectionBytes]
	d := sha256.Sum256(b)
	return append(append(b, head(tagEnd, sha256.Size)...), d[:]...)
}

// reseal is b with a change and the digest that then is right.
func reseal(b []byte, change func([]byte)) []byte {
	b = bytes.Clone(b)
	change(b)
	return sealed(b)
}

func TestABrokenImageIsRefusedWithWhatIsWrong(t *testing.T) {
	le := binary.LittleEndian
	good := encoded(t, take(t, small()))
	at := func(tag uint64) int { // of a section's content
		for off := headBytes; ; off += sectionBytes + int(le.Uint64(good[off+8:])) {
			if le.Uint64(good[off:]) == tag {
				return off + sectionBytes
			}
		}
	}
	for want, b := range map[string][]byte{
		"this is no image":                 []byte("\x00asm"),
		"an image of another version: 2.0": reseal(good, func(b []byte) { b[8] = 2 }),
		"an image of another version: 1.2": reseal(good, func(b []byte) { b[10] = 2 }),
		"it does not end with its digest":  good[:len(good)-1],
		"its bytes are not those":          append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]+1),
		"no whole number of pages":         reseal(good, func(b []byte) { b[at(tagMemory)+32]++ }),
		"beyond a memory of 65536":         reseal(good, func(b []byte) { b[at(tagMemory)+34]-- }),
		"multiples of 4096":                reseal(good, func(b []byte) { b[at(tagExtents)]++ }),
		"touches the one before":           reseal(good, func(b []byte) { copy(b[at(tagExtents)+16:], b[at(tagExtents):at(tagExtents)+8]) }),
		"a block of zeros":                 reseal(good, func(b []byte) { b[at(tagData)+5] = 0 }),
		"bytes of data for extents of":     reseal(good, func(b []byte) { le.PutUint64(b[at(tagExtents)+8:], 2*block) }),
		"section 7 after section 1":        reseal(good, func(b []byte) { b[at(tagGlobals)-sectionBytes] = 7 }),
		"is longer than the file":          reseal(good, func(b []byte) { b[at(tagRandom)-1] = 0xff }),
		"holds no number":                  reseal(good, func(b []byte) { b[at(tagGlobals)] = 0x7b }),
		"has 32 bits and the value":        reseal(good, func(b []byte) { b[at(tagGlobals)] = 0x7f }),
		"a global's name is cut off":       reseal(good, func(b []byte) { b[at(tagGlobals)+10] = 0xff }),
		"a random state at 131072":         reseal(good, func(b []byte) { le.PutUint64(b[at(tagRandom)+2+len("perhaps")+8:], 2*page) }),
		"it ends after section 4":          sealed(append(bytes.Clone(good[:at(tagRandom)-sectionBytes]), make([]byte, 48)...)),
		"there is no section 6":            sealed(append(append(bytes.Clone(good[:len(good)-48]), head(6, 0)...), make([]byte, 48)...)),
		"it ends within a section's head":  sealed(append(append(bytes.Clone(good[:len(good)-48]), 6, 0, 0), make([]byte, 48)...)),
		"the globals are cut off":          sealed(append(append(bytes.Clone(good[:headBytes+sectionBytes+40]), append(head(2, 1), 0)...), make([]byte, 48)...)),
		"it ends early":                    good[:headBytes+40],
	} {
		if _, err := Parse(b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		} else if strings.HasPrefix(want, "an image of another") != errors.Is(err, ErrVersion) {
			t.Errorf("%v is ErrVersion: %t", err, errors.Is(err, ErrVersion))
		}
	}
}

func TestSectionsOfTheNextMinorVersionAreKept(t *testing.T) {
	good := encoded(t, take(t, small()))
	next := bytes.Clone(good[:len(good)-48])
	next[10] = 1
	next = sealed(append(append(append(next, head(9, 3)...), "new"...), make([]byte, 48)...))
	im, err := Parse(next)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if !bytes.Equal(encoded(t, im), next) {
		t.Error("it was not written as it was read")
	}
}

func TestWhatCannotBeAnImageIsRefused(t *testing.T) {
	for want, s := range map[string]Source{
		"no whole number of pages": {Memory: make([]byte, 100)},
		"is there twice":           {Globals: []Global{{"g", hostcall.I64, 0}, {"g", hostcall.I64, 0}}},
		"holds no number":          {Globals: []Global{{"v", 0x7b, 0}}},
		"with a name of":           {Globals: []Global{{strings.Repeat("n", maxName+1), hostcall.I64, 0}}},
		"a random state at":        {Memory: make([]byte, page), Random: Random{Offsets: []uint64{page - 8}}},
		"100001 globals":           {Globals: make([]Global, maxGlobals+1)},
	} {
		if _, err := Take(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestSegmentsCoverExtentsWithinTheirBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var es []extent
		at := uint64(0)
		for range rapid.IntRange(0, 100).Draw(t, "extents") {
			at += uint64(rapid.SampledFrom([]int{1, 2, 16, 17, 1000, 30000}).Draw(t, "gap")) * block
			n := uint64(rapid.IntRange(1, 20).Draw(t, "length")) * block
			es = append(es, extent{at, n})
			at += n
		}
		segs, err := layout(es)
		if err != nil {
			t.Fatal(err)
		}
		var end, stored uint64
		for _, s := range segs {
			if s.offset%hostPage != 0 || s.length%hostPage != 0 || s.offset < end || s.at != stored || s.length == 0 {
				t.Fatalf("%+v", segs)
			}
			end, stored = s.end(), stored+s.length
		}
		for _, e := range es {
			if !slices.ContainsFunc(segs, func(s segment) bool { return s.offset <= e.offset && e.end() <= s.end() }) {
				t.Fatalf("%+v is in none of %+v", e, segs)
			}
		}
	})
}

func TestScatteredContentsTakeNoRoomForZeros(t *testing.T) {
	scattered := func(n int) (es []extent) {
		for i := range n {
			es = append(es, extent{uint64(i) << 22, block})
		}
		return es
	}
	segs, err := layout(scattered(100)) // 400 MiB
	if err != nil || len(segs) != 100 || segs[99].at != 99*max(hostPage, block) {
		t.Errorf("%d segments, %v", len(segs), err)
	}
	if segs, err := layout(scattered(maxSegments + 1)); !errors.Is(err, ErrScattered) {
		t.Errorf("%d segments, %v", len(segs), err)
	}
	// Few zeros between them: one mapping is better than a hundred.
	var es []extent
	for i := range 100 {
		es = append(es, extent{uint64(i) * 40 * block, 20 * block})
	}
	if segs, err := layout(es); err != nil || len(segs) != 1 {
		t.Errorf("%d segments, %v", len(segs), err)
	}
}

func FuzzParse(f *testing.F) {
	im, err := Take(small())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encoded(f, im)[:len(encoded(f, im))-48])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = sealed(append(bytes.Clone(b), make([]byte, 48)...)) // or nothing gets past the digest
		im, err := Parse(b)
		if err != nil {
			return
		}
		defer im.Close()
		if got := encoded(t, im); !bytes.Equal(got, b) {
			t.Fatalf("read %x, written %x", b, got)
		}
		if im.StoredBytes() > uint64(len(b))*18+spare+page {
			t.Fatalf("%d bytes are stored for %d", im.StoredBytes(), len(b))
		}
	})
}

func TestTheStoreIsSealedAndWhole(t *testing.T) {
	im := take(t, small())
	checkStore(t, im)
}
