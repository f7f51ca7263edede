// Package virtual gives a guest another time and other randomness than the host's, as an interposer over WASI's clocks and
// random_get.
//
// Realtime is offset, or stands still. Monotonic time goes on as it does: programs wait by it, and would wait for ever.
// Times of files are those of the host. Randomness is a sequence that follows from a seed.
package virtual

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Options says what is virtual. The zero value changes nothing.
type Options struct {
	Offset time.Duration // added to realtime
	Frozen time.Time     // realtime stands still here; the zero time: it does not
	Seed   *uint64       // of randomness; nil means the host's own
}

// Virtual is the interposer. One belongs to one sandbox, as its randomness goes on from call to call.
type Virtual struct {
	opts Options
	rand *rand.ChaCha8
}

var _ hostcall.Interposer = (*Virtual)(nil)

// New makes an interposer for one sandbox. The same seed gives the same randomness.
func New(opts Options) *Virtual {
	v := &Virtual{opts: opts}
	if opts.Seed != nil {
		v.rand = rand.NewChaCha8(sha256.Sum256(binary.LittleEndian.AppendUint64([]byte("ripstop random seed "), *opts.Seed)))
	}
	return v
}

// Active reports whether anything is virtual, so that an interposer is worth its while.
func (o Options) Active() bool { return o.Offset != 0 || !o.Frozen.IsZero() || o.Seed != nil }

// Layout of a subscription (witx: subscription), and the clock that is virtual (witx: clockid).
const (
	subscriptionSize = 48
	subKind          = 8
	subClock         = 16
	subTimeout       = 24
	subFlags         = 40
	kindClock        = 0
	flagAbsolute     = 1
	realtime         = 0
)

// Watches reports whether f is about what is virtual.
func (v *Virtual) Watches(f *hostcall.Func) bool {
	clock := v.opts.Offset != 0 || !v.opts.Frozen.IsZero()
	switch f.Name {
	case "clock_time_get":
		return clock && f.Arg("id") >= 0 && f.Arg("time") >= 0
	case "clock_res_get":
		return clock && f.Arg("id") >= 0 && f.Arg("resolution") >= 0
	case "poll_oneoff":
		return clock && f.Arg("in") >= 0
	case "random_get":
		return v.rand != nil && f.Arg("buf") >= 0
	}
	return false
}

// Before answers for randomness, and turns the guest's times into the host's.
func (v *Virtual) Before(c *hostcall.Call) hostcall.Verdict {
	switch c.Func.Name {
	case "random_get":
		buf := c.Value(c.Func.Arg("buf"))
		_, _ = v.rand.Read(buf.Data) // ChaCha8 never fails
		c.Wrote(buf.Ptr, uint32(len(buf.Data)))
		c.Fail(hostcall.Success)
		return hostcall.Answer
	case "poll_oneoff":
		v.deadlines(c, c.Func.Arg("in"))
	}
	return hostcall.Proceed
}

// deadlines rewrites subscriptions that wait for a realtime. While time stands still, none would ever come: they wait for
// as long as it is from now until then.
func (v *Virtual) deadlines(c *hostcall.Call, arg int) {
	var changed []byte
	in := c.Text(arg)
	le := binary.LittleEndian
	for at := 0; at+subscriptionSize <= len(in); at += subscriptionSize {
		s := in[at : at+subscriptionSize]
		if s[subKind] != kindClock || le.Uint32(s[subClock:]) != realtime || le.Uint16(s[subFlags:]) != flagAbsolute {
			continue
		}
		if changed == nil {
			changed = append([]byte(nil), in...)
		}
		s = changed[at : at+subscriptionSize]
		timeout := le.Uint64(s[subTimeout:])
		if v.opts.Frozen.IsZero() {
			timeout = shift(timeout, -v.opts.Offset)
		} else {
			le.PutUint16(s[subFlags:], 0)
			timeout -= min(timeout, nanoseconds(v.opts.Frozen))
		}
		le.PutUint64(s[subTimeout:], timeout)
	}
	if changed != nil {
		c.SetText(arg, changed)
	}
}

// After turns the host's times into the guest's.
func (v *Virtual) After(c *hostcall.Call) {
	if c.Answered() || c.Errno() != hostcall.Success {
		return
	}
	switch c.Func.Name {
	case "clock_time_get":
		if c.Uint32(c.Func.Arg("id")) != realtime {
			return
		}
		out := c.Func.Arg("time")
		if v.opts.Frozen.IsZero() {
			c.PutNum(out, shift(c.GetNum(out), v.opts.Offset))
		} else {
			c.PutNum(out, nanoseconds(v.opts.Frozen))
		}
	case "clock_res_get":
		if c.Uint32(c.Func.Arg("id")) == realtime {
			c.PutNum(c.Func.Arg("resolution"), 1) // whatever the host's: a virtual clock is the same everywhere
		}
	}
}

// shift moves a time, and stays within what a timestamp can say.
func shift(t uint64, by time.Duration) uint64 {
	if by < 0 {
		back := uint64(-(by + 1)) + 1 // also of the least duration, which has no opposite
		return t - min(t, back)
	}
	if t > math.MaxUint64-uint64(by) {
		return math.MaxUint64
	}
	return t + uint64(by)
}

// nanoseconds is a time as WASI's timestamp, which knows nothing before 1970.
func nanoseconds(t time.Time) uint64 {
	if t.Unix() < 0 {
		return 0
	}
	if t.Unix() >= math.MaxInt64/int64(time.Second) {
		return math.MaxInt64
	}
	return uint64(t.UnixNano())
}
