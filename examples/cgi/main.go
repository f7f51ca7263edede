// Cgi is an ordinary Go program. It knows nothing of Ripstop: a request comes in as its environment and standard input
// (RFC 3875), and what it prints is the response.
package main

import (
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
)

func main() {
	body, err := io.ReadAll(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, "read the request:", err)
		os.Exit(1)
	}
	fmt.Print("Content-Type: text/plain; charset=utf-8\r\n")
	if os.Getenv("PATH_INFO") == "/teapot" {
		fmt.Print("Status: 418 I'm a teapot\r\n")
	}
	fmt.Print("\r\n")
	fmt.Printf("%s %s\n", os.Getenv("REQUEST_METHOD"), os.Getenv("PATH_INFO"))
	env := os.Environ()
	sort.Strings(env)
	for _, kv := range env {
		if strings.HasPrefix(kv, "HTTP_") || strings.HasPrefix(kv, "QUERY_") || strings.HasPrefix(kv, "SCRIPT_") {
			fmt.Println(kv)
		}
	}
	if len(body) > 0 {
		fmt.Printf("\n%d bytes of body: %s\n", len(body), body)
	}
	fmt.Fprintln(os.Stderr, "served", os.Getenv("PATH_INFO"))
}
