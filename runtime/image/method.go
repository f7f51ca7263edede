package image

import (
	"fmt"
	"time"
)

// Method is a way in which memory returns to its image.
type Method uint8

const (
	// Fastest is the fastest method that works here, found by trial.
	Fastest Method = iota
	// Scan asks the kernel which pages were written to (PAGEMAP_SCAN, Linux 6.7) and copies those back.
	Scan
	// Pagemap reads the same from /proc/self/pagemap, page by page, and copies those back.
	Pagemap
	// Discard has the kernel drop every private page (MADV_DONTNEED), so that the image shows again.
	Discard
	// Copy compares everything with the image and copies back what differs. It works everywhere.
	Copy
)

var methodNames = [...]string{Fastest: "fastest", Scan: "PAGEMAP_SCAN", Pagemap: "pagemap", Discard: "MADV_DONTNEED", Copy: "copy"}

func (m Method) String() string {
	if int(m) < len(methodNames) {
		return methodNames[m]
	}
	return fmt.Sprintf("method %d", uint8(m))
}

// Methods lists all there are.
func Methods() []Method { return []Method{Scan, Pagemap, Discard, Copy} }

// Trial is what came of trying a method on this machine.
type Trial struct {
	Method Method
	// Took is the best time of one round: a guest writes to 40 pages of an image of 2.5 MB, which then returns to it.
	Took time.Duration
	Err  error // why it does not work here; nil if it does
	// Chosen says that Fastest means this one.
	Chosen bool
}

// Probe tries every method on this machine. It takes some milliseconds.
func Probe() ([]Trial, error) {
	s, err := NewSpace(SpaceOptions{})
	if err != nil {
		return nil, err
	}
	return s.Trials(), s.Close()
}

// A DiscardError reports that a sandbox could not return to its image exactly. It has to be closed.
type DiscardError struct {
	Reason Reason
	Err    error // more about it; may be nil
}

func (e *DiscardError) Error() string {
	if e.Err == nil {
		return "sandbox discarded: " + string(e.Reason)
	}
	return fmt.Sprintf("sandbox discarded: %s: %v", e.Reason, e.Err)
}

func (e *DiscardError) Unwrap() error { return e.Err }

// Reason is why a sandbox was thrown away, in words that are fit for a metric.
type Reason string

// The reasons.
const (
	Ended     Reason = "ended"          // the engine had to end the instance, or it was closed
	Grown     Reason = "memory grown"   // and the engine cannot make it shorter
	Tables    Reason = "tables changed" // a table was written to or a segment dropped
	Stack     Reason = "stack grown"    // and the engine never makes it shorter
	NoReturn  Reason = "return failed"  // the operating system refused
	Hook      Reason = "hook failed"    // what the guest does after each return
	NoEntropy Reason = "no randomness"  // random state could not be renewed
	Surplus   Reason = "mappings"       // its part has more of them than it leaves to others
	// Descriptors says that the host's side could not be brought back.
	Descriptors Reason = "descriptors changed"
)
