// Hello is the smallest task: an http.Handler in a sandbox.
package main

import (
	"fmt"
	"net/http"

	"github.com/ripstop-vm/ripstop/sdk"
)

func init() {
	sdk.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("name")
		if name == "" {
			name = "world"
		}
		fmt.Fprintf(w, "Hello, %s!\n", name)
	}))
}

func main() {}
