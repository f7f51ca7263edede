package sdk

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"runtime"
)

// rehearsals are what Rehearse was given.
var rehearsals []*http.Request

// Rehearse has the handler answer r before the first request, and throws the answer away. What that leaves behind, such as parsed templates
// and filled caches, becomes part of what sandboxes begin as, so that requests like r find the program warm. Call it from an init function. There
// is no invocation yet, so that secrets, fetches and the like fail. Bodies are left out.
func Rehearse(r *http.Request) { rehearsals = append(rehearsals, r) }

// nowhere is the host of a rehearsal.
type nowhere struct{}

func (nowhere) open(uint32) io.ReadWriteCloser              { return discarded{} }
func (nowhere) respond(head []byte) (io.WriteCloser, error) { return discarded{}, nil }

type discarded struct{}

func (discarded) Read([]byte) (int, error)    { return 0, io.EOF }
func (discarded) Write(p []byte) (int, error) { return len(p), nil }
func (discarded) Close() error                { return nil }

// rehearse readies the program for requests: the first one of a Go program sets up a good deal that later ones find there. As sandboxes return
// to what they were before it, each would be a first one. own is whether the handler may be asked for what was rehearsed.
func rehearse(h http.Handler, requests []*http.Request) error {
	const times = 2 // the second finds what the first has set up, and what a pool hands out again
	round := func() error {
		for range times {
			if _, err := serve(http.HandlerFunc(usual), encodeRequest(usualRequest), nowhere{}); err != nil {
				return err
			}
			for _, r := range requests {
				if _, err := serve(h, encodeRequest(r), nowhere{}); err != nil {
					return fmt.Errorf("rehearse %s %s: %w", r.Method, r.URL, err)
				}
			}
		}
		return nil
	}
	if err := round(); err != nil {
		return err
	}
	runtime.GC()   // leaves room in the heap, so that requests neither grow it nor collect
	return round() // the allocator's caches were emptied by the collector
}

// usualRequest is as a host sends them.
var usualRequest = func() *http.Request {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://127.0.0.1/rehearsal/?name=value", http.NoBody)
	if err != nil {
		panic(err) // it parses
	}
	for _, name := range []string{"Accept", "Accept-Encoding", "Accept-Language", "Traceparent", "User-Agent"} {
		r.Header.Set(name, "rehearsal")
	}
	return r
}()

// usual does what handlers do.
func usual(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	fmt.Fprintf(w, "%s %d %v\n", r.URL.Query().Get("name"), len(r.Header), true)
}

// encodeRequest makes the message of a request without a body.
func encodeRequest(r *http.Request) []byte {
	var b []byte
	for _, s := range []string{r.Method, "http", r.Host, r.URL.RequestURI(), "", "HTTP/1.1", "127.0.0.1:1", "rehearsal"} {
		b = appendString(b, s)
	}
	b = binary.LittleEndian.AppendUint64(b, 0) // no time is given
	b = binary.LittleEndian.AppendUint64(b, 0) // no body
	return append(appendHeader(b, r.Header), bodyNone)
}
