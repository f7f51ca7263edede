package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/guest"
)

// RuntimeOptions is what guests run with, and so what their modules are compiled with: the code lies in dir.
func RuntimeOptions(engine runtime.Engine, dir string) runtime.Options {
	return runtime.Options{Libraries: guest.Libraries(), Engine: engine, CacheDir: dir, Meter: true}
}

// engines are the runtimes that guests run in: one for each engine, opened when the first module asks for it. None needs anything then
// that a confined worker may not have. They share host functions and memories of images.
type engines struct {
	dirs  map[runtime.Engine]string // of code
	first *runtime.Runtime          // the default engine's, which is always there

	mu     sync.Mutex
	others map[runtime.Engine]*runtime.Runtime // nil once closed
}

func openEngines(ctx context.Context, dirs map[runtime.Engine]string) (*engines, error) {
	first, err := runtime.Open(ctx, RuntimeOptions(runtime.Wazero, dirs[runtime.Wazero]))
	if err != nil {
		return nil, err
	}
	return &engines{dirs: dirs, first: first, others: map[runtime.Engine]*runtime.Runtime{}}, nil
}

// open answers the runtime of an engine. It fails with runtime.ErrNoEngine if this program does not have it.
func (e *engines) open(ctx context.Context, name runtime.Engine) (*runtime.Runtime, error) {
	if name == "" || name == runtime.Wazero {
		return e.first, nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.others == nil {
		return nil, errors.New("the agent is closed")
	}
	if rt := e.others[name]; rt != nil {
		return rt, nil
	}
	opts := RuntimeOptions(name, e.dirs[name])
	opts.Libraries, opts.Beside = nil, e.first
	rt, err := runtime.Open(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("open engine %s: %w", name, err)
	}
	e.others[name] = rt
	return rt, nil
}

// close ends them all, and with them all sandboxes.
func (e *engines) close() error {
	e.mu.Lock()
	others := e.others
	e.others = nil
	e.mu.Unlock()
	var err error
	for _, rt := range others {
		err = errors.Join(err, rt.Close())
	}
	return errors.Join(err, e.first.Close())
}
