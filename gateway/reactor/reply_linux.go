package reactor

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// maxBody is how long an answer's body may be that is kept until the handler returns, in bytes. A connection whose answers are longer is
// net/http's, which sends them as they come.
const maxBody = 16 << 10

// reply is the http.ResponseWriter of a plain request. It keeps the answer, which can be taken back; and once that is not short and whole, net/http's takes its place. As of
// net/http's, deadlines are set by any goroutine, the rest is done by one at a time. A header that was got before a status was written is left
// alone after that.
type reply struct {
	x      *exchange
	header http.Header
	after  http.Header // what Header gives once a status was written; nil: nobody has asked
	status int         // 0: none was written
	body   []byte
	// The length that the handler said the body has, once a status was written; one that is none is 0.
	room    uint64
	bounded bool
	err     error // of the handing over
	// Once that took place, which it does once:
	real http.ResponseWriter

	mu      sync.Mutex
	control *http.ResponseController // of real
	write   *time.Time               // the deadline that was set before that; nil: none was
}

func (w *reply) Header() http.Header {
	if w.real != nil {
		return w.real.Header()
	}
	if w.status == 0 {
		return w.header
	}
	if w.after == nil {
		w.after = w.header.Clone()
	}
	return w.after
}

// TakeBack forgets the answer, and its header, unless net/http's writer has it.
func (w *reply) TakeBack() bool {
	if w.real != nil || w.err != nil {
		return false
	}
	w.header, w.after = make(http.Header, 8), nil
	w.status, w.body, w.room, w.bounded = 0, nil, 0, false
	return true
}

func (w *reply) WriteHeader(status int) {
	switch {
	case w.real != nil:
		w.real.WriteHeader(status)
	case w.status != 0: // it is too late
	case status < 100 || status > 999:
		panic(fmt.Sprintf("the handler writes status %d", status))
	case status < 200:
		if w.becomeReal() == nil {
			w.real.WriteHeader(status)
		}
	default:
		w.status = status
		if v := w.header["Content-Length"]; len(v) == 1 {
			w.room, _ = strconv.ParseUint(v[0], 10, 63)
			w.bounded = true
		}
	}
}

func (w *reply) Write(p []byte) (int, error) {
	if w.real == nil {
		w.WriteHeader(http.StatusOK)
		if !bodyAllowed(w.status) {
			return 0, http.ErrBodyNotAllowed
		}
		if n := len(w.body) + len(p); n <= maxBody && !(w.bounded && uint64(n) > w.room) {
			w.body = append(w.body, p...)
			return len(p), nil
		}
	}
	if err := w.becomeReal(); err != nil {
		return 0, err
	}
	return w.real.Write(p)
}

// FlushError sends what there is, which takes net/http.
func (w *reply) FlushError() error {
	if err := w.becomeReal(); err != nil {
		return err
	}
	return w.control.Flush()
}

// SetReadDeadline does nothing: all of the request is there. What net/http reads once it has the connection is whether the client leaves.
func (w *reply) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline bounds what net/http writes, and the rest of an answer that the client does not take at once.
func (w *reply) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.control == nil {
		w.write = &t
		return nil
	}
	return w.control.SetWriteDeadline(t)
}

// deadline is what SetWriteDeadline has said; nil: nothing.
func (w *reply) deadline() *time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.write
}

// EnableFullDuplex does nothing: all of the request is there.
func (w *reply) EnableFullDuplex() error { return nil }

// becomeReal has net/http's writer take this one's place.
func (w *reply) becomeReal() error {
	if w.real != nil || w.err != nil {
		return w.err
	}
	w.x.Leave()
	real, err := w.x.adopt()
	if err != nil {
		w.err = err
		return err
	}
	maps.Copy(real.Header(), w.header)
	control := http.NewResponseController(real)
	w.mu.Lock()
	w.control = control
	if w.write != nil {
		_ = control.SetWriteDeadline(*w.write) // a connection of net/http's has deadlines
	}
	w.mu.Unlock()
	w.real = real
	if w.status != 0 {
		real.WriteHeader(w.status)
		maps.Copy(real.Header(), w.after) // trailers
	}
	if len(w.body) > 0 {
		_, w.err = real.Write(w.body)
	}
	return w.err
}

// bodyAllowed reports whether an answer of that status has a body (RFC 9110, sections 6.4.1 and 15).
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// encode appends the answer to a request of that method, as net/http would send it, to b. It is false if that takes net/http. last says that the
// connection is closed after it, date is that of the answer.
func (w *reply) encode(b []byte, method, date string, last bool) ([]byte, bool) {
	status := w.status
	if status == 0 {
		status = http.StatusOK
	}
	allowed := bodyAllowed(status)
	if status == http.StatusNotModified {
		return b, false
	}
	b = strconv.AppendInt(append(b, "HTTP/1.1 "...), int64(status), 10)
	b = append(b, ' ')
	if text := http.StatusText(status); text != "" {
		b = append(b, text...)
	} else {
		b = strconv.AppendInt(append(b, "status code "...), int64(status), 10)
	}
	b = append(b, "\r\n"...)
	length := false
	names := make([]string, 0, 16) // on the stack, mostly
	for name := range w.header {
		names = append(names, name)
	}
	slices.Sort(names) // as net/http does
	for _, name := range names {
		values := w.header[name]
		switch name {
		case "Connection", "Trailer", "Transfer-Encoding", "Upgrade":
			return b, false
		case "Content-Length":
			if length = true; !allowed || len(values) != 1 || !w.declared(values[0], method) {
				return b, false
			}
		}
		if strings.HasPrefix(name, http.TrailerPrefix) || !httpguts.ValidHeaderFieldName(name) {
			return b, false
		}
		for _, v := range values {
			if strings.ContainsAny(v, "\r\n") || strings.Trim(v, " \t") != v {
				return b, false
			}
			b = appendField(b, name, v)
		}
	}
	if _, typed := w.header["Content-Type"]; !typed && allowed && len(w.body) > 0 && w.header.Get("Content-Encoding") == "" {
		b = appendField(b, "Content-Type", http.DetectContentType(w.body))
	}
	if _, dated := w.header["Date"]; !dated {
		b = appendField(b, "Date", date)
	}
	if allowed && !length && (method != http.MethodHead || len(w.body) > 0) {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(w.body)), 10)
		b = append(b, "\r\n"...)
	}
	if last {
		b = appendField(b, "Connection", "close")
	}
	b = append(b, "\r\n"...)
	if method != http.MethodHead {
		b = append(b, w.body...)
	}
	return b, true
}

// declared reports whether the length that the handler says the body has is right. The answer to HEAD has that of one to GET.
func (w *reply) declared(length, method string) bool {
	n, err := strconv.ParseUint(length, 10, 63)
	return err == nil && (n == uint64(len(w.body)) || method == http.MethodHead && len(w.body) == 0)
}

func appendField(b []byte, name, value string) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}
