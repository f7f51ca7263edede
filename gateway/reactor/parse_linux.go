package reactor

import (
	"bytes"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// maxFields is how many header fields a plain request has at most.
const maxFields = 64

// parse reads the request that b is into r, whose context is kept. It is false, and r of no use, unless the request is plain: all of b and
// nothing else, in HTTP/1.1 (RFC 9112) as every client writes it, about nothing that concerns the connection but its end. r.Body reads from b.
func parse(b []byte, r *http.Request) bool {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return false
	}
	head, body := string(b[:end+2]), b[end+4:]
	line, fields, _ := strings.Cut(head, "\r\n")
	method, line, _ := strings.Cut(line, " ")
	target, proto, _ := strings.Cut(line, " ")
	if !plainMethod(method) || !plainTarget(target) || proto != "HTTP/1.1" {
		return false
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return false
	}
	r.Method, r.URL, r.RequestURI = method, u, target
	r.Proto, r.ProtoMajor, r.ProtoMinor = proto, 1, 1
	if !parseFields(fields, r) || int64(len(body)) != r.ContentLength {
		return false
	}
	r.Body = http.NoBody
	if len(body) > 0 {
		r.Body = &content{left: body}
	}
	return true
}

// content is a body that is there. As net/http's does, it ends with its last bytes.
type content struct {
	left   []byte
	closed bool
}

func (c *content) Read(p []byte) (n int, err error) {
	if c.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	n = copy(p, c.left)
	if c.left = c.left[n:]; len(c.left) == 0 {
		err = io.EOF
	}
	return n, err
}

func (c *content) Close() error {
	c.closed = true
	return nil
}

func plainMethod(m string) bool {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return true
	}
	return false
}

// plainTarget reports a path, perhaps with a query, of visible ASCII.
func plainTarget(t string) bool {
	for i := range len(t) {
		if t[i] <= ' ' || t[i] >= 0x7f {
			return false
		}
	}
	return t != "" && t[0] == '/'
}

// parseFields reads header fields, each of which ends its line, and what they say of the request. It is false if they say anything that is not plain.
func parseFields(fields string, r *http.Request) bool {
	n := strings.Count(fields, "\n")
	if n > maxFields {
		return false
	}
	r.Header = make(http.Header, n)
	values := make([]string, n) // most fields have one
	hosts, lengths := 0, 0
	for fields != "" {
		var line string
		line, fields, _ = strings.Cut(fields, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !ok || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return false
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch name {
		case "Host":
			if hosts++; hosts > 1 || value == "" || !httpguts.ValidHostHeader(value) {
				return false
			}
			r.Host = value
			continue
		case "Content-Length":
			length, err := strconv.ParseUint(value, 10, 31)
			if lengths++; err != nil || lengths > 1 {
				return false
			}
			r.ContentLength = int64(length)
		case "Connection":
			switch {
			case strings.EqualFold(value, "close"):
				r.Close = true
			case !strings.EqualFold(value, "keep-alive"):
				return false
			}
		case "Expect", "Pragma", "Trailer", "Transfer-Encoding", "Upgrade":
			return false
		}
		if have := r.Header[name]; have != nil {
			r.Header[name] = append(have, value)
			continue
		}
		values[0] = value
		r.Header[name] = values[:1:1]
		values = values[1:]
	}
	return hosts == 1
}
