// Package envelope is how the queue's payloads are written: the requests and responses of queued invocations, and whom to tell
// of their end.
//
// Each is a line of JSON, which says its schema version, and after it the body, byte for byte. Readers keep to what they know
// and refuse a newer schema. Bytes of header values stand for the characters of the same number, so that each is kept.
package envelope

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/ripstop-vm/ripstop/broker"
)

// Schema is the version of what is written here.
const Schema = 1

// Bounds in bytes. A head and a body of these sizes fit into what a queue takes.
const (
	MaxHead = 64 << 10
	MaxBody = broker.MaxPayload - MaxHead // of a request and of a response: 960 KiB
)

// MaxHops bounds how many guests may lead to each other, by invoking and by enqueueing.
const MaxHops = 8

// What callers branch on.
var (
	// ErrTooLarge: the head or the body is over its bound.
	ErrTooLarge = errors.New("too large to be queued")
	// ErrInvalid: it cannot be read, or says what no request or response can.
	ErrInvalid = errors.New("no valid envelope")
)

// Request is a request that waits for a guest.
type Request struct {
	Method   string
	Target   string // path and query as the guest is to see them, beginning with '/'
	Header   http.Header
	Body     []byte
	Deadline time.Time // no attempt begins after it, and one under way is ended; zero: none
	Hops     int       // how many guests led to it: 0 for one that came from outside; at most MaxHops
}

// Response is what a guest answered.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Callback says where the end of an invocation is to be told.
type Callback struct {
	URL string
}

type requestHead struct {
	Schema   int         `json:"schema"`
	Method   string      `json:"method"`
	Target   string      `json:"target"`
	Header   http.Header `json:"header,omitempty"`
	Deadline time.Time   `json:"deadline,omitzero"`
	Hops     int         `json:"hops,omitempty"`
}

type responseHead struct {
	Schema int         `json:"schema"`
	Status int         `json:"status"`
	Header http.Header `json:"header,omitempty"`
}

type callbackHead struct {
	Schema int    `json:"schema"`
	URL    string `json:"url"`
}

// Encode writes a request. It fails with ErrTooLarge or ErrInvalid.
func (r Request) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return encode("request", requestHead{Schema, r.Method, r.Target, widened(r.Header), r.Deadline, r.Hops}, r.Body)
}

// DecodeRequest reads a request. The body is a part of b. It fails with ErrInvalid.
func DecodeRequest(b []byte) (Request, error) {
	var h requestHead
	body, err := decode("request", b, &h)
	if err != nil {
		return Request{}, err
	}
	r := Request{Method: h.Method, Target: h.Target, Body: body, Deadline: h.Deadline, Hops: h.Hops}
	if r.Header, err = narrowed(h.Header); err == nil {
		err = r.check()
	}
	return r, err
}

func (r Request) check() error {
	switch {
	case !httpguts.ValidHeaderFieldName(r.Method):
		return fmt.Errorf("the method %.40q: %w", r.Method, ErrInvalid)
	case !strings.HasPrefix(r.Target, "/") || !utf8.ValidString(r.Target):
		return fmt.Errorf("the path %.200q does not begin with a /: %w", r.Target, ErrInvalid)
	}
	if r.Hops < 0 || r.Hops > MaxHops {
		return fmt.Errorf("after %d others, of at most %d: %w", r.Hops, MaxHops, ErrInvalid)
	}
	return checkHeader(r.Header)
}

// Encode writes a response. It fails with ErrTooLarge or ErrInvalid.
func (r Response) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	return encode("response", responseHead{Schema, r.Status, widened(r.Header)}, r.Body)
}

// DecodeResponse reads a response. The body is a part of b. It fails with ErrInvalid.
func DecodeResponse(b []byte) (Response, error) {
	var h responseHead
	body, err := decode("response", b, &h)
	if err != nil {
		return Response{}, err
	}
	r := Response{Status: h.Status, Body: body}
	if r.Header, err = narrowed(h.Header); err == nil {
		err = r.check()
	}
	return r, err
}

func (r Response) check() error {
	if r.Status < 200 || r.Status > 599 {
		return fmt.Errorf("the status %d: %w", r.Status, ErrInvalid)
	}
	return checkHeader(r.Header)
}

// Encode writes a callback. It fails with ErrTooLarge.
func (c Callback) Encode() ([]byte, error) {
	return encode("callback", callbackHead{Schema, c.URL}, nil)
}

// DecodeCallback reads a callback. It fails with ErrInvalid.
func DecodeCallback(b []byte) (Callback, error) {
	var h callbackHead
	if _, err := decode("callback", b, &h); err != nil {
		return Callback{}, err
	}
	return Callback{URL: h.URL}, nil
}

func encode(what string, head any, body []byte) ([]byte, error) {
	b, err := json.Marshal(head)
	switch {
	case err != nil:
		return nil, fmt.Errorf("write %s: %w", what, err)
	case len(b)+1 > MaxHead:
		return nil, fmt.Errorf("the %s's head has %d bytes, of at most %d: %w", what, len(b)+1, MaxHead, ErrTooLarge)
	case len(body) > MaxBody:
		return nil, fmt.Errorf("the %s's body has %d bytes, of at most %d: %w", what, len(body), MaxBody, ErrTooLarge)
	}
	b = append(b, '\n')
	return append(b, body...), nil
}

func decode(what string, b []byte, head any) (body []byte, err error) {
	line, body, ok := bytes.Cut(b, []byte("\n"))
	if !ok || len(line)+1 > MaxHead {
		return nil, fmt.Errorf("read %s: there is no head: %w", what, ErrInvalid)
	}
	var version struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(line, &version); err != nil {
		return nil, fmt.Errorf("read %s: %w: %w", what, ErrInvalid, err)
	}
	if version.Schema < 1 || version.Schema > Schema {
		return nil, fmt.Errorf("read %s of schema %d: %w", what, version.Schema, broker.ErrNewer)
	}
	if err := json.Unmarshal(line, head); err != nil {
		return nil, fmt.Errorf("read %s: %w: %w", what, ErrInvalid, err)
	}
	return body, nil
}

func checkHeader(h http.Header) error {
	for name, vs := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("the header name %.80q: %w", name, ErrInvalid)
		}
		for _, v := range vs {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fmt.Errorf("the value of header %.80s: %w", name, ErrInvalid)
			}
		}
	}
	return nil
}

// widened makes a character of each byte, so that JSON keeps all of them.
func widened(h http.Header) http.Header {
	return mapped(h, func(v string) string {
		wide := make([]rune, len(v))
		for i := range len(v) {
			wide[i] = rune(v[i])
		}
		return string(wide)
	})
}

// narrowed undoes widened.
func narrowed(h http.Header) (http.Header, error) {
	var err error
	out := mapped(h, func(v string) string {
		narrow := make([]byte, 0, len(v))
		for _, r := range v {
			if r > 0xff {
				err = fmt.Errorf("read header: %q is no byte: %w", r, ErrInvalid)
				return ""
			}
			narrow = append(narrow, byte(r))
		}
		return string(narrow)
	})
	return out, err
}

func mapped(h http.Header, f func(string) string) http.Header {
	if len(h) == 0 {
		return http.Header{}
	}
	out := make(http.Header, len(h))
	for name, vs := range h {
		list := make([]string, len(vs))
		for i, v := range vs {
			list[i] = f(v)
		}
		out[http.CanonicalHeaderKey(name)] = append(out[http.CanonicalHeaderKey(name)], list...)
	}
	return out
}
