package hostcall_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	. "github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// memory is a guest's memory without a guest.
type memory []byte

func (m memory) Bytes() []byte { return m }

// errLeave is what the door leaves a guest with.
var errLeave = errors.New("leave the guest")

// rig is a door, and what stands in for the engine around it.
type rig struct {
	t    testing.TB
	door *Door
	mem  memory
}

func newRig(t testing.TB, lib *Library, state any, ips ...Interposer) *rig {
	t.Helper()
	table, err := NewTable(lib)
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDoor(table, []Binding{{lib, state}}, ips)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t, d, make(memory, 4096)}
	d.Attach(&r.mem, errLeave)
	return r
}

// call calls function n as an engine does, and answers what the engine's caller would see.
func (r *rig) call(n int, params ...uint64) (results []uint64, err error) {
	mark := r.door.Enter(context.Background())
	defer func() {
		if p := recover(); p != nil {
			e, ok := p.(error)
			if !ok {
				e = fmt.Errorf("engine caught: %v", p)
			}
			err = r.door.Leave(mark, e)
			return
		}
		err = r.door.Leave(mark, nil)
	}()
	results = append(params, make([]uint64, MaxResults)...)
	r.door.Dispatch(n, results)
	return results, nil
}

// step is an interposer that writes down when it is asked.
type step struct {
	name   string
	log    *[]string
	before func(*Call) Verdict
	after  func(*Call)
}

func (s *step) Watches(f *Func) bool { return f.Name != "unwatched" }
func (s *step) Before(c *Call) Verdict {
	*s.log = append(*s.log, s.name+" before")
	if s.before != nil {
		return s.before(c)
	}
	return Proceed
}
func (s *step) After(c *Call) {
	*s.log = append(*s.log, fmt.Sprintf("%s after %v", s.name, c.Errno()))
	if s.after != nil {
		s.after(c)
	}
}
func (s *step) Event(e Event) { *s.log = append(*s.log, s.name+" "+e.Name) }

func failing(name string, call func(*Call), args ...Arg) Func {
	f := Func{Module: "m", Name: name, Fails: true, Results: []ValueType{I32}, Args: args, Call: call}
	n := 0
	for i := range args {
		a := &f.Args[i]
		n = max(n, a.Param+1, a.Count+1)
		if a.Count == 0 && a.Kind >= Path && a.Kind <= Vectors {
			n = max(n, a.Param+2)
		}
	}
	for range n {
		f.Params = append(f.Params, I32)
	}
	return f
}

func TestCallsPassInterposersInOrderAndComeBackInReverse(t *testing.T) {
	for name, c := range map[string]struct {
		first, second func(*Call) Verdict
		want          string
	}{
		"all proceed": {nil, nil, "a before, b before, the function, b after ESUCCESS, a after ESUCCESS"},
		"the second answers": {nil, func(c *Call) Verdict { c.Fail(EIO); return Answer },
			"a before, b before, b after EIO, a after EIO"},
		"the first answers": {func(c *Call) Verdict { c.Fail(EIO); return Answer }, nil,
			"a before, a after EIO"},
		"the second stops": {nil, func(c *Call) Verdict { c.Stop(errors.New("enough")); return Stop },
			"a before, b before, b after ESUCCESS, a after ESUCCESS, ended: enough"},
		"stop without a reason": {nil, func(c *Call) Verdict { return Stop },
			"a before, b before, b after ESUCCESS, a after ESUCCESS, ended: stopped at m.f by *hostcall_test.step"},
	} {
		t.Run(name, func(t *testing.T) {
			var log []string
			lib := &Library{Name: "l", Funcs: []Func{failing("f", func(*Call) { log = append(log, "the function") })}}
			r := newRig(t, lib, nil, &step{"a", &log, c.first, nil}, &step{"b", &log, c.second, nil})
			if _, err := r.call(0); err != nil {
				log = append(log, "ended: "+err.Error())
			}
			want := strings.ReplaceAll(c.want, "ESUCCESS", Success.String())
			want = strings.ReplaceAll(want, "EIO", EIO.String())
			if got := strings.Join(log, ", "); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestAnUnwatchedFunctionIsNotSeen(t *testing.T) {
	var log []string
	lib := &Library{Name: "l", Funcs: []Func{failing("unwatched", func(c *Call) { c.Fail(ENOENT) })}}
	r := newRig(t, lib, nil, &step{"a", &log, nil, nil})
	if res, err := r.call(0); err != nil || res[0] != uint64(ENOENT) || len(log) != 0 {
		t.Errorf("results %v, error %v, log %v", res, err, log)
	}
}

func TestPointersAreCheckedBeforeAnythingHappens(t *testing.T) {
	nothing := func(c *Call) { c.Fail(Success) }
	text := Arg{Name: "text", Kind: Text, Max: 10}
	for name, c := range map[string]struct {
		arg    Arg
		params []uint64
		want   Errno
	}{
		"text within memory":            {text, []uint64{4090, 6}, Success},
		"empty text at the end":         {text, []uint64{4096, 0}, Success},
		"text over the end":             {text, []uint64{4090, 7}, EFAULT},
		"text past the end":             {text, []uint64{1<<32 - 1, 1}, EFAULT},
		"an end that wraps":             {Arg{Name: "b", Kind: Bytes}, []uint64{1<<32 - 1, 1<<32 - 1}, EFAULT},
		"upper halves that engines set": {text, []uint64{0xffffffff00000000, 0xffffffff00000003}, Success},
		"text at its bound":             {text, []uint64{0, 10}, Success},
		"text over its bound":           {text, []uint64{0, 11}, EINVAL},
		"a bound with an errno":         {Arg{Name: "t", Kind: Text, Max: 1, MaxErrno: EMSGSIZE}, []uint64{0, 2}, EMSGSIZE},
		"a path over its bound":         {Arg{Name: "p", Kind: Path, Max: 10}, []uint64{0, 11}, ENAMETOOLONG},
		"a path that is no UTF-8":       {Arg{Name: "p", Kind: Path}, []uint64{2048, 1}, EILSEQ},
		"text that is no UTF-8":         {text, []uint64{2048, 1}, Success},
		"a place for a number":          {Arg{Name: "n", Dir: Out, Kind: Uint, Size: 8}, []uint64{4088}, Success},
		"no place for a number":         {Arg{Name: "n", Dir: Out, Kind: Uint, Size: 8}, []uint64{4089}, EFAULT},
		"a vector":                      {Arg{Name: "v", Kind: Vectors, Max: 2}, []uint64{1024, 1}, Success},
		"a vector that leads out":       {Arg{Name: "v", Kind: Vectors, Max: 2}, []uint64{1032, 1}, EFAULT},
		"a list that leads out":         {Arg{Name: "v", Kind: Vectors}, []uint64{4092, 1}, EFAULT},
		"too many vectors":              {Arg{Name: "v", Kind: Vectors, Max: 2}, []uint64{1024, 3}, EINVAL},
		"vectors whose size wraps":      {Arg{Name: "v", Kind: Vectors}, []uint64{0, 1 << 29}, EFAULT},
		"records":                       {Arg{Name: "r", Kind: Record, Size: 48, Count: 1, Max: 100}, []uint64{4048, 1}, Success},
		"records over the end":          {Arg{Name: "r", Kind: Record, Size: 48, Count: 1, Max: 100}, []uint64{4048, 2}, EFAULT},
	} {
		t.Run(name, func(t *testing.T) {
			var log []string
			ran := false
			lib := &Library{Name: "l", Funcs: []Func{failing("f", func(c *Call) { ran = true; nothing(c) }, c.arg)}}
			r := newRig(t, lib, nil, &step{"a", &log, nil, nil})
			r.mem[2048] = 0xff
			copy(r.mem[1024:], []byte{0, 4, 0, 0, 8, 0, 0, 0, 0, 16, 0, 0, 1, 0, 0, 0}) // 1024+8; 4096+1
			res, err := r.call(0, c.params...)
			if err != nil || Errno(res[0]) != c.want || ran != (c.want == Success) {
				t.Errorf("errno %v, error %v, ran %t; want %v", Errno(res[0]), err, ran, c.want)
			}
			// A call refused by its pointers is seen, after the fact.
			if c.want != Success && !slices.Equal(log, []string{"a after " + c.want.String()}) {
				t.Errorf("the interposer saw %v", log)
			}
		})
	}
}

func TestABadPointerEndsTheGuestWhereNoErrnoCanSaySo(t *testing.T) {
	lib := &Library{Name: "l", Funcs: []Func{{Module: "m", Name: "f", Params: []ValueType{I32, I32}, Args: []Arg{{Name: "b", Kind: Bytes}}, Call: func(*Call) {}}}}
	var bad *BadPointerError
	if _, err := newRig(t, lib, nil).call(0, 4096, 1); !errors.As(err, &bad) || bad.Func != "m.f" {
		t.Errorf("error %v", err)
	}
}

func TestWhatWasJudgedIsWhatIsUsed(t *testing.T) {
	var used, vec string
	lib := &Library{Name: "l", Funcs: []Func{failing("f", func(c *Call) {
		used = string(c.Text(0))
		vec = fmt.Sprint(c.Value(1).Vecs)
	}, Arg{Name: "path", Kind: Path}, Arg{Name: "iovs", Kind: Vectors, Param: 2})}}
	var log []string
	r := newRig(t, lib, nil, &step{"a", &log, func(c *Call) Verdict {
		copy(c.Memory(), "evil") // as another thread would
		copy(c.Memory()[64:], []byte{9, 9, 0, 0, 9})
		return Proceed
	}, nil})
	copy(r.mem, "good")
	copy(r.mem[64:], []byte{1, 0, 0, 0, 2, 0, 0, 0})
	if _, err := r.call(0, 0, 4, 64, 1); err != nil || used != "good" || vec != "[{1 2}]" {
		t.Errorf("error %v, path %q, vectors %s", err, used, vec)
	}
}

func TestArgumentsAreChanged(t *testing.T) {
	var got []string
	lib := &Library{Name: "l", Funcs: []Func{failing("f", func(c *Call) {
		got = append(got, string(c.Text(0)), fmt.Sprint(c.Value(0).Len, c.Num(1), c.Uint32(1)))
	}, Arg{Name: "path", Kind: Path}, Arg{Name: "n", Kind: Uint, Param: 2})}}
	resolved, closed := 0, 0
	lib.Funcs[0].Resolve = func(c *Call) {
		resolved++
		c.Held = closer{&closed}
		c.Value(0).Object = "/" + string(c.Text(0))
	}
	var log []string
	r := newRig(t, lib, nil, &step{"a", &log, func(c *Call) Verdict {
		c.Resolve()
		c.Resolve()
		got = append(got, c.Value(0).Object)
		c.SetText(0, []byte("longer than before"))
		if c.Held != nil || c.Value(0).Object != "" || closed != 1 {
			t.Errorf("what was resolved outlived the change: %v %q, closed %d", c.Held, c.Value(0).Object, closed)
		}
		c.SetNum(1, 1<<40|7)
		c.Resolve()
		got = append(got, c.Value(0).Object)
		return Proceed
	}, nil})
	copy(r.mem, "abc")
	if _, err := r.call(0, 0, 3, 5); err != nil {
		t.Fatal(err)
	}
	want := []string{"/abc", "/longer than before", "longer than before", "18 7 7"}
	if !slices.Equal(got, want) || resolved != 2 || closed != 2 {
		t.Errorf("got %q, resolved %d, closed %d; want %q, 2, 2", got, resolved, closed, want)
	}
	if string(r.mem[:3]) != "abc" {
		t.Error("the guest's memory was changed")
	}
}

type closer struct{ n *int }

func (c closer) Close() error { *c.n++; return nil }

func TestDenyFailsWhereItCanAndEndsTheGuestWhereItCannot(t *testing.T) {
	lib := &Library{Name: "l", Funcs: []Func{failing("f", func(*Call) {}), {Module: "m", Name: "g", Call: func(*Call) {}}}}
	var log []string
	r := newRig(t, lib, nil, &step{"a", &log, func(c *Call) Verdict { return c.Deny(EACCES, "rule 2") }, nil})
	if res, err := r.call(0); err != nil || Errno(res[0]) != EACCES {
		t.Errorf("results %v, error %v", res, err)
	}
	var stop *StopError
	if _, err := r.call(1); !errors.As(err, &stop) || *stop != (StopError{Func: "m.g", Rule: "rule 2"}) {
		t.Errorf("error %v", err)
	}
}

func TestTheFirstReasonToStopStays(t *testing.T) {
	lib := &Library{Name: "l", Funcs: []Func{{Module: "m", Name: "exit", Call: func(c *Call) { c.Stop(&ExitError{7}) }}}}
	var log []string
	r := newRig(t, lib, nil, &step{"a", &log, nil, func(c *Call) { c.Stop(errors.New("later")) }})
	var exit *ExitError
	if _, err := r.call(0); !errors.As(err, &exit) || exit.Code != 7 {
		t.Errorf("error %v", err)
	}
	// The door is as good as new.
	if _, err := r.call(0); !errors.As(err, &exit) || exit.Code != 7 {
		t.Errorf("again: error %v", err)
	}
}

func TestAPanicOfAHostFunctionIsOurFault(t *testing.T) {
	closed := 0
	lib := &Library{Name: "l", Funcs: []Func{failing("f", func(c *Call) { c.Held = closer{&closed}; panic("a defect") }), failing("g", func(*Call) {})}}
	r := newRig(t, lib, nil)
	if _, err := r.call(0); !errors.Is(err, ErrHost) || !strings.Contains(err.Error(), "a defect") {
		t.Errorf("error %v", err)
	}
	if closed != 1 {
		t.Errorf("what the call held was closed %d times", closed)
	}
	if res, err := r.call(1); err != nil || res[0] != 0 {
		t.Errorf("the next call: %v, %v", res, err)
	}
}

func TestATrapOfTheGuestIsNotOurFault(t *testing.T) {
	r := newRig(t, &Library{Name: "l"}, nil)
	trap := errors.New("unreachable")
	if err := r.door.Leave(r.door.Enter(context.Background()), trap); err != trap {
		t.Errorf("error %v", err)
	}
}

// A host function may enter the guest, which calls again.
func TestGuestsReenter(t *testing.T) {
	var r *rig
	var order []string
	lib := &Library{Name: "l"}
	lib.Funcs = []Func{
		failing("outer", func(c *Call) {
			before := string(c.Text(0))
			if _, err := r.call(1, 8, 4); err != nil {
				order = append(order, err.Error())
			}
			_, err := r.call(2)
			order = append(order, before, string(c.Text(0)), fmt.Sprint(err))
			c.Fail(EIO)
		}, Arg{Name: "t", Kind: Text}),
		failing("inner", func(c *Call) { order = append(order, string(c.Text(0))) }, Arg{Name: "t", Kind: Text}),
		{Module: "m", Name: "exit", Call: func(c *Call) { c.Stop(&ExitError{3}) }},
	}
	r = newRig(t, lib, nil)
	copy(r.mem, "outer...inner")
	copy(r.mem[8:], "inner")
	res, err := r.call(0, 0, 5)
	want := []string{"inne", "outer", "outer", "guest exited with code 3"}
	if err != nil || Errno(res[0]) != EIO || !slices.Equal(order, want) {
		t.Errorf("results %v, error %v, order %q; want %q", res, err, order, want)
	}
}

func TestTheArenaGrowsUnderEarlierCopiesAndIsLetGo(t *testing.T) {
	var a, b string
	record := true
	lib := &Library{Name: "l", Funcs: []Func{failing("f", func(c *Call) {
		if record {
			a, b = string(c.Text(0)), string(c.Text(1))
		}
	},
		Arg{Name: "a", Kind: Text}, Arg{Name: "b", Kind: Text, Param: 2})}}
	r := newRig(t, lib, nil)
	r.mem = bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
	big := uint64(200 << 10)
	if _, err := r.call(0, 0, 16, 16, big); err != nil || a != string(r.mem[:16]) || b != string(r.mem[16:16+big]) {
		t.Errorf("error %v, a %q, b %d bytes", err, a, len(b))
	}
	record = false
	params := make([]uint64, 6)
	if got := testing.AllocsPerRun(10, func() {
		copy(params, []uint64{0, 16, 16, 16})
		r.door.Dispatch(0, params)
	}); got != 0 {
		t.Errorf("%v allocations after a big call", got)
	}
}

func TestWritesAreNoted(t *testing.T) {
	lib := &Library{Name: "l", Funcs: []Func{failing("f", func(c *Call) {
		c.PutNum(0, 1<<33|5)
		c.PutBytes(1, []byte("hello"))
		c.Write(4000, nil)
		if c.Write(4090, []byte("too long")) {
			t.Error("wrote past the end")
		}
	}, Arg{Name: "n", Dir: Out, Kind: Uint, Size: 8}, Arg{Name: "v", Dir: Out, Kind: Vectors, Param: 1})}}
	r := newRig(t, lib, nil)
	var noted []string
	r.door.Note(func(ptr, n uint32) { noted = append(noted, fmt.Sprintf("%d+%d", ptr, n)) })
	copy(r.mem[64:], []byte{100, 0, 0, 0, 2, 0, 0, 0, 200, 0, 0, 0, 9, 0, 0, 0})
	if _, err := r.call(0, 8, 64, 2); err != nil || strings.Join(noted, " ") != "8+8 100+2 200+3" || string(r.mem[100:102])+string(r.mem[200:203]) != "hello" {
		t.Errorf("error %v, noted %v", err, noted)
	}
}

func TestALimitOfCallsEndsTheGuest(t *testing.T) {
	lib := &Library{Name: "l", Funcs: []Func{failing("f", func(*Call) {})}}
	r := newRig(t, lib, nil)
	over := errors.New("too many calls")
	r.door.Limit(3, func(uint64) error { return over })
	for i := range 5 {
		if _, err := r.call(0); (err == nil) != (i < 3) || err != nil && !errors.Is(err, over) {
			t.Errorf("call %d: %v", i+1, err)
		}
	}
	r.door.Limit(0, nil)
	if _, err := r.call(0); err != nil || r.door.Made() != 1 {
		t.Errorf("without a limit: %v, %d made", err, r.door.Made())
	}
}

func TestEventsReachObservers(t *testing.T) {
	var log []string
	r := newRig(t, &Library{Name: "l"}, nil, &step{name: "a", log: &log}, &step{name: "b", log: &log})
	r.door.Emit(Event{Kind: EventStart, Name: "run"})
	if !slices.Equal(log, []string{"a run", "b run"}) {
		t.Errorf("log %v", log)
	}
}

func TestStateIsBoundByLibrary(t *testing.T) {
	lib, other := &Library{Name: "l"}, &Library{Name: "other"}
	lib.Funcs = []Func{failing("f", func(c *Call) { c.Fail(c.State().(Errno)) })}
	r := newRig(t, lib, EBUSY)
	if res, err := r.call(0); err != nil || Errno(res[0]) != EBUSY || r.door.State(lib) != EBUSY || r.door.State(other) != nil {
		t.Errorf("results %v, error %v", res, err)
	}
	table, _ := NewTable(lib)
	if _, err := NewDoor(table, []Binding{{other, 1}}, nil); err == nil {
		t.Error("a library that is not offered was bound")
	}
}

func TestDescriptionsOfFunctionsAreChecked(t *testing.T) {
	nop := func(*Call) {}
	for name, f := range map[string]Func{
		"no implementation":          {Module: "m", Name: "f"},
		"a parameter without a name": {Module: "m", Name: "f", Params: []ValueType{I32}, Call: nop},
		"an argument past the end":   {Module: "m", Name: "f", Args: []Arg{{Name: "a", Param: 1}}, Call: nop},
		"a pointer of 64 bits":       {Module: "m", Name: "f", Params: []ValueType{I64, I32}, Args: []Arg{{Name: "a", Kind: Text}}, Call: nop},
		"text without a length":      {Module: "m", Name: "f", Params: []ValueType{I32}, Args: []Arg{{Name: "a", Kind: Text}}, Call: nop},
		"an out number of no size":   {Module: "m", Name: "f", Params: []ValueType{I32}, Args: []Arg{{Name: "a", Dir: Out}}, Call: nop},
		"fails without an errno":     {Module: "m", Name: "f", Fails: true, Call: nop},
	} {
		if _, err := NewTable(&Library{Name: "l", Funcs: []Func{f}}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	twice := Func{Module: "m", Name: "f", Call: nop}
	if _, err := NewTable(&Library{Name: "l", Funcs: []Func{twice}}, &Library{Name: "k", Funcs: []Func{twice}}); err == nil {
		t.Error("a function that is there twice was accepted")
	}
}

// quiet is an interposer that does nothing.
type quiet struct{}

func (quiet) Watches(*Func) bool   { return true }
func (quiet) Before(*Call) Verdict { return Proceed }
func (quiet) After(*Call)          {}

func TestHostCallsDoNotAllocate(t *testing.T) {
	lib := &Library{Name: "l", Funcs: []Func{failing("f", func(c *Call) { c.PutNum(2, 1) },
		Arg{Name: "path", Kind: Path}, Arg{Name: "iovs", Kind: Vectors, Param: 2}, Arg{Name: "n", Dir: Out, Kind: Uint, Size: 4, Param: 4})}}
	for name, ips := range map[string][]Interposer{"unwatched": nil, "watched": {quiet{}, quiet{}}} {
		r := newRig(t, lib, nil, ips...)
		params := make([]uint64, 8)
		if n := testing.AllocsPerRun(100, func() {
			copy(params, []uint64{0, 4, 64, 2, 128})
			r.door.Dispatch(0, params)
		}); n != 0 {
			t.Errorf("%s: %v allocations a call", name, n)
		}
	}
}

// countedTurns counts ticks, and refuses the one that would be past most.
type countedTurns struct{ ticks, most int }

var errTurnOver = errors.New("no further turn")

func (c *countedTurns) Block()                        {}
func (c *countedTurns) Unblock(context.Context) error { return nil }
func (c *countedTurns) Charge(time.Duration)          {}
func (c *countedTurns) Tick(context.Context) error {
	if c.ticks == c.most {
		return errTurnOver
	}
	c.ticks++
	return nil
}

func TestAFloodOfCallsMakesWay(t *testing.T) {
	r := newRig(t, &Library{Name: "lib", Funcs: []Func{failing("f", func(*Call) {})}}, nil)
	turns := &countedTurns{most: 3}
	r.door.Share(turns)
	calls := 0
	for ; calls < 1000; calls++ {
		if _, err := r.call(0); err != nil {
			if !errors.Is(err, errTurnOver) {
				t.Errorf("error %v", err)
			}
			break
		}
	}
	if turns.ticks != 3 || calls > 200 {
		t.Errorf("%d ticks, and then %d calls were answered; the fourth tick ends the guest", turns.ticks, calls)
	}
}

func TestAGuestThatWaitedPastItsEndDoesNotGoOn(t *testing.T) {
	over := errors.New("time is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	r := newRig(t, &Library{Name: "lib", Funcs: []Func{failing("f", func(c *Call) {
		c.Block()
		cancel(over)
		c.Unblock()
	})}}, nil)
	for name, turns := range map[string]Turns{"alone": nil, "with turns": &countedTurns{}} {
		r.door.Share(turns)
		r.door.Enter(ctx)
		func() {
			defer func() {
				if p := recover(); p != errLeave {
					t.Errorf("%s: the guest went on, or %v", name, p)
				}
			}()
			r.door.Dispatch(0, make([]uint64, MaxResults))
		}()
		if err := r.door.Leave(Mark{}, errLeave); !errors.Is(err, over) {
			t.Errorf("%s: ended by %v", name, err)
		}
	}
}
