package image

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
)

// goMemory is a memory with a runtime.m at 4096, its g0 at 256, and a random state 400 bytes into the m.
func goMemory(drawn int) (mem []byte, state uint64) {
	le := binary.LittleEndian
	mem = make([]byte, 2*page)
	const m, g = 4096, 256
	le.PutUint64(mem[m:], g)
	le.PutUint64(mem[g+gM:], m)
	putState(mem[m+400:], [32]byte{1, 2, 3}, drawn)
	return mem, m + 400
}

// putState writes a state of internal/chacha8rand of which drawn numbers were taken, in its first block.
func putState(b []byte, seed [32]byte, drawn int) {
	le := binary.LittleEndian
	r := rand.NewChaCha8(seed)
	for i := range 32 {
		le.PutUint64(b[8*i:], r.Uint64())
	}
	copy(b[chachaSeed:], seed[:])
	le.PutUint32(b[chachaI:], uint32(drawn))
	le.PutUint32(b[chachaN:], 32)
}

func TestGosRandomStateIsFoundAndOnlyThat(t *testing.T) {
	for drawn := range 33 {
		mem, at := goMemory(drawn)
		putState(mem[page:], [32]byte{9}, 3) // a program's own generator
		r := FindGoRandom(mem)
		if len(r.Offsets) != 1 || r.Offsets[0] != at || r.Warning != "" {
			t.Fatalf("%d drawn: %+v", drawn, r)
		}
	}
	for name, change := range map[string]func(mem []byte, at uint64){
		"another number":  func(mem []byte, at uint64) { mem[at+17]++ },
		"another seed":    func(mem []byte, at uint64) { mem[at+chachaSeed]++ },
		"more than there": func(mem []byte, at uint64) { mem[at+chachaI] = 33 },
		"no machine":      func(mem []byte, _ uint64) { mem[256+gM]++ },
	} {
		mem, at := goMemory(5)
		change(mem, at)
		if r := FindGoRandom(mem); r.Offsets != nil || !strings.Contains(r.Warning, "may repeat") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestARenewedStateDrawsFromTheFreshSeed(t *testing.T) {
	mem, at := goMemory(5)
	r := FindGoRandom(mem)
	was := bytes.Clone(mem)
	if err := r.Renew(mem, bytes.NewReader(bytes.Repeat([]byte{7}, 32))); err != nil {
		t.Fatal(err)
	}
	putState(was[at:], [32]byte(bytes.Repeat([]byte{7}, 32)), 0)
	if want := was[at : at+chachaBytes]; !bytes.Equal(mem[at:at+chachaBytes], want) {
		t.Errorf("%x, want %x", mem[at:at+chachaBytes], want)
	}
	if !bytes.Equal(mem, was) {
		t.Error("other bytes were written, too")
	}
	if err := r.Renew(mem, bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("renewed from nothing")
	}
}

func TestAMemoryMadeToLookRandomIsNotSearchedToItsEnd(t *testing.T) {
	mem := make([]byte, 32*page)
	for i := 0; i < len(mem); i += 8 {
		binary.LittleEndian.PutUint64(mem[i:], 32<<32|4) // 32 numbers usable, 4 drawn, block 4: wherever one looks
	}
	if r := FindGoRandom(mem); r.Offsets != nil || !strings.HasPrefix(r.Warning, "memory is full") {
		t.Errorf("%+v", r)
	}
	if r := FindGoRandom(mem[:page]); strings.HasPrefix(r.Warning, "memory is full") {
		t.Errorf("a little of it: %+v", r)
	}
}

func FuzzFindGoRandom(f *testing.F) {
	mem, _ := goMemory(7)
	f.Add(mem[:2*block])
	f.Fuzz(func(t *testing.T, b []byte) {
		mem := make([]byte, (len(b)+page-1)/page*page)
		copy(mem, b)
		r := FindGoRandom(mem)
		if err := r.check(uint64(len(mem))); err != nil {
			t.Fatal(err)
		}
		if (r.Offsets == nil) != (r.Warning != "") {
			t.Fatalf("%+v", r)
		}
		if err := r.Renew(mem, bytes.NewReader(make([]byte, 32*len(r.Offsets)))); err != nil {
			t.Fatal(err)
		}
	})
}
