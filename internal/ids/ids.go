// Package ids makes names that nobody made before.
package ids

import "github.com/google/uuid"

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

// New makes a UUID of version 7. Those that one process makes sort in the order in which they were made.
func New() string {
	return uuid.Must(uuid.NewV7()).String() // fails only when the system has no randomness, which crypto/rand ends the process for
}
