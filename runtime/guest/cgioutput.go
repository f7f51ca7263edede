package guest

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// cgiParser finds the header in what a CGI program prints (RFC 3875, 6). A header is lines of fields up to an empty line,
// at least one of them Content-Type, Location or Status. Output that does not begin with one is all body.
type cgiParser struct {
	buf   []byte
	line  int  // where the line begins that is not read yet
	cgi   bool // a field was seen that makes it a header
	done  bool // it is known what is header and what is body
	plain bool // there is no header
	end   int  // of the header, with the empty line
}

// write takes output until it is done, and answers what it did not take.
func (p *cgiParser) write(b []byte) (rest []byte) {
	for len(b) > 0 && !p.done {
		i := bytes.IndexByte(b, '\n')
		n := i + 1
		if i < 0 {
			n = len(b)
		}
		p.buf = append(p.buf, b[:n]...)
		b = b[n:]
		if i >= 0 {
			p.next()
		} else if len(p.buf) > MaxHeaderBytes {
			p.settle(true)
		}
	}
	return b
}

// next reads a line that is complete.
func (p *cgiParser) next() {
	line := trimEnd(p.buf[p.line:])
	p.line = len(p.buf)
	switch {
	case len(line) == 0:
		p.settle(!p.cgi)
	case len(p.buf) > MaxHeaderBytes:
		p.settle(true)
	default:
		name, _, ok := fieldOf(line)
		if !ok {
			p.settle(true)
			return
		}
		switch http.CanonicalHeaderKey(name) {
		case "Content-Type", "Location", "Status":
			p.cgi = true
		}
	}
}

// finish says that no more output comes.
func (p *cgiParser) finish() {
	if p.done {
		return
	}
	if p.line < len(p.buf) {
		if p.next(); p.done {
			return
		}
	}
	p.settle(!p.cgi)
}

func (p *cgiParser) settle(plain bool) {
	p.done, p.plain, p.end = true, plain, p.line
}

func trimEnd(line []byte) []byte {
	return bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
}

func fieldOf(line []byte) (name, value string, ok bool) {
	n, v, ok := strings.Cut(string(line), ":")
	if !ok || !httpguts.ValidHeaderFieldName(n) {
		return "", "", false
	}
	return n, strings.Trim(v, " \t"), true
}

// head answers the response's head, and the part of the body that was taken.
func (p *cgiParser) head() (status int, h http.Header, body []byte, err error) {
	if p.plain {
		return http.StatusOK, http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, p.buf, nil
	}
	h = http.Header{}
	fields := 0
	for line := range bytes.Lines(p.buf[:p.end]) {
		line = trimEnd(line)
		if len(line) == 0 {
			break
		}
		if fields++; fields > MaxHeaders {
			return 0, nil, nil, fmt.Errorf("more than %d header fields", MaxHeaders)
		}
		name, value, ok := fieldOf(line)
		if !ok {
			return 0, nil, nil, fmt.Errorf("%s is no header field", quote(string(line)))
		}
		if err := addField(h, name, value, nil); err != nil {
			return 0, nil, nil, err
		}
	}
	for _, name := range []string{"Content-Type", "Location", "Status"} {
		if len(h[name]) > 1 {
			return 0, nil, nil, fmt.Errorf("the field %s is there %d times", name, len(h[name]))
		}
	}
	status = http.StatusOK
	if h.Get("Location") != "" {
		status = http.StatusFound
	}
	if v, ok := h["Status"]; ok {
		digits, _, _ := strings.Cut(v[0], " ")
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || len(digits) != 3 || n < 200 || n > 599 {
			return 0, nil, nil, fmt.Errorf("the status %s is no number from 200 to 599", quote(v[0]))
		}
		status = int(n)
		delete(h, "Status")
	}
	return status, h, p.buf[p.end:], nil
}
