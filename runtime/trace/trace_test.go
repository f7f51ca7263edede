package trace

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/doortest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

const i32, i64 = hostcall.I32, hostcall.I64

func library() *hostcall.Library {
	e := []hostcall.ValueType{i32}
	return &hostcall.Library{Name: "fake", Funcs: []hostcall.Func{
		{Module: "m", Name: "path_open", Class: hostcall.WriteOutside, Params: []hostcall.ValueType{i32, i32, i32, i32, i32}, Results: e, Fails: true, Args: []hostcall.Arg{
			{Name: "fd", Kind: hostcall.FD, Param: 0}, {Name: "path", Kind: hostcall.Path, Param: 1, Max: 1000},
			{Name: "oflags", Kind: hostcall.Flags, Param: 3, Names: []string{"CREAT", "DIRECTORY", "EXCL"}},
			{Name: "opened_fd", Kind: hostcall.FD, Dir: hostcall.Out, Size: 4, Param: 4}},
			Resolve: func(c *hostcall.Call) {
				c.Value(0).Object, c.Value(1).Object = "/data", "/data/\x1b[31m"
			},
			Call: func(c *hostcall.Call) {
				if string(c.Text(1)) == "none" {
					c.Fail(hostcall.ENOENT)
					return
				}
				c.PutUint32(3, 5)
			}},
		{Module: "m", Name: "fd_read", Params: []hostcall.ValueType{i32, i32, i32, i32}, Results: e, Fails: true, Args: []hostcall.Arg{
			{Name: "fd", Kind: hostcall.FD, Param: 0}, {Name: "iovs", Kind: hostcall.Vectors, Dir: hostcall.Out, Param: 1},
			{Name: "nread", Kind: hostcall.Uint, Dir: hostcall.Out, Size: 4, Param: 3}},
			Call: func(c *hostcall.Call) { c.PutUint32(2, uint32(c.PutBytes(1, []byte("hello\n")))) }},
		{Module: "m", Name: "random_get", Params: []hostcall.ValueType{i32, i32}, Results: e, Fails: true, Args: []hostcall.Arg{
			{Name: "buf", Kind: hostcall.Bytes, Dir: hostcall.Out, Param: 0}},
			Call: func(c *hostcall.Call) { c.PutBytes(0, []byte("do not show")) }},
		{Module: "m", Name: "secret_get", Params: []hostcall.ValueType{i32, i32, i32, i32, i32}, Results: e, Fails: true, Args: []hostcall.Arg{
			{Name: "name", Kind: hostcall.Text, Param: 0}, {Name: "buf", Kind: hostcall.Bytes, Dir: hostcall.Out, Param: 2, Secret: true},
			{Name: "size", Kind: hostcall.Uint, Dir: hostcall.Out, Size: 4, Param: 4}},
			Call: func(c *hostcall.Call) { c.PutUint32(2, uint32(c.PutBytes(1, []byte("hunter2")))) }},
		{Module: "m", Name: "log", Params: []hostcall.ValueType{i32, i32, i32}, Results: e, Fails: true, Args: []hostcall.Arg{
			{Name: "level", Kind: hostcall.Enum, Param: 0, Names: []string{"debug", "info"}}, {Name: "text", Kind: hostcall.Text, Param: 1}},
			Call: func(*hostcall.Call) {}},
		{Module: "m", Name: "fd_seek", Params: []hostcall.ValueType{i32, i64}, Results: e, Fails: true, Args: []hostcall.Arg{
			{Name: "fd", Kind: hostcall.FD, Param: 0}, {Name: "offset", Kind: hostcall.Int, Param: 1}}, Call: func(*hostcall.Call) {}},
		{Module: "m", Name: "proc_exit", Params: []hostcall.ValueType{i32}, Args: []hostcall.Arg{{Name: "rval", Kind: hostcall.Uint, Param: 0}},
			Call: func(c *hostcall.Call) { c.Stop(&hostcall.ExitError{}) }},
	}}
}

// denier stands for a policy.
type denier struct{ stop, observe bool }

func (d denier) Watches(f *hostcall.Func) bool { return f.Name == "path_open" || f.Name == "proc_exit" }
func (d denier) After(*hostcall.Call)          {}
func (d denier) Before(c *hostcall.Call) hostcall.Verdict {
	switch {
	case d.observe:
		c.Observed = "policy[0]: deny"
		return hostcall.Proceed
	case d.stop:
		c.Rule = "policy[2]: stop"
		c.Stop(&hostcall.StopError{})
		return hostcall.Stop
	}
	return c.Deny(hostcall.EACCES, "policy[1]: deny")
}

var took = regexp.MustCompile(`  \d+\.\d{3}ms`)

func lines(t *testing.T, opts Options, more []hostcall.Interposer, calls func(*doortest.Guest)) string {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b, Text)
	g := doortest.New(t, library(), nil, append([]hostcall.Interposer{New(w, opts)}, more...)...)
	calls(g)
	if w.Err() != nil {
		t.Fatal(w.Err())
	}
	return took.ReplaceAllString(b.String(), "")
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestCallsReadLikeStrace(t *testing.T) {
	got := lines(t, Options{}, nil, func(g *doortest.Guest) {
		out := g.Put(make([]byte, 8))
		_, _ = g.Call("path_open", 3, "a.txt", 5, out)
		_, _ = g.Call("path_open", 3, "none", 0, out)
		_, _ = g.Call("path_open", 3, "x", 8, 1<<31) // a pointer outside memory
		_, _ = g.Call("fd_seek", 4, ^uint64(0))
		buf := g.Put(make([]byte, 64))
		vec := g.Put([]byte{byte(buf), byte(buf >> 8), 0, 0, 4, 0, 0, 0, byte(buf + 8), byte((buf + 8) >> 8), 0, 0, 32, 0, 0, 0})
		_, _ = g.Call("fd_read", 4, vec, 2, out)
		_, _ = g.Call("random_get", buf, 32)
		_, _ = g.Call("secret_get", "key", buf, 32, out)
		_, _ = g.Call("log", 1, "\x1b[2Jred\nline \xff \u202e")
		_, _ = g.Call("log", 7, strings.Repeat("x", 500))
		_, _ = g.Call("proc_exit", 3)
		g.Door.Emit(hostcall.Event{Kind: hostcall.EventStart, Name: "_start"})
		g.Door.Emit(hostcall.Event{Kind: hostcall.EventGrow, From: 65536, To: 131072})
		g.Door.Emit(hostcall.Event{Kind: hostcall.EventEnd, Name: "_start", Err: errors.New("trap: \x1b"), Took: time.Second})
	})
	expect(t, got, `
path_open(fd=3, path="a.txt", oflags=CREAT|EXCL) = SUCCESS, opened_fd=5
path_open(fd=3, path="none", oflags=0) = ENOENT
path_open(fd=3, path=0x38, oflags=8, opened_fd=0x80000000) = EFAULT
fd_seek(fd=4, offset=-1) = SUCCESS
fd_read(fd=4) = SUCCESS, iovs="hello\n", nread=6
random_get() = SUCCESS, buf=<32 bytes>
secret_get(name="key") = SUCCESS, buf=<secret, 7 bytes>, size=7
log(level=info, text="\x1b[2Jred\nline � \u202e") = SUCCESS
log(level=7, text="`+strings.Repeat("x", 128)+`"… <500 bytes>) = SUCCESS
proc_exit(rval=3) = ?
--- start _start ---
--- memory grows from 65536 to 131072 bytes ---
--- end _start: trap: \x1b ---`)
}

func TestRefusalsNameTheRule(t *testing.T) {
	out := func(g *doortest.Guest) uint32 { return g.Put(make([]byte, 8)) }
	open := func(g *doortest.Guest) { _, _ = g.Call("path_open", 3, "a", 0, out(g)) }
	expect(t, lines(t, Options{}, []hostcall.Interposer{denier{}}, open), `path_open(fd=3, path="a", oflags=0) = EACCES  [denied by policy[1]]`)
	expect(t, lines(t, Options{}, []hostcall.Interposer{denier{stop: true}}, open), `path_open(fd=3, path="a", oflags=0) = ?  [stopped by policy[2]]`)
	expect(t, lines(t, Options{}, []hostcall.Interposer{denier{observe: true}}, open), `path_open(fd=3, path="a", oflags=0) = SUCCESS, opened_fd=5  [observed: policy[0]: deny]`)
	expect(t, lines(t, Options{Objects: true}, nil, open), `path_open(fd=3 </data>, path="a" </data/\x1b[31m>, oflags=0) = SUCCESS, opened_fd=5`)
}

func TestCallsThatLeaveTheSandboxAreTimed(t *testing.T) {
	now := time.Second
	var records []Record
	tr := New(NewFunc(func(r *Record) { records = append(records, *r) }), Options{Elapsed: func() time.Duration { now += time.Millisecond; return now }})
	g := doortest.New(t, library(), nil, tr)
	_, _ = g.Call("path_open", 3, "a", 0, g.Put(make([]byte, 8)))
	_, _ = g.Call("fd_seek", 3, 0)
	if len(records) != 2 || records[0].Took < 9e5 || !strings.HasSuffix(records[0].String(), "  1.000ms") || records[1].Took != 0 || strings.HasSuffix(records[1].String(), "ms") {
		t.Errorf("%+v", records)
	}
	if !records[1].Time.After(records[0].Time) {
		t.Errorf("%s, then %s", records[0].Time, records[1].Time)
	}
}

func TestJSONRecordsSayTheSameAsText(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b, JSON)
	g := doortest.New(t, library(), nil, New(w, Options{}), denier{})
	_, _ = g.Call("path_open", 3, "a\x7f", 1, g.Put(make([]byte, 8)))
	g.Door.Emit(hostcall.Event{Kind: hostcall.EventGrow, From: 1, To: 2, Err: errors.New("over the limit")})
	d := json.NewDecoder(&b)
	d.DisallowUnknownFields()
	var call, grow Record
	if err := errors.Join(d.Decode(&call), d.Decode(&grow)); err != nil {
		t.Fatal(err)
	}
	expect(t, took.ReplaceAllString(call.String(), ""), `path_open(fd=3, path="a\x7f", oflags=CREAT) = EACCES  [denied by policy[1]]`)
	expect(t, grow.String(), `--- memory grows from 1 to 2 bytes: over the limit ---`)
	if !call.Denied || call.Time.IsZero() || call.Took <= 0 || call.Errno != "EACCES" {
		t.Errorf("%+v", call)
	}
}

func TestAnEntryShowsNothingOfTheOneBefore(t *testing.T) {
	r := NewRing(1)
	g := doortest.New(t, library(), nil, New(r, Options{Objects: true}))
	out := g.Put(make([]byte, 8))
	_, _ = g.Call("path_open", 3, "a", 0, out)
	for _, c := range []struct {
		want string
		call func()
	}{
		{`fd_seek(fd=4, offset=0) = SUCCESS`, func() { _, _ = g.Call("fd_seek", 4, 0) }},
		{`log(level=debug, text="") = SUCCESS`, func() { _, _ = g.Call("log", 0, "") }},
		{`fd_read(fd=1) = SUCCESS, iovs="", nread=0`, func() { _, _ = g.Call("fd_read", 1, 0, 0, out) }},
	} {
		c.call()
		list := r.Records()
		expect(t, took.ReplaceAllString(list[0].String(), ""), c.want)
	}
}

func TestALongListOfFlagsIsShortened(t *testing.T) {
	names := strings.Split("A B C D E F G H I J", " ")
	v := Value{Name: "rights", Kind: "flags", Text: flags(names, 1<<10-1)}
	var b strings.Builder
	v.write(&b)
	expect(t, b.String(), "rights=A|B|C|D|…6 more")
	expect(t, flags(names, 1<<63|1), "A|0x8000000000000000")
}

func TestARingKeepsTheLatest(t *testing.T) {
	r := NewRing(4)
	g := doortest.New(t, library(), nil, New(r, Options{}))
	for i := range 6 {
		_, _ = g.Call("fd_seek", i, 0)
	}
	list, seen := r.Since(0)
	if len(list) != 4 || seen != 6 || list[0].Args[0].Text != "2" || list[3].Args[0].Text != "5" {
		t.Errorf("%d seen: %+v", seen, list)
	}
	_, _ = g.Call("fd_seek", 9, 0)
	if list, _ = r.Since(seen); len(list) != 1 || list[0].Args[0].Text != "9" {
		t.Errorf("%+v", list)
	}
}

func TestAnUnwritableTraceIsReportedAndStops(t *testing.T) {
	w := NewWriter(broken{}, Text)
	g := doortest.New(t, library(), nil, New(w, Options{}))
	_, _ = g.Call("fd_seek", 1, 0)
	if w.Err() == nil {
		t.Error("no error")
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestTracingToARingAllocatesNothing(t *testing.T) {
	g := doortest.New(t, library(), nil, New(NewRing(8), Options{}))
	path := append(g.Params(3, "some/path", 0, g.Put(make([]byte, 8))), 0)
	stack := make([]uint64, 8)
	if n := testing.AllocsPerRun(100, func() {
		copy(stack, path)
		g.Door.Dispatch(0, stack)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
