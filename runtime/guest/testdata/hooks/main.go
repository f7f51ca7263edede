// Hooks is a task that tells what its hooks have done and found.
package main

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand"
	randv2 "math/rand/v2"
	"net/http"
	"time"

	"github.com/ripstop-vm/ripstop/sdk"
)

var (
	warmed   int
	early    []string
	returns  int
	drawn    uint64
	at       time.Time
	greeting string
	served   int
)

func try(what string, err error) {
	if !errors.Is(err, sdk.ErrStarting) {
		early = append(early, fmt.Sprintf("%s: %v", what, err))
	}
}

func init() {
	sdk.Warm(func() {
		warmed++
		ctx := context.Background()
		_, err := sdk.Secret(ctx, "token")
		try("secret", err)
		_, err = http.Get("http://127.0.0.1:1/")
		try("fetch", err)
		_, _, err = sdk.KV("b").Get(ctx, "k")
		try("key", err)
		if _, ok := sdk.Config("greeting"); ok {
			early = append(early, "a setting was read")
		}
	})
	sdk.AfterReturn(func() {
		returns++
		drawn, at = randv2.Uint64(), time.Now()
		greeting, _ = sdk.Config("greeting")
		if greeting == "panic" && served == 0 {
			fmt.Println("about to panic")
			panic("as the setting says")
		}
	})
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		served++
		fmt.Fprintf(w, "warmed %d, early %q, returns %d, greeting %s, served %d", warmed, early, returns, greeting, served)
	})
	mux.HandleFunc("/hook", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%d %d", drawn, at.UnixNano()) })
	mux.HandleFunc("/random", func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 8)
		crand.Read(b)
		order := ""
		m := map[int]bool{}
		for i := range 64 {
			m[i] = true
		}
		for i := range m {
			order += fmt.Sprint(i, ",")
		}
		var h maphash.Hash
		h.WriteString("x")
		fmt.Fprintf(w, "%d %d %x %s %x %x", rand.Uint64(), randv2.Uint64(), b, order, h.Sum64(), maphash.String(maphash.MakeSeed(), "x"))
	})
	sdk.Handle(mux)
}

func main() {}
