package hostcall

import (
	"context"
	"time"
)

// An Interposer sees host calls before and after they take effect. One interposer may watch many sandboxes, and is
// then called from several goroutines; the calls of one sandbox come one at a time.
type Interposer interface {
	// Watches says whether the interposer wants to see a function. It is asked once, when a sandbox is made.
	Watches(*Func) bool
	// Before judges a call whose arguments are decoded and copied. It may change arguments with SetNum and SetText.
	// It must not keep the call.
	Before(*Call) Verdict
	// After sees every call it was asked about, once there are results, in reverse order; also those that were answered
	// or refused by pointer checks before anyone was asked. It may change results and the memory that the call wrote.
	After(*Call)
}

// Verdict is what an Interposer decides of a call.
type Verdict uint8

const (
	// Proceed lets the call go on to the next interposer, and to the function.
	Proceed Verdict = iota
	// Answer skips the function: the interposer has set the results itself (Fail, SetResult, the Put methods).
	Answer
	// Stop ends the guest. The interposer has said why with Call.Stop.
	Stop
)

// An Observer is an Interposer that also wants the events between host calls.
type Observer interface {
	Event(Event)
}

// EventKind is what an Event tells of.
type EventKind uint8

// The events of a sandbox's life.
const (
	EventStart EventKind = iota // an exported function is entered; Name is its name
	EventEnd                    // that function returned; Err says how, nil if it simply did
	EventGrow                   // memory grew, or could not; From and To are bytes, To is what was asked for
)

// Event is something that happened to a sandbox between its host calls.
type Event struct {
	Kind     EventKind
	Context  context.Context // of EventStart: what the function is called with
	Name     string
	From, To uint64
	Err      error
	Took     time.Duration // of EventEnd
}
