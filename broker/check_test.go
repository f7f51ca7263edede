package broker

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestBoundsAreChecked(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	job := Job{DefaultEntitlement, "j"}
	batch := func(f func(*Invocation)) error {
		v := Invocation{ID: "i"}
		f(&v)
		return Batch{Job: job, Invocations: []Invocation{v}}.Check()
	}
	many := func(n, payload int) error {
		b := Batch{Job: job}
		for range n {
			b.Invocations = append(b.Invocations, Invocation{ID: "i", Payload: make([]byte, payload)})
		}
		return b.Check()
	}
	hold := func(name, holder int, ttl time.Duration) error {
		return Hold{Name: long(name), Holder: long(holder), TTL: ttl}.Check()
	}
	want := func(f func(*Want)) error {
		w := Want{Worker: "w", Jobs: []Job{job}, Max: 1, TTL: time.Minute}
		f(&w)
		return w.Check()
	}
	for name, c := range map[string]struct{ err, want error }{
		"a batch":                      {batch(func(*Invocation) {}), nil},
		"no ID":                        {batch(func(v *Invocation) { v.ID = "" }), ErrInvalid},
		"the longest ID":               {InvocationID(long(MaxInvocationID)).Check(), nil},
		"an ID too long":               {InvocationID(long(MaxInvocationID + 1)).Check(), ErrInvalid},
		"an ID with a brace":           {InvocationID("a}").Check(), ErrInvalid},
		"the largest payload":          {batch(func(v *Invocation) { v.Payload = make([]byte, MaxPayload) }), nil},
		"a payload too large":          {batch(func(v *Invocation) { v.Payload = make([]byte, MaxPayload+1) }), ErrTooLarge},
		"priority 9":                   {batch(func(v *Invocation) { v.Priority = MaxPriority }), nil},
		"priority 10":                  {batch(func(v *Invocation) { v.Priority = MaxPriority + 1 }), ErrInvalid},
		"priority -1":                  {batch(func(v *Invocation) { v.Priority = -1 }), ErrInvalid},
		"an idempotency key too long":  {batch(func(v *Invocation) { v.Key = long(MaxIdempotencyKey + 1) }), ErrTooLarge},
		"an order too long":            {batch(func(v *Invocation) { v.Order = long(MaxIdempotencyKey + 1) }), ErrTooLarge},
		"a key that is no text":        {batch(func(v *Invocation) { v.Key = "\xff" }), ErrInvalid},
		"an order that is no text":     {batch(func(v *Invocation) { v.Order = "\xff" }), ErrInvalid},
		"a delay below zero":           {batch(func(v *Invocation) { v.Delay = -1 }), ErrInvalid},
		"a delay too long":             {batch(func(v *Invocation) { v.Delay = MaxDelay + 1 }), ErrInvalid},
		"too many attempts":            {batch(func(v *Invocation) { v.MaxAttempts = MaxAttempts + 1 }), ErrInvalid},
		"attempts below zero":          {batch(func(v *Invocation) { v.MaxAttempts = -1 }), ErrInvalid},
		"a result kept too short":      {batch(func(v *Invocation) { v.ResultTTL = MinResultTTL - 1 }), ErrInvalid},
		"a result kept too long":       {batch(func(v *Invocation) { v.ResultTTL = MaxResultTTL + 1 }), ErrInvalid},
		"a backoff below zero":         {batch(func(v *Invocation) { v.Backoff.First = -1 }), ErrInvalid},
		"a callback":                   {batch(func(v *Invocation) { v.Callback = &Callback{Document: make([]byte, MaxCallback)} }), nil},
		"a callback too large":         {batch(func(v *Invocation) { v.Callback = &Callback{Document: make([]byte, MaxCallback+1)} }), ErrTooLarge},
		"too many callback attempts":   {batch(func(v *Invocation) { v.Callback = &Callback{MaxAttempts: MaxAttempts + 1} }), ErrInvalid},
		"the largest batch":            {many(MaxBatch, 1), nil},
		"a batch of too many":          {many(MaxBatch+1, 1), ErrTooLarge},
		"a batch of just enough bytes": {many(MaxBatchBytes/MaxPayload, MaxPayload), nil},
		"a batch of too many bytes":    {many(MaxBatchBytes/MaxPayload+1, MaxPayload), ErrTooLarge},
		"a limit below zero":           {Batch{Job: job, Limit: -1}.Check(), ErrInvalid},
		"a limit too high":             {Batch{Job: job, Limit: MaxQueueLength + 1}.Check(), ErrInvalid},
		"a job of the longest name":    {Job{"e", long(MaxJobName)}.Check(), nil},
		"a job of a name too long":     {Job{"e", long(MaxJobName + 1)}.Check(), ErrInvalid},
		"a job without a name":         {Job{"e", ""}.Check(), ErrInvalid},
		"a job of no entitlement":      {Job{"", "j"}.Check(), ErrInvalid},
		"a job with a slash":           {Job{"e", "a/b"}.Check(), ErrInvalid},
		"a hold":                       {hold(MaxLeaseName, MaxLeaseName, MinLeaseTTL), nil},
		"a hold of no name":            {hold(0, 1, time.Minute), ErrInvalid},
		"a hold of a name too long":    {hold(MaxLeaseName+1, 1, time.Minute), ErrInvalid},
		"a hold without a holder":      {hold(1, 0, time.Minute), ErrInvalid},
		"a hold too short":             {hold(1, 1, MinLeaseTTL-1), ErrInvalid},
		"a hold too long":              {hold(1, 1, MaxLeaseTTL+1), ErrInvalid},
		"a want":                       {want(func(*Want) {}), nil},
		"a want of nothing":            {want(func(w *Want) { w.Max = 0 }), ErrInvalid},
		"a want of too many":           {want(func(w *Want) { w.Max = MaxBatch + 1 }), ErrInvalid},
		"a want of no lane":            {want(func(w *Want) { w.Lane = "x" }), ErrInvalid},
		"a want by nobody":             {want(func(w *Want) { w.Worker = "" }), ErrInvalid},
		"a want of a bad job":          {want(func(w *Want) { w.Jobs = []Job{{}} }), ErrInvalid},
		"a want of too many jobs":      {want(func(w *Want) { w.Jobs = make([]Job, MaxLeaseJobs+1) }), ErrTooLarge},
		"a want for too short":         {want(func(w *Want) { w.TTL = MinLeaseTTL - 1 }), ErrInvalid},
		"a result":                     {Result{Outcome: OutcomeDone, Payload: make([]byte, MaxResult)}.Check(), nil},
		"a result too large":           {Result{Outcome: OutcomeDone, Payload: make([]byte, MaxResult+1)}.Check(), ErrTooLarge},
		"a result without an outcome":  {Result{}.Check(), ErrInvalid},
		"a return too late":            {Return{Delay: MaxDelay + 1}.Check(), ErrInvalid},
		"a bucket of a name too long":  {CheckBucket(long(MaxBucketName + 1)), ErrInvalid},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
}

func TestDefaultsAreFilledInWithoutTouchingTheCallers(t *testing.T) {
	b := Batch{Invocations: []Invocation{{Callback: &Callback{}}, {MaxAttempts: 2, ResultTTL: time.Minute, Callback: &Callback{MaxAttempts: 3}}}}
	f := b.Filled()
	if f.Limit != DefaultQueueLength || f.Invocations[0].MaxAttempts != DefaultAttempts || f.Invocations[0].ResultTTL != DefaultResultTTL || f.Invocations[0].Callback.MaxAttempts != DefaultAttempts {
		t.Errorf("defaults are %+v", f)
	}
	if v := f.Invocations[1]; v.MaxAttempts != 2 || v.ResultTTL != time.Minute || v.Callback.MaxAttempts != 3 {
		t.Errorf("what was set became %+v", v)
	}
	if b.Invocations[0].MaxAttempts != 0 || b.Invocations[0].Callback.MaxAttempts != 0 {
		t.Errorf("the caller's became %+v", b)
	}
}

func TestADelayGrowsToItsBound(t *testing.T) {
	for _, c := range []struct {
		backoff Backoff
		attempt int
		spread  float64
		want    time.Duration
	}{
		{Backoff{}, 1, 0, time.Second / 2},
		{Backoff{}, 1, 0.5, 3 * time.Second / 4},
		{Backoff{}, 3, 0, 2 * time.Second},
		{Backoff{}, 100, 0, 150 * time.Second},
		{Backoff{First: time.Hour}, 9, 0, time.Hour / 2},
		{Backoff{First: time.Minute, Max: time.Second}, 2, 0, time.Second / 2},
		{Backoff{First: 3 * time.Second, Max: 10 * time.Second}, 3, 0, 5 * time.Second},
		{Backoff{First: MaxDelay, Max: MaxDelay}, 1 << 30, 0, MaxDelay / 2},
	} {
		if got := c.backoff.Delay(c.attempt, c.spread); got != c.want {
			t.Errorf("%+v: the delay is %s", c, got)
		}
	}
}

func TestAReasonIsCutBetweenCharacters(t *testing.T) {
	for in, want := range map[string]string{
		"short":                                 "short",
		strings.Repeat("x", MaxReason):          strings.Repeat("x", MaxReason),
		strings.Repeat("x", MaxReason+5):        strings.Repeat("x", MaxReason),
		strings.Repeat("x", MaxReason-1) + "é":  strings.Repeat("x", MaxReason-1),
		strings.Repeat("x", MaxReason-2) + "é":  strings.Repeat("x", MaxReason-2) + "é",
		strings.Repeat("x", MaxReason-3) + "😀.": strings.Repeat("x", MaxReason-3),
		"bad \xff byte":                         "bad ? byte",
	} {
		if got := CutReason(in); got != want {
			t.Errorf("%d bytes were cut to %d, want %d", len(in), len(got), len(want))
		}
	}
}

func FuzzCutReason(f *testing.F) {
	f.Add("x", 5000)
	f.Add("é\xff😀", 4000)
	f.Fuzz(func(t *testing.T, s string, n int) {
		long := strings.Repeat("y", max(0, min(n, 5000))) + s
		got := CutReason(long)
		if len(got) > MaxReason || !utf8.ValidString(got) || CutReason(got) != got {
			t.Errorf("%q was cut to %d bytes", s, len(got))
		}
	})
}
