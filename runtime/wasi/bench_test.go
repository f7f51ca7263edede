package wasi

import (
	"strings"
	"testing"
)

// The calls that guests make most often, past the door and without an engine.
func BenchmarkCalls(b *testing.B) {
	dir := tree(b, map[string]string{"f": strings.Repeat("x", 4096)})
	g := newCaller(b, Options{Preopens: []Preopen{{Guest: "/", Host: dir}}})
	f := g.mustOpen(3, "f", 0, reading, 0)
	v, n := g.vec(100)
	ptr, size := g.text(textAt, "f")
	for _, c := range []struct {
		name   string
		params []uint64
	}{
		{"clock_time_get", []uint64{clockMonotonic, 1, outAt}},
		{"fd_write", []uint64{1, v, n, outAt}},
		{"fd_pread", []uint64{uint64(f), v, n, 0, outAt}},
		{"path_filestat_get", []uint64{3, 1, ptr, size, outAt}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			number := g.numbers[c.name]
			stack := make([]uint64, len(c.params))
			for b.Loop() {
				copy(stack, c.params)
				g.door.Dispatch(number, stack)
			}
		})
	}
}
