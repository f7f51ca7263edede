package translate_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/sys"

	"github.com/ripstop-vm/ripstop/runtime/module"
	"github.com/ripstop-vm/ripstop/runtime/translate"
)

// wazeroDir is where the module cache holds wazero, whose archive has the specification's test suites.
func wazeroDir(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	if err != nil {
		t.Fatalf("find wazero's sources: %v", err)
	}
	return strings.TrimSpace(string(out))
}

const features = api.CoreFeaturesV2 | experimental.CoreFeaturesTailCall | experimental.CoreFeaturesExtendedConst

// kind is an engine, and whether modules are translated before they run on it.
type kind struct {
	interpret, translate bool
}

func (k kind) String() string {
	return map[bool]string{false: "compiled", true: "interpreted"}[k.interpret] + map[bool]string{false: "", true: " and translated"}[k.translate]
}

// kinds are all four.
var kinds = []kind{{false, false}, {false, true}, {true, false}, {true, true}}

// depth is a bound that every engine can keep: wazero's interpreter has 2,000 frames.
func (k kind) depth() int64 {
	if k.interpret {
		return 96 << 10
	}
	return translate.DefaultDepth
}

// world is a runtime with instances that may be linked to each other.
type world struct {
	kind
	t       testing.TB
	r       wazero.Runtime
	budget  int64
	live    []*instance
	options translate.Options
	stopped string // why the tick ended the guest
	ticks   int
	onTick  func(fuel, depth int64)
}

type instance struct {
	api.Module
	result             *translate.Result
	meter              translate.Meter
	fuel, depth, dirty api.MutableGlobal
}

func newWorld(t testing.TB, k kind, features api.CoreFeatures) *world {
	cfg := wazero.NewRuntimeConfigCompiler()
	if k.interpret {
		cfg = wazero.NewRuntimeConfigInterpreter()
	}
	ctx := context.Background()
	w := &world{kind: k, t: t, r: wazero.NewRuntimeWithConfig(ctx, cfg.WithCoreFeatures(features)), budget: 1 << 40, options: translate.Options{Depth: k.depth(), TableElements: 1 << 20}}
	tick := func(_ context.Context, caller api.Module, stack []uint64) {
		w.ticks++
		if w.onTick != nil {
			w.onTick(int64(stack[0]), int64(stack[1]))
		}
		if int64(stack[1]) < 0 {
			w.stopped = "stack overflow"
			panic(sys.NewExitError(1))
		}
		in := w.of(caller)
		if in == nil { // while it is instantiated nothing runs
			panic("a tick of an unknown instance")
		}
		grant, ok := in.meter.Tick(int64(stack[0]))
		if !ok {
			w.stopped = "out of fuel"
			panic(sys.NewExitError(1))
		}
		stack[0] = uint64(grant)
	}
	_, err := w.r.NewHostModuleBuilder(translate.MeterModule).NewFunctionBuilder().
		WithGoModuleFunction(api.GoModuleFunc(tick), []api.ValueType{api.ValueTypeI64, api.ValueTypeI64}, []api.ValueType{api.ValueTypeI64}).
		Export(translate.TickName).Instantiate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) close() { w.r.Close(context.Background()) }

func (w *world) of(m api.Module) *instance {
	for _, in := range w.live {
		if in.Module == m || in.Module.(interface{ Name() string }).Name() == m.Name() && m.Name() != "" {
			return in
		}
	}
	return nil
}

var errInvalid = errors.New("invalid")

// instantiate validates, translates and instantiates a module as the platform would.
func (w *world) instantiate(wasm []byte, name string) (*instance, error) {
	ctx := context.Background()
	code, err := w.r.CompileModule(ctx, wasm)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errInvalid, err)
	}
	in := &instance{}
	if w.translate {
		if in.result, err = translate.Translate(wasm, w.options); err != nil {
			w.t.Fatalf("%s: a valid module cannot be translated: %v", w.kind, err)
		}
		if code, err = w.r.CompileModule(ctx, in.result.Wasm); err != nil {
			w.t.Fatalf("%s: a translated module is invalid: %v", w.kind, err)
		}
	}
	if in.Module, err = w.r.InstantiateModule(ctx, code, wazero.NewModuleConfig().WithName(name).WithStartFunctions()); err != nil {
		return nil, err
	}
	w.live = append(w.live, in)
	if !w.translate {
		return in, nil
	}
	global := func(name string) api.MutableGlobal { return in.ExportedGlobal(name).(api.MutableGlobal) }
	in.fuel, in.depth, in.dirty = global(translate.FuelExport), global(translate.DepthExport), global(translate.DirtyExport)
	for _, e := range in.result.Image {
		if !in.Memory().Write(e.Offset, e.Bytes) {
			w.t.Fatal("the image does not fit")
		}
	}
	if in.result.Start {
		if _, err := w.call(in, translate.StartExport); err != nil {
			in.Close(ctx)
			return nil, err
		}
	}
	return in, nil
}

// call calls an export with a full budget and depth for every instance.
func (w *world) call(in *instance, name string, params ...uint64) ([]uint64, error) {
	w.stopped = ""
	if w.translate {
		for _, in := range w.live {
			in.fuel.Set(uint64(in.meter.Begin(w.budget)))
			in.depth.Set(uint64(w.options.Depth))
		}
	}
	return in.ExportedFunction(name).Call(context.Background(), params...)
}

// used is the fuel that the last call took.
func (w *world) used() (n int64) {
	for _, in := range w.live {
		n += in.meter.Used(int64(in.fuel.Get()))
	}
	return n
}

// outcome is a failure as it can be compared: a trap's reason, or another error's class.
func (w *world) outcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case w.stopped != "":
		return w.stopped
	case errors.Is(err, errInvalid):
		return "invalid"
	}
	text := err.Error()
	if _, after, ok := strings.Cut(text, "wasm error: "); ok {
		reason, _, _ := strings.Cut(after, "\n")
		return reason
	}
	if strings.Contains(text, "stack overflow") {
		return "stack overflow"
	}
	line, _, _ := strings.Cut(text, "\n")
	if before, _, ok := strings.Cut(line, "maximum size mismatch"); ok {
		line = before + "maximum size mismatch" // translation lowers maxima
	}
	return "error: " + line
}

// mustTranslate translates for tests of single modules.
func mustTranslate(t testing.TB, wasm []byte, opts translate.Options) *translate.Result {
	t.Helper()
	res, err := translate.Translate(wasm, opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := module.Parse(res.Wasm, module.Bounds{}); err != nil {
		t.Fatalf("translated: %v", err)
	}
	return res
}
