package sdk

import (
	"errors"
	"fmt"
)

// Errno is what the host answered to a call, in the numbering of WASI preview 1. errors.Is finds the Err values below.
type Errno uint32

// What calls fail with, among others.
const (
	ErrRefused    Errno = 14 // nobody listens at the other end
	ErrReset      Errno = 15 // the other end broke off
	ErrBusy       Errno = 10 // the queue is full, or the job enqueues too fast: it may work later
	ErrQuota      Errno = 19 // the bucket is full, or this invocation has enqueued as many as it may
	ErrUnreach    Errno = 23 // there is no way to the host
	ErrInvalid    Errno = 28 // an argument makes no sense
	ErrIO         Errno = 29 // something went wrong on the host
	ErrLoop       Errno = 32 // too many jobs have invoked or enqueued each other
	ErrTooMany    Errno = 33 // too many descriptors are open
	ErrTooLong    Errno = 35 // an argument or body is longer than allowed
	ErrNotFound   Errno = 44 // there is no such key, setting, secret or job
	ErrVersion    Errno = 72 // the key has another version
	ErrTimeout    Errno = 73 // it took too long
	ErrNotGranted Errno = 76 // the job's manifest does not grant it
	ErrStarting   Errno = 6  // not while the sandbox starts
	errNoBuffer   Errno = 42
)

var errnoTexts = map[Errno]string{
	ErrRefused: "connection refused", ErrReset: "connection reset", ErrQuota: "quota exceeded", ErrBusy: "busy: try again later", ErrLoop: "too many jobs led to each other", ErrUnreach: "host unreachable",
	ErrInvalid: "invalid argument", ErrIO: "input/output error", ErrTooMany: "too many open descriptors", ErrTooLong: "too long",
	ErrNotFound: "not found", ErrVersion: "version differs", ErrTimeout: "timed out", ErrNotGranted: "not granted to this job",
	ErrStarting: "not available while the sandbox starts", errNoBuffer: "no room",
	2: "denied by policy", 63: "denied by policy", 11: "canceled", 52: "not offered by this host", 65: "protocol error",
}

func (e Errno) Error() string {
	if t, ok := errnoTexts[e]; ok {
		return t
	}
	return fmt.Sprintf("errno %d", uint32(e))
}

// Timeout reports whether waiting longer could have helped, as net.Error does.
func (e Errno) Timeout() bool { return e == ErrTimeout }

// ErrNoHost reports that the program does not run in a sandbox of Ripstop.
var ErrNoHost = errors.New("no Ripstop host: this works in a task only")
