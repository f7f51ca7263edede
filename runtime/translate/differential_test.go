package translate_test

import (
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero/api"

	"github.com/ripstop-vm/ripstop/runtime/translate"
)

var hashSeed = maphash.MakeSeed()

// observe runs a generated module and answers all that can be seen of it, and the fuel that calls took. budget is what they may
// take; nil is for no bound.
func observe(t *testing.T, k kind, m *generated, seed uint64, budget func(call int) int64) (seen []string, fuel []int64) {
	return observeIn(newWorld(t, k, features), t, m, seed, budget)
}

func observeIn(w *world, t *testing.T, m *generated, seed uint64, budget func(call int) int64) (seen []string, fuel []int64) {
	k := w.kind
	defer w.close()
	w.options.Depth = translate.DefaultDepth // gas bounds it
	ctx := context.Background()
	_, err := w.r.NewHostModuleBuilder("env").NewFunctionBuilder().WithGoFunction(api.GoFunc(func(_ context.Context, stack []uint64) {
		stack[0] = uint64(uint32(stack[0])*2654435761 + 1)
	}), []api.ValueType{api.ValueTypeI32}, []api.ValueType{api.ValueTypeI32}).Export("mix").Instantiate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	in, err := w.instantiate(m.wasm, "")
	seen = append(seen, w.outcome(err))
	if err != nil {
		if seen[0] == "invalid" {
			t.Fatalf("the generator made an invalid module: %v", err)
		}
		return seen, nil
	}
	choose := rand.New(rand.NewPCG(seed, 1))
	show := func(name string, params ...uint64) string {
		results, err := w.call(in, name, params...)
		return fmt.Sprint(w.outcome(err), shown(in.ExportedFunction(name).Definition().ResultTypes(), results))
	}
	for n := range 12 {
		i := choose.IntN(len(m.funcs))
		var params []uint64
		for _, p := range m.funcs[i][0] {
			params = append(params, uint64(choose.IntN(100)))
			if p == v128 {
				params = append(params, choose.Uint64())
			}
		}
		in.ExportedGlobal("gas").(api.MutableGlobal).Set(gas)
		if w.budget = 1 << 40; budget != nil {
			w.budget = budget(n)
		}
		line := fmt.Sprint("f", i, " ", show(name('f', i), params...))
		if k.translate {
			fuel = append(fuel, w.used())
			if strings.Contains(strings.SplitN(line, "[", 2)[0], " ok") && in.depth.Get() != translate.DefaultDepth {
				t.Errorf("%s returned with %d bytes of depth, began with %d", name('f', i), in.depth.Get(), translate.DefaultDepth)
			}
		}
		w.budget = 1 << 40
		memory, _ := in.Memory().Read(0, in.Memory().Size())
		line += fmt.Sprintf("; memory %d %x", len(memory), maphash.Bytes(hashSeed, memory))
		for i := range m.shows {
			line += show(name('g', i))
		}
		for i := range m.tables {
			line += show(name('s', i))
			for e := range uint64(20) {
				line += show(name('t', i), e)
			}
		}
		seen = append(seen, line)
	}
	return seen, fuel
}

// shown is results without the bits of a NaN.
func shown(types []api.ValueType, results []uint64) (out []string) {
	i := 0
	for _, t := range types {
		if i >= len(results) {
			break
		}
		switch {
		case t == api.ValueTypeF32 && math.IsNaN(float64(math.Float32frombits(uint32(results[i])))),
			t == api.ValueTypeF64 && math.IsNaN(math.Float64frombits(results[i])):
			out = append(out, "NaN")
		case t == v128:
			out = append(out, fmt.Sprintf("%x:%x", results[i], results[i+1]))
			i++
		case t == api.ValueTypeI32 || t == api.ValueTypeF32: // the upper half is the engine's
			out = append(out, fmt.Sprintf("%x", uint32(results[i])))
		default:
			out = append(out, fmt.Sprintf("%x", results[i]))
		}
		i++
	}
	return out
}

// differ runs a generated module on every kind of engine and reports where they differ, and then once more with half of the
// fuel that each call took.
func differ(t *testing.T, seed1, seed2 uint64) {
	m := generate(seed1, seed2)
	seen, fuel := map[kind][]string{}, map[kind][]int64{}
	for _, k := range kinds {
		seen[k], fuel[k] = observe(t, k, &m, seed1, nil)
	}
	same := func(a, b kind) {
		for i := range seen[a] {
			if i >= len(seen[b]) || seen[a][i] != seen[b][i] {
				t.Fatalf("seeds %d, %d: %s:\n%s\n%s:\n%s", seed1, seed2, a, seen[a][i], b, seen[b][min(i, len(seen[b])-1)])
			}
		}
	}
	for _, k := range kinds[1:] {
		same(kinds[0], k)
	}
	compiled, interpreted := kind{false, true}, kind{true, true}
	sameFuel := func() {
		for i := range fuel[compiled] {
			if fuel[compiled][i] != fuel[interpreted][i] {
				t.Fatalf("seeds %d, %d: call %d took %d fuel compiled, %d interpreted", seed1, seed2, i, fuel[compiled][i], fuel[interpreted][i])
			}
		}
	}
	sameFuel()
	took := fuel[compiled]
	for _, k := range []kind{compiled, interpreted} {
		seen[k], fuel[k] = observe(t, k, &m, seed1, func(call int) int64 { return took[call] / 2 })
	}
	same(compiled, interpreted)
	sameFuel()
}

func TestGeneratedModulesDoTheSameTranslated(t *testing.T) {
	for seed := range uint64(150) {
		differ(t, seed, 0)
	}
}

// TestRegionsCostWhatTheirInstructionsCost: charging region by region takes as much fuel as charging every instruction when it
// is run, unless the guest ends within a region: then it takes more.
func TestRegionsCostWhatTheirInstructionsCost(t *testing.T) {
	calls := 0
	for seed := range uint64(100) {
		m := generate(seed, 1)
		k := kind{interpret: true, translate: true}
		seen, fuel := observe(t, k, &m, seed, nil)
		w := newWorld(t, k, features)
		translate.ChargeEach(&w.options)
		seenEach, each := observeIn(w, t, &m, seed, nil)
		for i := range fuel {
			outcome := seen[i+1]
			if outcome != seenEach[i+1] {
				t.Fatalf("seed %d: %s; charged one by one: %s", seed, outcome, seenEach[i+1])
			}
			if ok := strings.Contains(strings.SplitN(outcome, "[", 2)[0], " ok"); ok && fuel[i] != each[i] || fuel[i] < each[i] {
				t.Fatalf("seed %d: call %d took %d fuel, its instructions %d: %s", seed, i, fuel[i], each[i], outcome)
			}
			calls++
		}
	}
	t.Logf("%d calls", calls)
}

// FuzzDifferential: generated modules do the same translated and not, compiled and interpreted, and take the same fuel.
func FuzzDifferential(f *testing.F) {
	f.Add(uint64(1), uint64(1))
	f.Fuzz(differ)
}
