// Scgi is an ordinary Go program whose work for all requests is done before there is one: it parses its template, and then reads its request
// from its standard input (SCGI: a netstring of headers, then the body). It is started ahead, and waits at that read.
package main

import (
	"bufio"
	"fmt"
	"html/template"
	"io"
	"os"
	"strconv"
	"strings"
)

var page = template.Must(template.New("page").Parse(`<!doctype html>
<title>{{.PATH_INFO}}</title>
<p>{{.REQUEST_METHOD}} {{.PATH_INFO}}{{with .QUERY_STRING}}?{{.}}{{end}} from {{.REMOTE_ADDR}}
{{with .Body}}<pre>{{.}}</pre>
{{end}}`))

// maxHeader bounds the headers, in bytes: ingress takes no more.
const maxHeader = 1 << 20

func main() {
	// A template is only made safe when it is first used: that is done ahead, too.
	if err := page.Execute(io.Discard, map[string]string{}); err != nil {
		fmt.Fprintln(os.Stderr, "try the page:", err)
		os.Exit(1)
	}
	in := bufio.NewReader(os.Stdin)
	request, err := readHeader(in)
	if err == nil {
		// The input ends with the body, whose length is not always known ahead.
		var body []byte
		body, err = io.ReadAll(in)
		request["Body"] = string(body)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "read the request:", err)
		os.Exit(1)
	}
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprint(out, "Content-Type: text/html; charset=utf-8\r\n\r\n")
	if err := page.Execute(out, request); err != nil {
		fmt.Fprintln(os.Stderr, "write the page:", err)
		os.Exit(1)
	}
	if err := out.Flush(); err != nil {
		os.Exit(1) // the client is gone
	}
}

// readHeader reads the netstring "LENGTH:NAME\0VALUE\0…NAME\0VALUE\0,".
func readHeader(in *bufio.Reader) (map[string]string, error) {
	digits, err := in.ReadString(':')
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(digits, ":"), 10, 31)
	if err != nil || n > maxHeader {
		return nil, fmt.Errorf("headers of %q bytes", digits)
	}
	b := make([]byte, n+1)
	if _, err := io.ReadFull(in, b); err != nil {
		return nil, err
	}
	fields := strings.Split(string(b[:n]), "\x00")
	if b[n] != ',' || len(fields)%2 != 1 || fields[len(fields)-1] != "" {
		return nil, fmt.Errorf("headers are no netstring of names and values")
	}
	request := map[string]string{}
	for i := 0; i+1 < len(fields); i += 2 {
		request[fields[i]] = fields[i+1]
	}
	return request, nil
}
