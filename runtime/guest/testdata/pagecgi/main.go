// Pagecgi is a command that gets ready, and then answers one request, which comes in as CGI or, if its environment tells of none, as SCGI on its
// standard input.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"html/template"
	"io"
	"os"
	"strings"
)

var page = template.Must(template.New("page").Parse(`<p>{{.Method}} {{.Path}}{{with .Body}} {{.}}{{end}}
`))

type request struct{ Method, Path, Body string }

func main() {
	if err := page.Execute(io.Discard, request{Body: "what is done once is done now"}); err != nil {
		panic(err)
	}
	fmt.Fprintln(os.Stderr, "ready")
	in := bufio.NewReader(os.Stdin)
	variable := os.Getenv
	if os.Getenv("GATEWAY_INTERFACE") == "" {
		variable = header(in)
	}
	body, err := io.ReadAll(in)
	if err != nil {
		panic(err)
	}
	var out bytes.Buffer
	out.WriteString("Content-Type: text/html\r\n\r\n")
	if err := page.Execute(&out, request{variable("REQUEST_METHOD"), variable("PATH_INFO"), string(body)}); err != nil {
		panic(err)
	}
	if _, err := out.WriteTo(os.Stdout); err != nil {
		panic(err)
	}
}

func header(in *bufio.Reader) func(name string) string {
	var n int
	if _, err := fmt.Fscanf(in, "%d:", &n); err != nil || n > 1<<20 {
		panic(fmt.Sprint("length ", n, err))
	}
	b := make([]byte, n+1)
	if _, err := io.ReadFull(in, b); err != nil {
		panic(err)
	}
	fields := strings.Split(string(b), "\x00")
	return func(name string) string {
		for i := 0; i+1 < len(fields); i += 2 {
			if fields[i] == name {
				return fields[i+1]
			}
		}
		return ""
	}
}
