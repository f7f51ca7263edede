package wazero

import (
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func TestFramesAreNamedByTheirFunctions(t *testing.T) {
	for line, want := range map[string]string{
		".main.f(i32) i32":                     "main.f",
		".$3()":                                "$3",
		".f(i32,i64) (i32,i32)":                "f",
		".main.(*T).Method(i32) i32":           "main.(*T).Method",
		".main.main.func1()":                   "main.main.func1",
		".core::fmt::<impl (A, B)>::x()":       "core::fmt::<impl (A, B)>::x",
		"... maybe followed by omitted frames": "",
		"":                                     "",
	} {
		if got := frameName(line); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

func TestGuestsThatAreMeteredAreNotWatchedByTheEngine(t *testing.T) {
	table, err := hostcall.NewTable()
	if err != nil {
		t.Fatal(err)
	}
	e, err := Open(t.Context(), table, Options{Metered: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if !e.endless {
		t.Error("the engine looks for a done context, too, which costs tight loops 30 times their time")
	}
}
