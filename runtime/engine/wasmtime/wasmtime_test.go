//go:build wasmtime && cgo

package wasmtime_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/runtime/engine"
	"github.com/ripstop-vm/ripstop/runtime/engine/wasmtime"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// TestTheShimDeclaresWhatTheLibraryOffers has the C compiler compare the shim's declarations with the real headers.
func TestTheShimDeclaresWhatTheLibraryOffers(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/bytecodealliance/wasmtime-go/v44").Output()
	if err != nil {
		t.Fatal(err)
	}
	headers := filepath.Join(strings.TrimSpace(string(dir)), "build", "include")
	for name, flags := range map[string][]string{"as built": nil, "with the real headers": {"-DRIPSTOP_REAL_HEADERS", "-I" + headers}} {
		args := append([]string{"-std=gnu11", "-Wall", "-Werror", "-fsyntax-only", "shim.c"}, flags...)
		if out, err := exec.Command("cc", args...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// looping is a module whose "f" tells the host that it runs and then never returns.
func looping() []byte {
	return (&wasmtest.Module{Imports: []wasmtest.Import{{Module: "m", Name: "running"}}, Funcs: []wasmtest.Func{
		{Export: "f", Body: wasmtest.Cat(wasmtest.Call(0), wasmtest.Loop(wasmtest.Br(0)))}}}).Bytes()
}

func TestClosingFromElsewhereEndsACall(t *testing.T) {
	for name, end := range map[string]func(*wasmtime.Engine, interface{ Close() error }) error{
		"the instance": func(_ *wasmtime.Engine, i interface{ Close() error }) error { return i.Close() },
		"the engine":   func(e *wasmtime.Engine, _ interface{ Close() error }) error { return e.Close() },
	} {
		running := make(chan struct{})
		table, err := hostcall.NewTable(&hostcall.Library{Name: "l", Funcs: []hostcall.Func{{Module: "m", Name: "running", Call: func(*hostcall.Call) { close(running) }}}})
		if err != nil {
			t.Fatal(err)
		}
		e, err := wasmtime.Open(table, wasmtime.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		m, err := e.Compile(context.Background(), looping())
		if err != nil {
			t.Fatal(err)
		}
		d, err := hostcall.NewDoor(table, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		i, err := m.Instantiate(context.Background(), d, engine.NewMemory(1))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- i.Function("f").Call(context.Background(), nil) }()
		<-running
		if err := end(e, i); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-done; err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%s: the call ended with %v", name, err)
		}
	}
}
