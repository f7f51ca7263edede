package wasi

import (
	"context"
	"errors"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// runGuest runs a WASI command under opts and answers its exit code.
func runGuest(t testing.TB, wasm []byte, opts Options, interposers ...hostcall.Interposer) (uint32, error) {
	t.Helper()
	ctx := context.Background()
	table, err := hostcall.NewTable(Library())
	if err != nil {
		t.Fatal(err)
	}
	e, err := openEngine(ctx, table)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	m, err := e.Compile(ctx, wasm)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d, err := hostcall.NewDoor(table, []hostcall.Binding{{Library: Library(), State: s}}, interposers)
	if err != nil {
		t.Fatal(err)
	}
	inst, err := m.Instantiate(ctx, d, engine.NewMemory(16384))
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	err = inst.Function("_start").Call(ctx, nil)
	var exit *hostcall.ExitError
	if errors.As(err, &exit) {
		return exit.Code, nil
	}
	return 0, err
}
