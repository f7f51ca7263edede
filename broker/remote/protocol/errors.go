package protocol

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// sentinels are the errors that callers branch on, by their number on the wire.
var sentinels = []error{
	1: broker.ErrNotFound, 2: broker.ErrConflict, 3: broker.ErrCompacted, 4: broker.ErrHeld, 5: broker.ErrLeaseLost, 6: broker.ErrQueueFull,
	7: broker.ErrQuota, 8: broker.ErrTooLarge, 9: broker.ErrInvalid, 10: broker.ErrFull, 11: broker.ErrReadOnly, 12: broker.ErrCorrupt,
	13: broker.ErrInUse, 14: broker.ErrNewer, 15: broker.ErrIncarnation, 16: broker.ErrRewound, 17: broker.ErrUnavailable, 18: broker.ErrAccess,
	19: broker.ErrClosed, 20: context.Canceled, 21: context.DeadlineExceeded,
	22: broker.ErrNotWaiting,
}

// remoteError is an error that came over the wire: what it said, and what it wrapped.
type remoteError struct {
	text   string
	causes []error
}

func (e *remoteError) Error() string { return e.text }

// Unwrap answers what it wraps.
func (e *remoteError) Unwrap() []error { return e.causes }

// node is an error on the wire. errors.Is and errors.As find in it what they find in the error that it was made from, as far as it is broker's.
type node struct {
	Text     string
	Sentinel uint64
	Conflict *broker.ConflictError
	Held     *broker.HeldError
	Lost     *broker.LostError
	Causes   []node
	Joined   bool // the text is that of the causes, one a line
}

// maxCauses bounds what one error joins: a renewal of the largest batch may fail for each.
const maxCauses = broker.MaxRenewals

// maxText bounds the text of an error in bytes. What comes from a guest or a caller is quoted in it.
const maxText = 8 << 10

func describeNode(c *coder, n *node) {
	text(c, 1, &n.Text)
	unsigned(c, 2, &n.Sentinel)
	pointer(c, 3, &n.Conflict, func(c *coder, e *broker.ConflictError) {
		text(c, 1, &e.Key)
		unsigned(c, 2, &e.Want)
		unsigned(c, 3, &e.Have)
	})
	pointer(c, 4, &n.Held, func(c *coder, e *broker.HeldError) {
		nested(c, 1, &e.Hold, describeHold)
		signed(c, 2, &e.Left)
	})
	pointer(c, 5, &n.Lost, func(c *coder, e *broker.LostError) {
		text(c, 1, &e.Name)
		signed(c, 2, &e.Index)
	})
	list(c, 6, maxCauses, &n.Causes, describeNode)
	flag(c, 7, &n.Joined)
}

// failure is an error in a message.
func failure(c *coder, field uint64, err *error) {
	var n *node
	if !c.reading && *err != nil {
		made := nodeOf(*err, 0)
		n = &made
	}
	if pointer(c, field, &n, describeNode); c.reading && n != nil {
		*err = n.error()
	}
}

func nodeOf(err error, depth int) node {
	switch e := err.(type) {
	case *broker.ConflictError:
		return node{Conflict: e}
	case *broker.HeldError:
		return node{Held: e}
	case *broker.LostError:
		return node{Lost: e}
	}
	for i, s := range sentinels {
		if i > 0 && err == s {
			return node{Sentinel: uint64(i)}
		}
	}
	n := node{}
	var causes []error
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if cause := e.Unwrap(); cause != nil {
			causes = []error{cause}
		}
	case interface{ Unwrap() []error }:
		causes = e.Unwrap()
		if len(causes) > maxCauses {
			causes = causes[:maxCauses]
		}
	}
	if depth < maxDepth-4 {
		for _, cause := range causes {
			n.Causes = append(n.Causes, nodeOf(cause, depth+1))
		}
	}
	said := err.Error()
	if n.Joined = len(causes) > 1 && said == errors.Join(causes...).Error(); !n.Joined {
		n.Text = cut(said)
	}
	return n
}

func cut(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

func (n *node) error() error {
	switch {
	case n.Conflict != nil:
		return n.Conflict
	case n.Held != nil:
		return n.Held
	case n.Lost != nil:
		return n.Lost
	case n.Sentinel > 0 && n.Sentinel < uint64(len(sentinels)):
		return sentinels[n.Sentinel]
	}
	causes := make([]error, len(n.Causes))
	for i := range n.Causes {
		causes[i] = n.Causes[i].error()
	}
	if n.Joined && len(causes) > 0 {
		return errors.Join(causes...)
	}
	e := &remoteError{n.Text, causes}
	if e.text == "" {
		e.text = "an error of a kind that this version does not know"
	}
	return e
}

// Timeout reads HeaderTimeout.
func Timeout(s string) (d time.Duration, ok bool) {
	if s == "" || len(s) > 12 {
		return 0, false
	}
	n := int64(0)
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return time.Duration(n) * time.Millisecond, true
}
