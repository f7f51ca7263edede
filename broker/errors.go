package broker

import (
	"errors"
	"fmt"
)

// Errors that callers branch on. Backends wrap them with what was being done, to what, and what to do about it.
var (
	// ErrNotFound: there is no such record, blob or key.
	ErrNotFound = errors.New("not found")
	// ErrConflict: a condition did not hold, so nothing changed. It is a *ConflictError, which says which.
	ErrConflict = errors.New("a condition does not hold")
	// ErrCompacted: the changes since the given revision are not known any more, or never were. List again.
	ErrCompacted = errors.New("changes since that revision are gone; list again")
	// ErrHeld: somebody holds the lease. It is a *HeldError, which says who.
	ErrHeld = errors.New("the lease is held")
	// ErrLeaseLost: the lease has ended; somebody else may have it. Nothing changed.
	ErrLeaseLost = errors.New("the lease is lost")
	// ErrNotWaiting: the invocation is leased, or has ended. Nothing changed.
	ErrNotWaiting = errors.New("the invocation does not wait")
	// ErrQueueFull: the job has too many unfinished invocations. Nothing changed.
	ErrQueueFull = errors.New("the queue is full")
	// ErrQuota: the bucket would grow past its quota. Nothing changed.
	ErrQuota = errors.New("bucket quota exceeded")
	// ErrTooLarge: a key, value or commit is over the contract's bound. Nothing changed.
	ErrTooLarge = errors.New("too large")
	// ErrInvalid: a key, bucket name or digest has no valid form. Nothing changed.
	ErrInvalid = errors.New("invalid")
	// ErrFull: the storage has no room left. Nothing changed.
	ErrFull = errors.New("storage is full")
	// ErrReadOnly: the storage refuses writes. Nothing changed.
	ErrReadOnly = errors.New("storage is read-only")
	// ErrCorrupt: what is stored is not what was written.
	ErrCorrupt = errors.New("storage is corrupt")
	// ErrInUse: another process holds the storage.
	ErrInUse = errors.New("storage is in use by another process")
	// ErrNewer: the storage was written by a newer version of the program.
	ErrNewer = errors.New("storage was written by a newer version")
	// ErrIncarnation: the server holds another store than before, or none any more. Nothing changed.
	ErrIncarnation = errors.New("the server holds another store")
	// ErrRewound: the store went back to an earlier revision than one seen before. Nothing changed.
	ErrRewound = errors.New("the store went back to an earlier revision")
	// ErrUnavailable: the server cannot be reached, or does not answer yet.
	ErrUnavailable = errors.New("the server is not available")
	// ErrAccess: the server does not accept the credentials, or does not allow them what is needed. Nothing changed.
	ErrAccess = errors.New("the server denies access")
	// ErrClosed: the backend was closed.
	ErrClosed = errors.New("broker is closed")
)

// ConflictError names a condition that did not hold. errors.Is finds ErrConflict in it.
type ConflictError struct {
	Key  string
	Want uint64 // the revision or version the condition asked for; 0: none
	Have uint64 // the one there is; 0: none
}

func (e *ConflictError) Error() string {
	switch {
	case e.Want == 0:
		return fmt.Sprintf("%s exists already, at revision %d", e.Key, e.Have)
	case e.Have == 0:
		return fmt.Sprintf("%s does not exist any more; wanted revision %d", e.Key, e.Want)
	}
	return fmt.Sprintf("%s is at revision %d, not %d", e.Key, e.Have, e.Want)
}

// Unwrap answers ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }
