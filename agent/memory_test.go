package agent

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	w "github.com/ripstop-vm/ripstop/internal/wasmtest"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime/guest"
)

// filling is a command that writes to 60 pages of 64 KiB and answers.
func filling() []byte {
	return (&w.Module{
		Imports: []w.Import{{Module: "wasi_snapshot_preview1", Name: "fd_write", Type: w.Type{Params: []byte{w.I32, w.I32, w.I32, w.I32}, Results: []byte{w.I32}}}},
		Funcs: []w.Func{{Export: "_start", Body: w.Cat(
			w.I32Const(1024), w.I32Const(1), w.I32Const(60<<16-1024), []byte{0xfc, 11, 0},
			w.I32Const(0), w.I32Const(64), w.Store(0), w.I32Const(4), w.I32Const(4), w.Store(0), w.I32Const(64), w.I32Const('\n'|'\n'<<8|'o'<<16|'k'<<24), w.Store(0),
			w.I32Const(1), w.I32Const(0), w.I32Const(1), w.I32Const(8), w.Call(0), []byte{w.Drop})}},
		Memory: []uint32{60},
	}).Bytes()
}

// Invocations of a version that was replaced may go on for an hour. What it kept for sandboxes goes at once, and that of those in use as they end.
func TestAVersionThatIsReplacedKeepsNoMemory(t *testing.T) {
	a, _ := tinyAgent(t, Options{}, 1)
	code, err := a.engines.first.Compile(t.Context(), filling())
	if err != nil {
		t.Fatal(err)
	}
	sp, err := a.engines.first.Space()
	if err != nil {
		t.Fatal(err)
	}
	deploy := func(version uint64) *task {
		m := &manifest.Manifest{Limits: manifest.Limits{Concurrency: 64}}
		m.Fill("hostile")
		task, err := a.newTask(wire.Assignment{Job: "hostile", Version: version}, m, &loadedModule{agent: a, users: 1}, code)
		if err != nil {
			t.Fatal(err)
		}
		a.mu.Lock()
		old := a.installLocked(a.jobLocked("hostile"), task)
		a.mu.Unlock()
		if old != nil {
			old.retire()
		}
		return task
	}
	now := a.opts.Clock.Now()
	for version := range uint64(4) {
		task := deploy(version + 1)
		if !task.enter() { // an invocation that takes as long as it may
			t.Fatal("over")
		}
		defer task.leave()
		var all []made
		for range 32 {
			m, err := task.make(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			task.pool.begin()
			if _, err := m.sandbox.Serve(context.Background(), &discard{header: http.Header{}}, httptest.NewRequest("GET", "/", nil), guest.ServeInfo{}); err != nil {
				t.Fatal(err)
			}
			all = append(all, m)
		}
		for _, m := range all {
			task.back(context.Background(), m, false)
		}
	}
	deploy(5)
	for i := range 1000 { // as tidy does
		a.mu.RLock()
		j := a.jobs["hostile"].task
		a.mu.RUnlock()
		j.shrink(now.Add(time.Duration(i)*200*time.Millisecond), time.Minute)
	}
	if st := sp.Stats(); st.Private > 0 || st.Memories > 0 {
		t.Errorf("long after four versions were replaced, each with one invocation that goes on, %d memories are kept, with %d MiB of their own", st.Memories, st.Private>>20)
	}
}
