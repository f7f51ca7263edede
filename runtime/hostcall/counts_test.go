package hostcall_test

import (
	"fmt"
	"maps"
	"testing"

	. "github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func TestHostCallsAreCountedByFunctionAndOutcome(t *testing.T) {
	var outcome func(*Call)
	lib := &Library{Name: "l", Funcs: []Func{
		failing("f", func(c *Call) { outcome(c) }, Arg{Name: "path", Kind: Path}),
		failing("g", func(*Call) {}),
	}}
	table, err := NewTable(lib)
	if err != nil {
		t.Fatal(err)
	}
	counts := NewCounts(table)
	var judged Verdict
	judge := &step{log: new([]string), before: func(c *Call) Verdict {
		if judged == Answer {
			c.Fail(EACCES)
		}
		return judged
	}}
	var doors []*rig
	for range 2 { // sandboxes share the counts
		d, err := NewDoor(table, []Binding{{lib, nil}}, []Interposer{counts, judge})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t, d, make(memory, 4096)}
		d.Attach(&r.mem, errLeave)
		doors = append(doors, r)
	}
	call := func(n int, f func(*Call), params ...uint64) {
		outcome = f
		for _, r := range doors {
			_, _ = r.call(n, params...) // how it ends is what is counted
		}
	}
	good, bad := []uint64{0, 4}, []uint64{0, 1 << 20}
	call(0, func(*Call) {}, good...)
	call(0, func(c *Call) { c.Fail(ENOENT) }, good...)
	call(0, func(*Call) {}, bad...)
	call(0, func(c *Call) { c.Fail(ENOTCAPABLE) }, good...)
	call(0, func(c *Call) { c.Stop(&ExitError{}) }, good...)
	judged = Answer
	call(0, nil, good...)
	judged = Stop
	call(0, nil, good...)
	judged = Proceed
	call(1, nil)
	got := map[string]uint64{}
	counts.Each(func(f *Func, o Outcome, n uint64) { got[fmt.Sprint(f.Name, " ", o)] = n })
	if want := map[string]uint64{"f ok": 2, "f error": 4, "f denied": 4, "f ended": 4, "g ok": 2}; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
	d, err := NewDoor(table, nil, []Interposer{counts})
	if err != nil {
		t.Fatal(err)
	}
	params := make([]uint64, 2)
	if n := testing.AllocsPerRun(100, func() { d.Dispatch(1, params) }); n != 0 {
		t.Errorf("%v allocations a call", n)
	}
	other, _ := NewTable(&Library{Name: "other"})
	if _, err := NewDoor(other, nil, []Interposer{counts}); err == nil {
		t.Error("counts of another table are taken")
	}
}

func BenchmarkCountedCall(b *testing.B) {
	lib := &Library{Name: "l", Funcs: []Func{failing("f", func(*Call) {})}}
	table, err := NewTable(lib)
	if err != nil {
		b.Fatal(err)
	}
	for name, ips := range map[string][]Interposer{"uncounted": nil, "counted": {NewCounts(table)}} {
		b.Run(name, func(b *testing.B) {
			d, err := NewDoor(table, nil, ips)
			if err != nil {
				b.Fatal(err)
			}
			params := make([]uint64, 2)
			for b.Loop() {
				d.Dispatch(0, params)
			}
		})
	}
}
