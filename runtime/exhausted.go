package runtime

import (
	"errors"
	"fmt"
)

// An ExhaustedError reports that a guest failed after its memory limit had kept it from growing, which is likely why: most programs
// end themselves then, each in its own way. It wraps how the guest ended, a *Trap or an *ExitError; the limit is not among what it
// wraps, as the guest could have gone on.
type ExhaustedError struct {
	Limit *LimitError // in bytes: what the guest last asked for, and what it may have
	Err   error
}

func (e *ExhaustedError) Error() string { return e.Err.Error() + "; " + e.Why() }

// Why is the likely reason in words.
func (e *ExhaustedError) Why() string {
	return fmt.Sprintf("the memory limit of %s kept it from growing to %s before that", mebibytes(e.Limit.Max), mebibytes(e.Limit.Used))
}

func (e *ExhaustedError) Unwrap() error { return e.Err }

// mebibytes writes a size of memory, which is whole pages of 64 KiB.
func mebibytes(n uint64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%.4g MiB", float64(n)/(1<<20))
}

// exhausted is how a call ended: err, with the memory limit that the guest met on the way if it failed by itself.
func (s *Sandbox) exhausted(err error) error {
	var (
		trap  *Trap
		exit  *ExitError
		limit *LimitError
	)
	failed := errors.As(err, &trap) || errors.As(err, &exit) && exit.Code != 0
	if !failed || !errors.As(s.door.TakeRefusedGrowth(), &limit) {
		return err
	}
	return &ExhaustedError{Limit: limit, Err: err}
}
