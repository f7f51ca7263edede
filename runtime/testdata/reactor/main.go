// Reactor is a Go guest whose random numbers and work the tests of package runtime look at.
package main

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math/rand"
	randv2 "math/rand/v2"
	"net/http"
	"strings"
)

var (
	seed     = maphash.MakeSeed()
	ages     = map[int]int{}
	own      = randv2.NewChaCha8([32]byte{1, 2, 3})
	handlers = http.NewServeMux()
	heap     [][]byte
)

func init() {
	for i := range 64 {
		ages[i] = i
	}
	for i := range 60 {
		handlers.HandleFunc(fmt.Sprintf("/path/%d", i), func(http.ResponseWriter, *http.Request) {})
	}
	for i := range 800 {
		heap = append(heap, []byte(strings.Repeat(string(rune('a'+i%26)), 1024)))
	}
	rand.Int() // so that the state is not as it was made
}

//go:wasmexport v1
func v1() int64 { return rand.Int63() }

//go:wasmexport v2
func v2() int64 { return randv2.Int64() }

// hash is of a seed made now.
//
//go:wasmexport hash
func hash() int64 { return int64(maphash.String(maphash.MakeSeed(), "x")) }

// kept is of the seed that was made at the start: it has to stay the same, or maps made there would be broken.
//
//go:wasmexport kept
func kept() int64 { return int64(maphash.String(seed, "x")) }

// order is the first keys of a map in the order of now.
//
//go:wasmexport order
func order() int64 {
	var n int64
	left := 10
	for k := range ages {
		n = n<<6 | int64(k)
		if left--; left == 0 {
			break
		}
	}
	return n
}

// seeded draws from a generator that the program seeded: the same numbers each time.
//
//go:wasmexport seeded
func seeded() int64 { return int64(own.Uint64()) }

// work is what a small handler does.
//
//go:wasmexport work
func work(n int32) int32 {
	b, err := json.Marshal(map[string]any{"n": n, "path": fmt.Sprintf("/path/%d", n), "age": ages[int(n)]})
	if err != nil {
		return -1
	}
	r, err := http.NewRequest("POST", "http://host/path/"+fmt.Sprint(n), strings.NewReader(string(b)))
	if err != nil {
		return -1
	}
	r.Header.Set("content-type", "application/json")
	_, pattern := handlers.Handler(r)
	return int32(len(pattern) + len(b))
}

// allocate makes the memory grow.
//
//go:wasmexport allocate
func allocate(mebibytes int32) {
	heap = append(heap, make([]byte, mebibytes<<20))
}

func main() {}
