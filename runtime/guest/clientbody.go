package guest

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// clientBody is the body of a client's request, read by one goroutine while others may end that.
type clientBody struct {
	body    io.ReadCloser
	control *http.ResponseController

	mu   sync.Mutex // held while reading
	left int64      // how much more may come

	over  atomic.Bool // more came
	eof   atomic.Bool // there is nothing left to read
	ended atomic.Bool // nobody may begin to read
}

func (b *clientBody) begin(r *http.Request, control *http.ResponseController, most int64) {
	b.body, b.control, b.left = r.Body, control, most
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		b.body = http.NoBody
		b.eof.Store(true)
	}
}

// Read implements io.Reader. Errors are io.EOF or an errno.
func (b *clientBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended.Load() {
		return 0, hostcall.ECANCELED
	}
	if b.over.Load() {
		return 0, errTooLong
	}
	n, err := b.body.Read(p)
	if err == io.EOF {
		b.eof.Store(true)
	}
	if b.left -= int64(n); b.left < 0 {
		b.over.Store(true)
		return 0, errTooLong
	}
	if err != nil && err != io.EOF {
		err = errnoOr(err, hostcall.ECONNRESET)
	}
	return n, err
}

// interrupt has a read that is under way fail. Once all was read it leaves the connection alone: the server watches it
// for the client's leaving, and would take a failed read for that.
func (b *clientBody) interrupt() {
	if !b.eof.Load() {
		if err := b.control.SetReadDeadline(past); err != nil {
			_ = b.body.Close() // no connection, as in tests
		}
	}
}

// finish waits until nobody reads, and gives up what was not read: the server would wait for it, or in full duplex read
// it beside itself. The connection is of no further use then, unless all of it is there already.
func (b *clientBody) finish() {
	b.ended.Store(true)
	read := b.eof.Load()
	b.interrupt()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !read {
		_ = b.body.Close() // the server sees to the connection
		_ = b.control.SetReadDeadline(noDeadline)
	}
}

// moved is how much was read for the guest, in bytes, once nobody reads any more.
func (b *clientBody) moved(most int64) int64 { return max(most-b.left, 0) }
