package virtual

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/doortest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

const now = uint64(1_700_000_000_000_000_000)

// library is a host whose clocks all say now, and which keeps what it was asked to wait for.
func library(polled *[]byte) *hostcall.Library {
	i32, i64 := hostcall.I32, hostcall.I64
	e := []hostcall.ValueType{i32}
	ids := []string{"REALTIME", "MONOTONIC"}
	return &hostcall.Library{Name: "fake", Funcs: []hostcall.Func{
		{Module: "w", Name: "clock_time_get", Params: []hostcall.ValueType{i32, i64, i32}, Results: e, Fails: true, Args: []hostcall.Arg{
			{Name: "id", Kind: hostcall.Enum, Param: 0, Names: ids}, {Name: "precision", Kind: hostcall.Uint, Param: 1},
			{Name: "time", Kind: hostcall.Uint, Dir: hostcall.Out, Size: 8, Param: 2}},
			Call: func(c *hostcall.Call) {
				if c.Uint32(0) > 1 {
					c.Fail(hostcall.EINVAL)
					return
				}
				c.PutNum(2, now)
			}},
		{Module: "w", Name: "clock_res_get", Params: []hostcall.ValueType{i32, i32}, Results: e, Fails: true, Args: []hostcall.Arg{
			{Name: "id", Kind: hostcall.Enum, Param: 0, Names: ids}, {Name: "resolution", Kind: hostcall.Uint, Dir: hostcall.Out, Size: 8, Param: 1}},
			Call: func(c *hostcall.Call) { c.PutNum(1, 4000000) }},
		{Module: "w", Name: "random_get", Params: []hostcall.ValueType{i32, i32}, Results: e, Fails: true, Args: []hostcall.Arg{
			{Name: "buf", Kind: hostcall.Bytes, Dir: hostcall.Out, Param: 0}}, Call: func(*hostcall.Call) {}},
		{Module: "w", Name: "poll_oneoff", Params: []hostcall.ValueType{i32, i32}, Results: e, Fails: true, Args: []hostcall.Arg{
			{Name: "in", Kind: hostcall.Record, Param: 0, Count: 1, Size: 48}},
			Call: func(c *hostcall.Call) { *polled = append([]byte(nil), c.Text(0)...) }},
	}}
}

func read(g *doortest.Guest, name string, id int) uint64 {
	out := g.Put(make([]byte, 8))
	var e hostcall.Errno
	if name == "clock_res_get" {
		e, _ = g.Call(name, id, out)
	} else {
		e, _ = g.Call(name, id, 0, out)
	}
	if e != hostcall.Success {
		g.T.Errorf("%s = %s", name, e)
	}
	return binary.LittleEndian.Uint64(g.Memory()[out:])
}

func TestRealtimeIsVirtualAndMonotonicTimeIsNot(t *testing.T) {
	for _, c := range []struct {
		opts Options
		want uint64
	}{
		{Options{}, now},
		{Options{Offset: time.Hour}, now + uint64(time.Hour)},
		{Options{Offset: -time.Hour}, now - uint64(time.Hour)},
		{Options{Offset: math.MinInt64}, 0},
		{Options{Frozen: time.Unix(5, 6)}, 5_000_000_006},
		{Options{Frozen: time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)}, 0},
		{Options{Frozen: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}, math.MaxInt64},
	} {
		g := doortest.New(t, library(nil), nil, New(c.opts))
		if got := read(g, "clock_time_get", 0); got != c.want {
			t.Errorf("%+v: realtime %d, want %d", c.opts, got, c.want)
		}
		if got := read(g, "clock_time_get", 1); got != now {
			t.Errorf("%+v: monotonic %d", c.opts, got)
		}
		if got := read(g, "clock_res_get", 0); c.opts.Active() && got != 1 {
			t.Errorf("%+v: resolution %d", c.opts, got)
		}
		if e, _ := g.Call("clock_time_get", 9, 0, 8); e != hostcall.EINVAL {
			t.Errorf("an unknown clock = %s", e)
		}
	}
}

func TestTheSameSeedGivesTheSameRandomness(t *testing.T) {
	draw := func(seed uint64) []byte {
		g := doortest.New(t, library(nil), nil, New(Options{Seed: &seed}))
		var all []byte
		for _, n := range []uint32{1, 7, 64} {
			buf := g.Put(make([]byte, n))
			if e, _ := g.Call("random_get", buf, n); e != hostcall.Success {
				t.Errorf("random_get = %s", e)
			}
			all = append(all, g.Memory()[buf:buf+n]...)
		}
		return all
	}
	one, again, other := draw(1), draw(1), draw(2)
	if !bytes.Equal(one, again) || bytes.Equal(one, other) || bytes.Equal(one, make([]byte, len(one))) {
		t.Errorf("%x\n%x\n%x", one, again, other)
	}
}

func subscription(kind byte, clock uint32, timeout uint64, flags uint16) []byte {
	b := make([]byte, subscriptionSize)
	b[subKind] = kind
	binary.LittleEndian.PutUint32(b[subClock:], clock)
	binary.LittleEndian.PutUint64(b[subTimeout:], timeout)
	binary.LittleEndian.PutUint16(b[subFlags:], flags)
	return b
}

func TestDeadlinesInRealtimeAreTurnedIntoTheHosts(t *testing.T) {
	var polled []byte
	poll := func(o Options, subs ...[]byte) []byte {
		g := doortest.New(t, library(&polled), nil, New(o))
		all := bytes.Join(subs, nil)
		at := g.Put(all)
		if e, _ := g.Call("poll_oneoff", at, len(subs)); e != hostcall.Success {
			t.Errorf("poll_oneoff = %s", e)
		}
		if !bytes.Equal(g.Memory()[at:int(at)+len(all)], all) {
			t.Error("the guest's memory was changed")
		}
		return polled
	}
	relative, mono, fd := subscription(0, 0, 50, 0), subscription(0, 1, 50, 1), subscription(1, 0, 50, 1)
	got := poll(Options{Offset: time.Second}, subscription(0, 0, now+uint64(time.Second)+5, 1), relative, mono, fd)
	if want := bytes.Join([][]byte{subscription(0, 0, now+5, 1), relative, mono, fd}, nil); !bytes.Equal(got, want) {
		t.Errorf("offset: %x\nwant %x", got, want)
	}
	got = poll(Options{Frozen: time.Unix(10, 0)}, subscription(0, 0, uint64(12*time.Second), 1), subscription(0, 0, 3, 1))
	if want := append(subscription(0, 0, uint64(2*time.Second), 0), subscription(0, 0, 0, 0)...); !bytes.Equal(got, want) {
		t.Errorf("frozen: %x\nwant %x", got, want)
	}
}
