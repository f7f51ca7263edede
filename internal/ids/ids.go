// Package ids makes names that nobody made before.
package ids

import (
	"math/rand/v2"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

// Invocation names one invocation: a UUID of version 7 (RFC 9562), so that names sort by time.
type Invocation string

// NewInvocation makes a name for an invocation.
func NewInvocation() Invocation { return Invocation(New()) }

// ParseInvocation checks the form of an invocation's name.
func ParseInvocation(s string) (Invocation, error) {
	u, err := uuid.Parse(s)
	if err != nil {
		return "", err
	}
	return Invocation(u.String()), nil
}

// last is the time of the newest name, in units of 1/4096 ms.
var last atomic.Int64

// New makes a UUID of version 7. Those that one process makes sort in the order in which they were made. Names are no secrets: the
// randomness in them is that of math/rand, ChaCha8 under a seed of the system, which takes no system call and no lock.
func New() string {
	now := clock.System.Now()
	at := now.UnixMilli()<<12 | int64(now.Nanosecond()%1e6*4096/1e6) // RFC 9562, 6.2, method 3
	for {
		was := last.Load()
		next := max(at, was+1)
		if last.CompareAndSwap(was, next) {
			at = next
			break
		}
	}
	var u uuid.UUID
	ms, sub, random := at>>12, at&0xfff, rand.Uint64()
	for i := range 6 {
		u[i] = byte(ms >> (40 - 8*i))
	}
	u[6], u[7] = 0x70|byte(sub>>8), byte(sub)
	for i := range 8 {
		u[8+i] = byte(random >> (56 - 8*i))
	}
	u[8] = 0x80 | u[8]&0x3f
	return u.String()
}
