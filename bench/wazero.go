package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"golang.org/x/sys/unix"

	"github.com/ripstop-vm/ripstop/bench/internal/timing"
)

// region is one memory that instances use after one another: the quickest way to a fresh instance that wazero has.
type region struct{ all []byte }

func newRegion() (*region, error) {
	all, err := unix.Mmap(-1, 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map memory: %w", err)
	}
	return &region{all}, nil
}

func (r *region) close() error { return unix.Munmap(r.all) }

// Allocate hands out the region; only one instance has it at a time.
func (r *region) Allocate(_, _ uint64) experimental.LinearMemory { return &regionMemory{r: r} }

type regionMemory struct {
	r    *region
	size uint64
}

func (m *regionMemory) Reallocate(size uint64) []byte {
	if size > uint64(len(m.r.all)) {
		return nil
	}
	m.size = size
	return m.r.all[:size:size]
}

// Free makes the memory zero again: by hand if it is a page, else by giving it back to the system.
func (m *regionMemory) Free() {
	if used := m.r.all[:m.size]; len(used) <= 64<<10 {
		clear(used)
	} else if err := unix.Madvise(used, unix.MADV_DONTNEED); err != nil {
		clear(used)
	}
}

// plainWazero is bare wazero: a module compiled once, and instances on a memory that is used again.
type plainWazero struct {
	runtime wazero.Runtime
	cache   wazero.CompilationCache
	code    wazero.CompiledModule
	config  wazero.ModuleConfig
	region  *region
}

func (b *bench) newPlainWazero(ctx context.Context, wasm []byte) (*plainWazero, error) {
	cache, err := wazero.NewCompilationCacheWithDir(filepath.Join(b.cache, "wazero"))
	if err != nil {
		return nil, err
	}
	w := &plainWazero{cache: cache, runtime: wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCompilationCache(cache))}
	if w.region, err = newRegion(); err != nil {
		return nil, err
	}
	wasi_snapshot_preview1.MustInstantiate(ctx, w.runtime)
	if w.code, err = w.runtime.CompileModule(ctx, wasm); err != nil {
		return nil, err
	}
	w.config = wazero.NewModuleConfig().WithName("").WithRandSource(rand.Reader).WithStartFunctions("_initialize")
	return w, nil
}

func (w *plainWazero) close(ctx context.Context) {
	_ = w.runtime.Close(ctx) // and everything in it
	_ = w.cache.Close(ctx)
	_ = w.region.close()
}

// fresh measures a new instance, initialised if it has an initialisation, and closed; with a call of run if call is true. n are
// measured together.
func (w *plainWazero) fresh(ctx context.Context, d time.Duration, n int, call bool) (float64, error) {
	ctx = experimental.WithMemoryAllocator(ctx, w.region)
	return timing.Median(d, n, nil, func() error {
		m, err := w.runtime.InstantiateModule(ctx, w.code, w.config)
		if err != nil {
			return err
		}
		if call {
			out, err := m.ExportedFunction("run").Call(ctx)
			if err != nil {
				return err
			}
			if out[0] != 1 {
				return fmt.Errorf("run answered %d", out[0])
			}
		}
		return m.Close(ctx)
	})
}
