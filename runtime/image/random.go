package image

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
)

// Random is where a guest keeps the state of a random generator that has to be renewed whenever a sandbox begins as the
// image, or every request would see the same "random" numbers.
//
// Known is the generator of Go's runtime (ChaCha8, Go 1.22 and later), which math/rand, math/rand/v2, hash/maphash and the
// order of maps draw from. Generators that a guest has seeded itself, those of other languages' libraries, and the cheap
// one that Go's select uses are left as they are.
type Random struct {
	Offsets []uint64 // of Go's ChaCha8 states in memory, in bytes; ascending
	Warning string   // why a Go guest's numbers may repeat; empty if they do not
}

// The layout of Go's internal/chacha8rand.State, the same on wasm from Go 1.22 to 1.26: 32 words drawn ahead, the seed they
// were made of, the number of them drawn (i) and usable (n), and the block's counter (c).
const (
	ahead       = 32 // words
	chachaSeed  = 256
	chachaI     = 288
	chachaN     = 292
	chachaC     = 296
	chachaBytes = 304

	// A runtime.m begins with a pointer to its g0, whose field m, at gM, points back. The state lies within machine bytes of it.
	gM      = 48
	machine = 4 << 10
)

// RandomBytes is how long what each of Random.Offsets leads to is.
const RandomBytes = chachaBytes

// maxRandom bounds Random.Offsets: Go on wasm has one thread, and so one generator.
const maxRandom = 64

// maxLooks bounds how often FindGoRandom looks twice: a few times in a program, and everywhere in a memory that was made for it.
const maxLooks = 10_000

// maxWarning bounds Random.Warning, in bytes.
const maxWarning = 1000

func (r *Random) check(size uint64) error {
	if len(r.Offsets) > maxRandom || len(r.Warning) > maxWarning {
		return fmt.Errorf("%d random states and a warning of %d bytes", len(r.Offsets), len(r.Warning))
	}
	for i, o := range r.Offsets {
		if o%8 != 0 || o > size || size-o < chachaBytes || i > 0 && o <= r.Offsets[i-1] {
			return fmt.Errorf("a random state at %d of a memory of %d bytes", o, size)
		}
	}
	return nil
}

// FindGoRandom looks for the random state of Go's runtime in a Go guest's memory. It knows a state by doing its
// sums: the numbers drawn ahead have to be what ChaCha8 makes of the seed beside them; and the runtime's own, which a
// program's generators are not, by the structure around it.
func FindGoRandom(mem []byte) Random {
	var r Random
	machines := map[uint64]bool{}
	looks := 0
	for _, e := range extentsOf(mem) {
		// A state may begin in the extent and end after it, in zeros.
		for p := e.offset; p < e.end() && p+chachaBytes <= uint64(len(mem)); p += 8 {
			if !plausible(mem[p:]) {
				continue
			}
			if looks++; looks > maxLooks {
				return Random{Warning: "memory is full of what looks like Go's random state: random numbers may repeat between requests"}
			}
			m, ok := machineOf(mem, p)
			if !ok || machines[m] || !proven(mem[p:]) {
				continue
			}
			machines[m] = true
			if r.Offsets = append(r.Offsets, p); len(r.Offsets) > maxRandom {
				return Random{Warning: "too many of Go's random states were found: random numbers may repeat between requests"}
			}
		}
	}
	if r.Offsets == nil {
		r.Warning = "this version of Go keeps its random state in a way that is not known: math/rand, maphash and the order of maps may repeat between requests"
	}
	return r
}

// plausible looks at the counters of what might be a state.
func plausible(b []byte) bool {
	le := binary.LittleEndian
	n, c := le.Uint32(b[chachaN:]), le.Uint32(b[chachaC:])
	return (n == 32 && c <= 8 || n == 28 && c == 12) && c%4 == 0 && le.Uint32(b[chachaI:]) <= n
}

// proven draws the numbers again.
func proven(b []byte) bool {
	le := binary.LittleEndian
	state := append([]byte("chacha8:"), make([]byte, 8, 40)...)
	binary.BigEndian.PutUint64(state[8:], uint64(le.Uint32(b[chachaC:]))/4*32)
	state = append(state, b[chachaSeed:chachaSeed+32]...)
	var r rand.ChaCha8
	if r.UnmarshalBinary(state) != nil {
		return false
	}
	for i := range le.Uint32(b[chachaN:]) {
		if r.Uint64() != le.Uint64(b[8*i:]) {
			return false
		}
	}
	return true
}

// machineOf finds the runtime.m that a state at p belongs to.
func machineOf(mem []byte, p uint64) (uint64, bool) {
	le := binary.LittleEndian
	for m := p; m >= 8 && p-m < machine; m -= 8 {
		g := le.Uint64(mem[m:])
		if g == 0 || g > uint64(len(mem)) || uint64(len(mem))-g < gM+8 {
			continue
		}
		if le.Uint64(mem[g+gM:]) == m {
			return m, true
		}
	}
	return 0, false
}

// Renew gives every state in mem, which holds the image's bytes, a fresh seed from source, and the numbers drawn ahead that come of it: the
// guest would need some 10 µs to draw them itself, since ChaCha8 is made for vector instructions.
func (r *Random) Renew(mem []byte, source io.Reader) error {
	le := binary.LittleEndian
	for _, o := range r.Offsets {
		b := mem[o : o+chachaBytes]
		seed := (*[32]byte)(b[chachaSeed:])
		if _, err := io.ReadFull(source, seed[:]); err != nil {
			return fmt.Errorf("renew a guest's random state: %w", err)
		}
		var drawn rand.ChaCha8
		drawn.Seed(*seed)
		for i := range ahead {
			le.PutUint64(b[8*i:], drawn.Uint64())
		}
		le.PutUint32(b[chachaI:], 0)
		le.PutUint32(b[chachaN:], ahead)
		le.PutUint32(b[chachaC:], 0)
	}
	return nil
}
