//go:build wasip1

// Warm is a Go guest of about 2.5 MB for measuring what a fresh sandbox costs: it has state that takes a while to make, and does a
// little work that allocates.
package main

import (
	"fmt"
	"os"
	"sort"
	"strings"
)

var (
	words = map[string]int{}
	text  []string
	calls int32
)

func init() {
	for i := range 300 {
		w := fmt.Sprintf("word%d", i*7919%150)
		words[w]++
		text = append(text, w)
	}
	if len(os.Args) > 1 {
		text = append(text, os.Args[1:]...)
	}
}

// run works a little, and says how many times it has: 1 in a fresh sandbox.
//
//go:wasmexport run
func run() int32 {
	calls++
	var found []string
	for _, w := range text[:50] {
		if words[w] > 1 {
			found = append(found, strings.ToUpper(w))
		}
	}
	sort.Strings(found)
	words[fmt.Sprintf("call%d", calls)] = len(found)
	return calls
}

func main() {}
