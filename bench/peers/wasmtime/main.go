//go:build wasmtime && cgo

// Command wasmtime measures wasmtime-go for the bench: each line on standard input asks for one measurement, and is answered by a
// line with nanoseconds, or with an error. It is a program of its own because it needs cgo.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	wt "github.com/bytecodealliance/wasmtime-go/v44"

	"github.com/ripstop-vm/ripstop/bench/internal/timing"
)

// request is a line of input.
type request struct {
	What string        // key of measurements
	File string        // the guest
	Time time.Duration // for how long
}

// answer is a line of output.
type answer struct {
	Nanoseconds float64
	Error       string
}

// measurements are what can be asked for; each answers the median of one operation.
var measurements = map[string]func(*wt.Engine, *wt.Module, time.Duration) (float64, error){
	"instantiate":            func(e *wt.Engine, m *wt.Module, d time.Duration) (float64, error) { return fresh(e, m, d, false) },
	"instantiate and call":   func(e *wt.Engine, m *wt.Module, d time.Duration) (float64, error) { return fresh(e, m, d, true) },
	"host call":              hostCall,
	"loop":                   loop,
	"loop with fuel":         loop,
	"loop with epoch checks": loop,
}

func main() {
	type key struct {
		engine string
		file   string
	}
	engines, modules := map[string]*wt.Engine{}, map[key]*wt.Module{}
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for in.Scan() {
		var a answer
		var r request
		err := json.Unmarshal(in.Bytes(), &r)
		measure := measurements[r.What]
		if err == nil && measure == nil {
			err = fmt.Errorf("there is no measurement %q", r.What)
		}
		if err == nil {
			e := engines[r.What]
			if e == nil {
				e = wt.NewEngineWithConfig(config(r.What))
				engines[r.What] = e
			}
			m := modules[key{r.What, r.File}]
			if m == nil {
				if m, err = wt.NewModuleFromFile(e, r.File); err == nil {
					modules[key{r.What, r.File}] = m
				}
			}
			if err == nil {
				a.Nanoseconds, err = measure(e, m, r.Time)
			}
		}
		if err != nil {
			a.Error = err.Error()
		}
		if out.Encode(a) != nil {
			return // nobody listens any more
		}
	}
}

func config(what string) *wt.Config {
	c := wt.NewConfig()
	c.SetConsumeFuel(what == "loop with fuel")
	c.SetEpochInterruption(what == "loop with epoch checks")
	return c
}

// fresh measures a new instance, initialised if it has an initialisation, and closed.
func fresh(e *wt.Engine, m *wt.Module, d time.Duration, call bool) (float64, error) {
	return timing.Median(d, 1, nil, func() error {
		store := wt.NewStore(e)
		defer store.Close()
		store.SetWasi(wt.NewWasiConfig())
		linker := wt.NewLinker(e)
		defer linker.Close()
		if err := linker.DefineWasi(); err != nil {
			return err
		}
		i, err := linker.Instantiate(store, m)
		if err != nil {
			return err
		}
		if f := i.GetFunc(store, "_initialize"); f != nil {
			if _, err := f.Call(store); err != nil {
				return err
			}
		}
		if !call {
			return nil
		}
		n, err := i.GetFunc(store, "run").Call(store)
		if err == nil && n != int32(1) {
			err = fmt.Errorf("run answered %v", n)
		}
		return err
	})
}

// hostCall measures one of the 1,000 calls of m.f that run makes.
func hostCall(e *wt.Engine, m *wt.Module, d time.Duration) (float64, error) {
	store := wt.NewStore(e)
	defer store.Close()
	i32, i64 := wt.NewValType(wt.KindI32), wt.NewValType(wt.KindI64)
	f := wt.NewFunc(store, wt.NewFuncType([]*wt.ValType{i32, i64}, []*wt.ValType{i32}), func(*wt.Caller, []wt.Val) ([]wt.Val, *wt.Trap) {
		return []wt.Val{wt.ValI32(0)}, nil
	})
	i, err := wt.NewInstance(store, m, []wt.AsExtern{f})
	if err != nil {
		return 0, err
	}
	run := i.GetFunc(store, "run")
	ns, err := timing.Median(d, 1, nil, func() error {
		_, err := run.Call(store)
		return err
	})
	return ns / 1000, err
}

// loop measures a call of f with 100,000.
func loop(e *wt.Engine, m *wt.Module, d time.Duration) (float64, error) {
	store := wt.NewStore(e)
	defer store.Close()
	fuel := store.SetFuel(math.MaxInt64) == nil
	store.SetEpochDeadline(math.MaxInt64)
	i, err := wt.NewInstance(store, m, nil)
	if err != nil {
		return 0, err
	}
	f := i.GetFunc(store, "f")
	if f == nil {
		return 0, errors.New("the guest has no function f")
	}
	return timing.Median(d, 1, func() error {
		if fuel {
			return store.SetFuel(math.MaxInt64)
		}
		return nil
	}, func() error {
		_, err := f.Call(store, int32(100_000))
		return err
	})
}
