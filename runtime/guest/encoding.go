package guest

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// The encodings of the task ABI (sdk/ABI.md): numbers are little endian, a string is its length in 4 bytes and its
// bytes, headers are a count and as many pairs of strings. The guest's side of them is in package sdk; both are held
// against the same test vectors.

// Bounds of what guests send.
const (
	MaxHeaders     = 256      // fields of a header block
	MaxHeaderBytes = 64 << 10 // a header block, encoded or as CGI prints it
)

// How a request's body reaches a task.
const (
	bodyNone   = 0
	bodyInline = 1
	bodyStream = 2
)

// unknownLength stands for a body whose length is not known beforehand.
const unknownLength = ^uint64(0)

// taskRequest is a request as a task gets it.
type taskRequest struct {
	method, scheme, host, target, prefix, protocol, remote, invocation string

	timeLeft uint64 // nanoseconds until the invocation is ended; 0: no end known
	length   uint64 // of the body, in bytes
	header   http.Header
	body     byte // one of the body constants
	inline   []byte
	fd       uint32
}

func (r *taskRequest) append(b []byte) []byte {
	for _, s := range [...]string{r.method, r.scheme, r.host, r.target, r.prefix, r.protocol, r.remote, r.invocation} {
		b = appendString(b, s)
	}
	b = binary.LittleEndian.AppendUint64(b, r.timeLeft)
	b = binary.LittleEndian.AppendUint64(b, r.length)
	b = appendHeader(b, r.header)
	b = append(b, r.body)
	switch r.body {
	case bodyInline:
		b = appendString(b, r.inline)
	case bodyStream:
		b = binary.LittleEndian.AppendUint32(b, r.fd)
	}
	return b
}

func appendString[S string | []byte](b []byte, s S) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// appendHeader writes the fields sorted by name, so that the same request gives the same bytes.
func appendHeader(b []byte, h http.Header) []byte {
	n := 0
	names := make([]string, 0, 32) // on the stack, mostly
	for name, values := range h {
		names = append(names, name)
		n += len(values)
	}
	slices.Sort(names)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	for _, name := range names {
		for _, v := range h[name] {
			b = appendString(appendString(b, name), v)
		}
	}
	return b
}

// decoder takes fields off a guest's message. After a failure everything it answers is zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf(format, args...)
	}
	d.b = nil
}

func (d *decoder) uint32(what string) uint32 {
	if len(d.b) < 4 {
		d.fail("the message ends within %s", what)
		return 0
	}
	v := binary.LittleEndian.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

// bytes is a string without a copy.
func (d *decoder) bytes(what string) []byte {
	n := d.uint32(what)
	if uint64(n) > uint64(len(d.b)) {
		d.fail("%s is said to have %d bytes, but %d are left", what, n, len(d.b))
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// header reads a header block and checks its names and values.
func (d *decoder) header() http.Header {
	size := len(d.b)
	n := d.uint32("the number of header fields")
	if n > MaxHeaders {
		d.fail("%d header fields, at most %d are allowed", n, MaxHeaders)
		return nil
	}
	h := make(http.Header, n)
	single := make([]string, n) // most fields have one value
	for i := range n {
		name, value := d.bytes("a header field's name"), d.bytes("a header field's value")
		if d.err != nil {
			return nil
		}
		if size-len(d.b) > MaxHeaderBytes {
			d.fail("the header is longer than %d bytes", MaxHeaderBytes)
			return nil
		}
		if err := addField(h, string(name), string(value), single[i:i:i+1]); err != nil {
			d.fail("%w", err)
			return nil
		}
	}
	return h
}

// addField adds a field that a guest made up, if HTTP has room for it. The first value of a name goes into first, which may be nil.
func addField(h http.Header, name, value string, first []string) error {
	value = strings.Trim(value, " \t")
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("%s is no header field's name", quote(name))
	}
	if !httpguts.ValidHeaderFieldValue(value) {
		return fmt.Errorf("the value of header field %s holds characters that are not allowed", quote(name))
	}
	name = http.CanonicalHeaderKey(name)
	have, ok := h[name]
	if !ok {
		have = first
	}
	h[name] = append(have, value)
	return nil
}

// quote makes a guest's text fit for an error.
func quote(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// decodeHead reads a response's head: a status and a header block. rest is what follows.
func decodeHead(b []byte) (status int, h http.Header, rest []byte, err error) {
	d := decoder{b: b}
	status = int(d.uint32("the status"))
	h = d.header()
	if d.err != nil {
		return 0, nil, nil, d.err
	}
	if status < 200 || status > 599 {
		return 0, nil, nil, fmt.Errorf("status %d is not between 200 and 599", status)
	}
	return status, h, d.b, nil
}

// decodeResponse reads a whole response: a head and a body. The body is a view of b.
func decodeResponse(b []byte) (status int, h http.Header, body []byte, err error) {
	status, h, rest, err := decodeHead(b)
	if err != nil {
		return 0, nil, nil, err
	}
	d := decoder{b: rest}
	body = d.bytes("the body")
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes follow the body", len(d.b))
	}
	if d.err != nil {
		return 0, nil, nil, d.err
	}
	return status, h, body, nil
}

// decodeFields reads a header block that is a message of its own. An empty message is no fields.
func decodeFields(b []byte) (http.Header, error) {
	if len(b) == 0 {
		return http.Header{}, nil
	}
	d := decoder{b: b}
	h := d.header()
	if d.err == nil && len(d.b) > 0 {
		d.fail("%d bytes follow the header", len(d.b))
	}
	return h, d.err
}

// endsHere reports a field that belongs to one connection (RFC 9110, 7.6.1); name is in its canonical form.
func endsHere(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// dropHop removes fields that end at this connection, those that Connection names among them.
func dropHop(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for name := range h {
		if endsHere(name) {
			delete(h, name)
		}
	}
}

// withheld reports a field of a client's header that no guest sees as such.
func withheld(name string) bool {
	// The length goes beside the header; Proxy is never a field of HTTP, and CGI programs take it for HTTP_PROXY.
	return endsHere(name) || name == "Content-Length" || name == "Proxy"
}

// requestHeader is what a guest sees of a client's header, which may be the client's itself.
func requestHeader(r *http.Request) http.Header {
	same := true
	for name := range r.Header {
		same = same && !withheld(name)
	}
	if same {
		return r.Header
	}
	h := r.Header.Clone()
	dropHop(h)
	delete(h, "Content-Length")
	delete(h, "Proxy")
	return h
}
