package image

import (
	"encoding/binary"
	"strings"
	"testing"
)

func TestMemoryFullOfWhatLooksLikeRandomStatesIsNotSearchedForMinutes(t *testing.T) {
	mem := make([]byte, 2*page)
	for p := 0; p < len(mem); p += 8 {
		binary.LittleEndian.PutUint64(mem[p:], 32<<32) // 32 numbers usable, none drawn, block 0: wherever one looks
	}
	if r := FindGoRandom(mem); r.Offsets != nil || !strings.HasPrefix(r.Warning, "too much of the memory") {
		t.Errorf("%+v", r)
	}
	if r := FindGoRandom(mem[:page/4]); strings.HasPrefix(r.Warning, "too much") {
		t.Errorf("a little of it: %+v", r)
	}
}
