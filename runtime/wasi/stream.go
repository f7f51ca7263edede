package wasi

// Stream is a non-blocking descriptor that an embedder adds to a guest with System.Insert: the body of a request, a
// fetch under way. Guests see it as a stream socket with FDFLAGS_NONBLOCK set, and wait for it with poll_oneoff.
//
// Read, Write, Ready, Shutdown and Close are called by the sandbox's goroutine and never wait. Errors are hostcall.Errno
// values; any other error is EIO to the guest.
type Stream interface {
	// Read takes what is there: EAGAIN if that is nothing yet, 0 and no error at the end.
	Read(p []byte) (int, error)
	// Write takes as much of p as there is room for: EAGAIN if that is nothing, EPIPE if nobody reads any more.
	Write(p []byte) (int, error)
	// Ready says what would not wait now.
	Ready() Readiness
	// Subscribe has wake called whenever Ready may answer more than before, from any goroutine. wake does not block.
	// It is called once, when the stream is inserted.
	Subscribe(wake func())
	// Shutdown ends the sending half.
	Shutdown() error
	// Close ends the stream. The System calls it once.
	Close() error
}

// Readiness is what a Stream can do without waiting.
type Readiness struct {
	Readable bool   // Read would give bytes, the end, or an error
	Bytes    uint64 // how many Read would give at least
	Writable bool   // Write would take bytes, or give an error
	Hangup   bool   // the other side is gone
}
