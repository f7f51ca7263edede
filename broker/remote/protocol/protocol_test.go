package protocol

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// fill sets every field that can be set to something that is not zero, and each to another value.
func fill(v reflect.Value, next *int) {
	*next++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), next)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), next)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.UnixMicro(int64(1_700_000_000_000_000 + *next)).UTC()))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), next)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d \xff\x00", *next))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(1-2*(*next%2)) * int64(*next))
	case reflect.Uint64:
		v.SetUint(uint64(*next) << 40)
	case reflect.Uint8:
		v.SetUint(uint64(*next % 256))
	case reflect.Interface: // an error
		v.Set(reflect.ValueOf(broker.ErrFull))
	default:
		panic("a field of a kind that no message has: " + v.Type().String())
	}
}

// A field that somebody adds to a type of broker's and not to its description is missed here.
func TestEveryFieldIsReadBack(t *testing.T) {
	n := 0
	var call Call
	fill(reflect.ValueOf(&call).Elem(), &n)
	if got, err := UnmarshalCall(call.Marshal()); err != nil || !reflect.DeepEqual(*got, call) {
		t.Errorf("the call\n%+v is read as\n%+v, %v", call, got, err)
	}
	var reply Reply
	fill(reflect.ValueOf(&reply).Elem(), &n)
	if got, err := ReadFrame(bytes.NewReader(reply.Frame())); err != nil || !reflect.DeepEqual(*got, reply) {
		t.Errorf("the reply\n%+v is read as\n%+v, %v", reply, got, err)
	}
	for _, m := range []Call{{}, {Expect: new(uint64)}, {Leases: make([]broker.Lease, 2)}} {
		if got, err := UnmarshalCall(m.Marshal()); err != nil || !reflect.DeepEqual(*got, m) {
			t.Errorf("%+v is read as %+v, %v", m, got, err)
		}
	}
}

func TestAFieldOfANewerVersionIsSkipped(t *testing.T) {
	c := &coder{out: (&Call{Key: "k", Job: broker.Job{Name: "j"}}).Marshal()}
	putBytes(c, 900, "what is this")
	c.putNumber(901, 7)
	got, err := UnmarshalCall(c.out)
	if err != nil || got.Key != "k" || got.Job.Name != "j" {
		t.Errorf("the call is read as %+v, %v", got, err)
	}
}

func TestMessagesOfWrongFormAreRefused(t *testing.T) {
	whole := (&Call{Key: "key", Jobs: []broker.Job{{Name: "j"}}}).Marshal()
	for i := 1; i < len(whole); i++ {
		if _, err := UnmarshalCall(whole[:i]); err != nil && !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("cut after %d bytes, the error is %v", i, err)
		}
	}
	for name, b := range map[string][]byte{
		"a length over the end": {1<<3 | kindBytes, 200, 1, 'x'},
		"a number without end":  {1<<3 | kindNumber, 0xff},
		"a number too long":     append([]byte{1<<3 | kindNumber}, bytes.Repeat([]byte{0xff}, 11)...),
		"an unknown kind":       {1<<3 | 5, 0, 0, 0, 0},
		"text that is a number": {1<<3 | kindNumber, 7},
	} {
		if _, err := UnmarshalCall(b); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}

func TestBoundsOfMessages(t *testing.T) {
	many := &Call{Jobs: make([]broker.Job, broker.MaxLeaseJobs+1)}
	if _, err := UnmarshalCall(many.Marshal()); err != nil {
		t.Errorf("one job too many is for the backend to refuse: %v", err)
	}
	many.Jobs = append(many.Jobs, broker.Job{})
	if _, err := UnmarshalCall(many.Marshal()); !errors.Is(err, broker.ErrTooLarge) {
		t.Errorf("too many jobs: %v", err)
	}
	if _, err := UnmarshalCall((&Call{Names: make([]string, broker.MaxRenewals+2)}).Marshal()); !errors.Is(err, broker.ErrTooLarge) {
		t.Errorf("too many names: %v", err)
	}
	deep := node{Text: "x"}
	for range maxDepth + 1 {
		deep = node{Text: "x", Causes: []node{deep}}
	}
	c := &coder{}
	nested(c, 2, &deep, describeNode)
	if _, err := UnmarshalReply(c.out); !errors.Is(err, broker.ErrTooLarge) {
		t.Errorf("an error too deep: %v", err)
	}
	r, err := ReadFrame(bytes.NewReader((&Reply{Bytes: make([]byte, MaxMessage)}).Frame()))
	if err != nil || !r.End || !errors.Is(r.Err, broker.ErrTooLarge) {
		t.Errorf("an answer over the bound becomes %+v, %v", r, err)
	}
	over := binary.BigEndian.AppendUint32(nil, MaxMessage+1)
	if _, err := ReadFrame(io.MultiReader(bytes.NewReader(over), iotest.ErrReader(errors.New("it was read on")))); !errors.Is(err, broker.ErrTooLarge) {
		t.Errorf("a frame over the bound: %v", err)
	}
	if _, err := ReadMessage(bytes.NewReader(make([]byte, MaxMessage+1)), -1); !errors.Is(err, broker.ErrTooLarge) {
		t.Errorf("a call over the bound: %v", err)
	}
	if b, err := ReadMessage(bytes.NewReader(make([]byte, MaxMessage)), -1); err != nil || len(b) != MaxMessage {
		t.Errorf("a call at the bound: %d bytes, %v", len(b), err)
	}
}

func TestALengthThatIsOnlyClaimedTakesNoMemory(t *testing.T) {
	claim := append(binary.BigEndian.AppendUint32(nil, MaxMessage), "few bytes"...)
	res := testing.Benchmark(func(b *testing.B) {
		for range b.N {
			if _, err := ReadFrame(bytes.NewReader(claim)); !errors.Is(err, io.ErrUnexpectedEOF) {
				b.Fatal(err)
			}
		}
	})
	if n := res.AllocedBytesPerOp(); n > 64<<10 {
		t.Errorf("it took %d bytes", n)
	}
}

func TestErrorsAreFoundAgain(t *testing.T) {
	hold := broker.Hold{Name: "n", Holder: "h", Epoch: 7, TTL: time.Second, Until: time.UnixMicro(5).UTC()}
	conflict := &broker.ConflictError{Key: "k", Want: 1, Have: 2}
	held := &broker.HeldError{Hold: hold, Left: time.Minute}
	lost := &broker.LostError{Name: "a", Index: 3}
	for _, err := range []error{
		broker.ErrNotFound, context.Canceled, context.DeadlineExceeded,
		fmt.Errorf("get %q: %w", "k", broker.ErrNotFound), fmt.Errorf("x: %w: because %w", broker.ErrUnavailable, io.ErrClosedPipe),
		conflict, fmt.Errorf("commit: %w", conflict), held, fmt.Errorf("a: %w", fmt.Errorf("b: %w", held)),
		errors.Join(lost, &broker.LostError{Name: "b", Index: 5}), fmt.Errorf("renew: %w", errors.Join(lost, broker.ErrUnavailable)),
		errors.New("something else"), errors.Join(broker.ErrFull),
	} {
		r, rerr := ReadFrame(bytes.NewReader((&Reply{Err: err}).Frame()))
		if rerr != nil {
			t.Fatal(rerr)
		}
		got := r.Err
		if got.Error() != err.Error() {
			t.Errorf("%q reads %q", err, got)
		}
		for _, s := range sentinels[1:] {
			if errors.Is(got, s) != errors.Is(err, s) {
				t.Errorf("%q: %v is found: %t, and should be: %t", err, s, errors.Is(got, s), errors.Is(err, s))
			}
		}
		var c1, c2 *broker.ConflictError
		var h1, h2 *broker.HeldError
		var l1, l2 *broker.LostError
		if errors.As(err, &c1) != errors.As(got, &c2) || errors.As(err, &h1) != errors.As(got, &h2) || errors.As(err, &l1) != errors.As(got, &l2) ||
			!reflect.DeepEqual(c1, c2) || !reflect.DeepEqual(h1, h2) || !reflect.DeepEqual(l1, l2) {
			t.Errorf("%q: typed errors are %v, %v, %v; want %v, %v, %v", err, c2, h2, l2, c1, h1, l1)
		}
	}
}

func TestNumbersOfErrorsStay(t *testing.T) {
	if len(sentinels) != 23 || sentinels[1] != broker.ErrNotFound || sentinels[18] != broker.ErrAccess || sentinels[21] != context.DeadlineExceeded || sentinels[22] != broker.ErrNotWaiting {
		t.Error("a number was given to another error; add new ones at the end")
	}
	if slices.Contains(sentinels[1:], nil) {
		t.Error("a number stands for no error")
	}
}

func TestALongErrorIsCut(t *testing.T) {
	r, err := ReadFrame(bytes.NewReader((&Reply{Err: fmt.Errorf("%s: %w", strings.Repeat("é", maxText), broker.ErrFull)}).Frame()))
	if err != nil || !errors.Is(r.Err, broker.ErrFull) || len(r.Err.Error()) > maxText+8 {
		t.Errorf("the error has %d bytes, %v", len(r.Err.Error()), err)
	}
}

func TestTimeouts(t *testing.T) {
	if d, ok := Timeout("1500"); !ok || d != 1500*time.Millisecond {
		t.Errorf("1500 reads %s, %t", d, ok)
	}
	for _, bad := range []string{"", "-1", "1.5", "1s", "0x1", "1234567890123"} {
		if d, ok := Timeout(bad); ok {
			t.Errorf("%q reads %s", bad, d)
		}
	}
}

func FuzzCall(f *testing.F) {
	n := 0
	var call Call
	fill(reflect.ValueOf(&call).Elem(), &n)
	f.Add(call.Marshal())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := UnmarshalCall(b)
		if err != nil {
			return
		}
		again := m.Marshal()
		if len(again) > 64*len(b)+1024 {
			t.Errorf("%d bytes became %d", len(b), len(again))
		}
		if back, err := UnmarshalCall(again); err != nil || !reflect.DeepEqual(back, m) && !bytes.Equal(back.Marshal(), again) {
			t.Errorf("%+v is written and read as %+v, %v", m, back, err)
		}
	})
}

func FuzzReply(f *testing.F) {
	n := 0
	var reply Reply
	fill(reflect.ValueOf(&reply).Elem(), &n)
	f.Add(reply.Frame())
	f.Add((&Reply{Err: errors.Join(broker.ErrFull, &broker.LostError{Name: "x"})}).Frame())
	f.Add([]byte{0, 0, 0, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ReadFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		if m.Err != nil {
			_ = m.Err.Error()
		}
		// An error may be written in another way than it was read, but reads the same from then on.
		again := m.Frame()
		back, err := ReadFrame(bytes.NewReader(again))
		if err != nil || !bytes.Equal(back.Frame(), again) && m.Err == nil {
			t.Errorf("%+v is written and read as %+v, %v", m, back, err)
		}
	})
}
