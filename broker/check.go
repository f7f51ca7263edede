package broker

import (
	"cmp"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// What every backend checks before it does anything is here, so that all refuse the same with the same words.

// Check checks a commit's form and bounds. It fails with ErrTooLarge or ErrInvalid.
func (c Commit) Check() error {
	if n := len(c.Conditions) + len(c.Writes); n > MaxCommitItems {
		return tooLarge("a commit of %d conditions and writes (at most %d)", n, MaxCommitItems)
	}
	size := 0
	for _, q := range c.Conditions {
		if err := CheckKey(q.Key); err != nil {
			return fmt.Errorf("condition: %w", err)
		}
		size += len(q.Key)
	}
	seen := make(map[string]bool, len(c.Writes))
	for _, w := range c.Writes {
		if err := cmp.Or(CheckKey(w.Key), CheckValue(w.Key, w.Value)); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if seen[w.Key] {
			return invalid("write: %.200q is written twice", w.Key)
		}
		seen[w.Key] = true
		size += len(w.Key) + len(w.Value)
	}
	if size > MaxCommitBytes {
		return tooLarge("a commit of %d bytes (at most %d)", size, MaxCommitBytes)
	}
	return nil
}

// CheckKey checks a record's or an item's key. It fails with ErrTooLarge or ErrInvalid.
func CheckKey(key string) error {
	switch {
	case key == "":
		return invalid("an empty key")
	case len(key) > MaxKey:
		return tooLarge("a key of %d bytes (at most %d)", len(key), MaxKey)
	}
	return nil
}

// CheckValue checks the value of a record or an item. It fails with ErrTooLarge.
func CheckValue(key string, value []byte) error {
	if len(value) > MaxValue {
		return tooLarge("a value of %d bytes for %.200q (at most %d)", len(value), key, MaxValue)
	}
	return nil
}

// CheckBucket checks a bucket's name. It fails with ErrInvalid.
func CheckBucket(bucket string) error {
	if bucket == "" || len(bucket) > MaxBucketName {
		return invalid("a bucket name of %d bytes (1 to %d)", len(bucket), MaxBucketName)
	}
	return nil
}

// Check checks what Acquire is asked for. It fails with ErrInvalid.
func (h Hold) Check() error {
	switch {
	case h.Name == "" || len(h.Name) > MaxLeaseName:
		return invalid("a lease's name of %d bytes (1 to %d)", len(h.Name), MaxLeaseName)
	case h.Holder == "" || len(h.Holder) > MaxLeaseName:
		return invalid("a holder's name of %d bytes (1 to %d)", len(h.Holder), MaxLeaseName)
	}
	return checkTTL(h.TTL)
}

// CheckRenewals checks what Renew is asked for. It fails with ErrTooLarge or ErrInvalid.
func CheckRenewals(holds []Hold) error {
	if len(holds) > MaxRenewals {
		return tooLarge("%d leases (at most %d)", len(holds), MaxRenewals)
	}
	for _, h := range holds {
		if err := h.Check(); err != nil {
			return err
		}
	}
	return nil
}

// CheckNames checks what Holders is asked for. It fails with ErrTooLarge or ErrInvalid.
func CheckNames(names []string) error {
	if len(names) > MaxRenewals {
		return tooLarge("%d leases (at most %d)", len(names), MaxRenewals)
	}
	for _, name := range names {
		if err := (Hold{Name: name, Holder: name, TTL: MinLeaseTTL}).Check(); err != nil {
			return err
		}
	}
	return nil
}

// CheckExtensions checks what Extend is asked for. It fails with ErrTooLarge or ErrInvalid.
func CheckExtensions(ls []Lease) error {
	if len(ls) > MaxBatch {
		return tooLarge("%d leases (at most %d)", len(ls), MaxBatch)
	}
	for _, l := range ls {
		if err := l.Check(); err != nil {
			return err
		}
	}
	return nil
}

// Check checks a lease's form. It fails with ErrInvalid.
func (l Lease) Check() error {
	if l.Lane != LaneRun && l.Lane != LaneCallback {
		return invalid("the lane %.80q", string(l.Lane))
	}
	return cmp.Or(l.Job.Check(), l.ID.Check(), checkTTL(l.TTL))
}

func checkTTL(ttl time.Duration) error {
	if ttl < MinLeaseTTL || ttl > MaxLeaseTTL {
		return invalid("a lease of %s (%s to %s)", ttl, MinLeaseTTL, MaxLeaseTTL)
	}
	return nil
}

// Check checks both names. It fails with ErrInvalid.
func (j Job) Check() error {
	for _, name := range []string{j.Entitlement, j.Name} {
		if name == "" || len(name) > MaxJobName {
			return invalid("the job %.200q: a name of %d bytes (1 to %d)", j.String(), len(name), MaxJobName)
		}
		for _, c := range []byte(name) {
			if !nameByte(c) && c != '.' {
				return invalid("the job %.200q: a byte %q in its name", j.String(), c)
			}
		}
	}
	return nil
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// Check checks the form. It fails with ErrInvalid.
func (id InvocationID) Check() error {
	if id == "" || len(id) > MaxInvocationID {
		return invalid("an invocation's ID of %d bytes (1 to %d)", len(id), MaxInvocationID)
	}
	for _, c := range []byte(id) {
		if !nameByte(c) {
			return invalid("the invocation's ID %q: a byte %q", string(id), c)
		}
	}
	return nil
}

// Check checks a batch's forms and bounds. It fails with ErrTooLarge or ErrInvalid.
func (b Batch) Check() error {
	if err := b.Job.Check(); err != nil {
		return err
	}
	if b.Limit < 0 || b.Limit > MaxQueueLength {
		return invalid("a limit of %d invocations (0 to %d)", b.Limit, MaxQueueLength)
	}
	if n := len(b.Invocations); n > MaxBatch {
		return tooLarge("a batch of %d invocations (at most %d)", n, MaxBatch)
	}
	size := 0
	for _, v := range b.Invocations {
		if err := v.check(); err != nil {
			return fmt.Errorf("invocation %.80s: %w", v.ID, err)
		}
		size += len(v.Payload)
		if v.Callback != nil {
			size += len(v.Callback.Document)
		}
	}
	if size > MaxBatchBytes {
		return tooLarge("a batch of %d bytes (at most %d)", size, MaxBatchBytes)
	}
	return nil
}

func (v Invocation) check() error {
	if err := v.ID.Check(); err != nil {
		return err
	}
	switch {
	case len(v.Payload) > MaxPayload:
		return tooLarge("a payload of %d bytes (at most %d)", len(v.Payload), MaxPayload)
	case v.Priority < 0 || v.Priority > MaxPriority:
		return invalid("a priority of %d (0 to %d)", v.Priority, MaxPriority)
	case len(v.Key) > MaxIdempotencyKey:
		return tooLarge("an idempotency key of %d bytes (at most %d)", len(v.Key), MaxIdempotencyKey)
	case len(v.Order) > MaxIdempotencyKey:
		return tooLarge("an order of %d bytes (at most %d)", len(v.Order), MaxIdempotencyKey)
	case !utf8.ValidString(v.Key) || !utf8.ValidString(v.Order):
		return invalid("an idempotency key or an order that is not UTF-8")
	case v.Delay < 0 || v.Delay > MaxDelay:
		return invalid("a delay of %s (0 to %s)", v.Delay, MaxDelay)
	case v.MaxAttempts < 0 || v.MaxAttempts > MaxAttempts:
		return invalid("%d attempts (0 to %d)", v.MaxAttempts, MaxAttempts)
	case v.ResultTTL != 0 && (v.ResultTTL < MinResultTTL || v.ResultTTL > MaxResultTTL):
		return invalid("results kept for %s (%s to %s)", v.ResultTTL, MinResultTTL, MaxResultTTL)
	case v.Backoff.First < 0 || v.Backoff.First > MaxDelay || v.Backoff.Max < 0 || v.Backoff.Max > MaxDelay:
		return invalid("a backoff of %s to %s (0 to %s)", v.Backoff.First, v.Backoff.Max, MaxDelay)
	case v.Callback == nil:
		return nil
	case len(v.Callback.Document) > MaxCallback:
		return tooLarge("a callback of %d bytes (at most %d)", len(v.Callback.Document), MaxCallback)
	case v.Callback.MaxAttempts < 0 || v.Callback.MaxAttempts > MaxAttempts:
		return invalid("%d attempts of a callback (0 to %d)", v.Callback.MaxAttempts, MaxAttempts)
	}
	return nil
}

// Filled is the batch with defaults in place of zero values. What the slices hold is shared.
func (b Batch) Filled() Batch {
	b.Limit = cmp.Or(b.Limit, DefaultQueueLength)
	filled := make([]Invocation, len(b.Invocations))
	for i, v := range b.Invocations {
		v.MaxAttempts = cmp.Or(v.MaxAttempts, DefaultAttempts)
		v.ResultTTL = cmp.Or(v.ResultTTL, DefaultResultTTL)
		if v.Callback != nil {
			c := *v.Callback
			c.MaxAttempts = cmp.Or(c.MaxAttempts, DefaultAttempts)
			v.Callback = &c
		}
		filled[i] = v
	}
	b.Invocations = filled
	return b
}

// Check checks what Lease is asked for. It fails with ErrTooLarge or ErrInvalid.
func (w Want) Check() error {
	switch {
	case w.Worker == "" || len(w.Worker) > MaxLeaseName:
		return invalid("a worker's name of %d bytes (1 to %d)", len(w.Worker), MaxLeaseName)
	case w.Lane != "" && w.Lane != LaneRun && w.Lane != LaneCallback:
		return invalid("the lane %.80q", string(w.Lane))
	case w.Max < 1 || w.Max > MaxBatch:
		return invalid("%d leases (1 to %d)", w.Max, MaxBatch)
	}
	return cmp.Or(checkTTL(w.TTL), CheckJobs(w.Jobs))
}

// CheckJobs checks the jobs of one call. It fails with ErrTooLarge or ErrInvalid.
func CheckJobs(jobs []Job) error {
	if len(jobs) > MaxLeaseJobs {
		return tooLarge("%d jobs (at most %d)", len(jobs), MaxLeaseJobs)
	}
	for _, j := range jobs {
		if err := j.Check(); err != nil {
			return err
		}
	}
	return nil
}

// Check checks a result's form and bounds. It fails with ErrTooLarge or ErrInvalid.
func (r Result) Check() error {
	switch {
	case r.Outcome != OutcomeDone && r.Outcome != OutcomeDead:
		return invalid("the outcome %.80q", string(r.Outcome))
	case len(r.Payload) > MaxResult:
		return tooLarge("a result of %d bytes (at most %d)", len(r.Payload), MaxResult)
	}
	return nil
}

// Check checks how an invocation is given back. It fails with ErrInvalid.
func (r Return) Check() error {
	if r.Delay < 0 || r.Delay > MaxDelay {
		return invalid("a delay of %s (0 to %s)", r.Delay, MaxDelay)
	}
	return nil
}

// CutReason cuts a reason to MaxReason bytes, between characters, and makes it valid UTF-8.
func CutReason(s string) string {
	if len(s) > MaxReason {
		s = s[:MaxReason]
		for i := 1; i < utf8.UTFMax && i < len(s); i++ {
			if c := s[len(s)-i]; utf8.RuneStart(c) {
				if !utf8.FullRuneInString(s[len(s)-i:]) {
					s = s[:len(s)-i]
				}
				break
			}
		}
	}
	return strings.ToValidUTF8(s, "?")
}

func tooLarge(what string, args ...any) error {
	return fmt.Errorf(what+": %w", append(args, ErrTooLarge)...)
}

func invalid(what string, args ...any) error {
	return fmt.Errorf(what+": %w", append(args, ErrInvalid)...)
}
