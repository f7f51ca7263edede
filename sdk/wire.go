package sdk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
)

// The encodings of ABI.md: numbers are little endian, a string is its length in 4 bytes and its bytes, headers are a
// count and as many pairs of strings.

// How a request's body reaches the guest.
const (
	bodyNone   = 0
	bodyInline = 1
	bodyStream = 2
)

const unknownLength = ^uint64(0)

// errMessage reports that the host sent something that is not in ABI.md.
var errMessage = errors.New("the host's message cannot be read")

type request struct {
	method, scheme, host, target, prefix, protocol, remote, invocation string

	timeLeft uint64 // nanoseconds; 0: no end known
	length   uint64 // of the body, unknownLength if it is not known
	header   http.Header
	body     byte
	inline   string
	fd       uint32
}

// reader takes fields off a message. What it gives are parts of one string: a copy for each field would be most of what reading costs.
type reader struct {
	s   string
	bad bool
}

func (r *reader) take(n uint64) string {
	if n > uint64(len(r.s)) {
		r.bad, r.s = true, ""
		return ""
	}
	v := r.s[:n]
	r.s = r.s[n:]
	return v
}

func (r *reader) uint32() uint32 {
	s := r.s
	if len(s) < 4 {
		r.bad, r.s = true, ""
		return 0
	}
	r.s = s[4:]
	return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
}

func (r *reader) uint64() uint64 {
	low := uint64(r.uint32())
	return low | uint64(r.uint32())<<32
}

func (r *reader) string() string { return r.take(uint64(r.uint32())) }

func (r *reader) header() http.Header {
	n := r.uint32()
	if uint64(n)*8 > uint64(len(r.s)) { // each field takes two lengths
		r.bad, r.s = true, ""
		return http.Header{}
	}
	h := make(http.Header, min(n, 64))
	values := make([]string, n) // as many as there are bytes for
	for i := uint32(0); i < n && !r.bad; i++ {
		name, value := r.string(), r.string()
		if r.bad {
			break
		}
		if !canonical(name) {
			name = http.CanonicalHeaderKey(name)
		}
		if have := h[name]; have != nil {
			h[name] = append(have, value)
		} else {
			values[i] = value
			h[name] = values[i : i+1 : i+1]
		}
	}
	return h
}

// canonical reports that a field's name is in its canonical form for sure, as a host of ours sends it. It spares requests the setting up of
// net/textproto.
func canonical(name string) bool {
	upper := true
	for i := range len(name) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z' && upper, 'a' <= c && c <= 'z' && !upper, '0' <= c && c <= '9':
			upper = false
		case c == '-':
			upper = true
		default:
			return false
		}
	}
	return true
}

// decodeRequest reads a request. What follows the fields that are known here is left alone: a later host may say more.
func decodeRequest(b []byte) (request, error) {
	r := reader{s: string(b)}
	q := request{
		method: r.string(), scheme: r.string(), host: r.string(), target: r.string(), prefix: r.string(), protocol: r.string(),
		remote: r.string(), invocation: r.string(),
	}
	q.timeLeft, q.length, q.header = r.uint64(), r.uint64(), r.header()
	if v := r.take(1); v != "" {
		q.body = v[0]
	}
	switch q.body {
	case bodyNone:
	case bodyInline:
		q.inline = r.string()
	case bodyStream:
		q.fd = r.uint32()
	default:
		r.bad = true
	}
	if r.bad {
		return request{}, errMessage
	}
	return q, nil
}

func appendString[S string | []byte](b []byte, s S) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// appendHeader writes the fields sorted by name.
func appendHeader(b []byte, h http.Header) []byte {
	n := 0
	names := make([]string, 0, 16) // on the stack, mostly
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

// appendHead writes the head of a response.
func appendHead(b []byte, status int, h http.Header) []byte {
	return appendHeader(binary.LittleEndian.AppendUint32(b, uint32(status)), h)
}

// maxAnswer bounds the head of an answer, in bytes.
const maxAnswer = 4 << 20

// readAnswer reads the head of a long call's answer: the fields after its errno. The payload follows in r.
func readAnswer(r io.Reader) ([]byte, error) {
	var prefix [8]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, unexpected(err)
	}
	n := binary.LittleEndian.Uint32(prefix[:])
	if n < 4 || n > maxAnswer {
		return nil, fmt.Errorf("%w: an answer of %d bytes", errMessage, n)
	}
	if e := Errno(binary.LittleEndian.Uint32(prefix[4:])); e != 0 {
		return nil, e
	}
	// Grown as bytes arrive, not by what the length claims.
	b, err := io.ReadAll(io.LimitReader(r, int64(n-4)))
	if err != nil {
		return nil, err
	}
	if len(b) < int(n-4) {
		return nil, io.ErrUnexpectedEOF
	}
	return b, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// decodeHead reads the head of a response.
func decodeHead(b []byte) (status int, h http.Header, err error) {
	r := reader{s: string(b)}
	status = int(r.uint32())
	h = r.header()
	if r.bad || status < 100 || status > 999 {
		return 0, nil, errMessage
	}
	return status, h, nil
}

// decodeItems reads the payload of a kv_list.
func decodeItems(b []byte) ([]Item, error) {
	r := reader{s: string(b)}
	n := r.uint32()
	if uint64(n)*20 > uint64(len(r.s)) {
		return nil, errMessage
	}
	items := make([]Item, 0, n)
	for range n {
		items = append(items, Item{Key: r.string(), Version: r.uint64(), Size: r.uint64()})
	}
	if r.bad {
		return nil, errMessage
	}
	return items, nil
}
