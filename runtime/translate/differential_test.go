package translate_test

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/translate"
)

var hashSeed = maphash.MakeSeed()

// observe runs a generated module and answers all that can be seen of it, and the fuel that calls took. budget is what they may
// take; nil is for no bound. It closes m.
func observe(t *testing.T, v variant, m machine, g *generated, seed uint64, budget func(call int) int64) (seen []string, fuel []int64) {
	defer m.close()
	in, err := m.start(g.wasm, "")
	seen = append(seen, m.outcome(err))
	if err != nil {
		if seen[0] == "invalid" {
			t.Fatalf("the generator made an invalid module: %v", err)
		}
		return seen, nil
	}
	choose := rand.New(rand.NewPCG(seed, 1))
	show := func(name string, params ...uint64) string {
		if g.wide[name] {
			name = plainName(name) // no engine's package has to know of a v128
		}
		results, err := in.call(name, params...)
		return m.outcome(err) + shownResults(in.results(name), results, true)
	}
	const enough = 1 << 40
	for n := range 12 {
		i := choose.IntN(len(g.funcs))
		var params []uint64
		for _, p := range g.funcs[i][0] {
			params = append(params, uint64(choose.IntN(100)))
			if p == v128 {
				params = append(params, choose.Uint64())
			}
		}
		in.set("gas", gas)
		m.budget(enough)
		if budget != nil {
			m.budget(budget(n))
		}
		outcome := show(name('f', i), params...)
		line := fmt.Sprint("f", i, " ", outcome)
		if v.translated {
			fuel = append(fuel, m.used())
			if strings.HasPrefix(outcome, "ok") && in.left() != translate.DefaultDepth {
				t.Errorf("%s: %s returned with %d bytes of depth, began with %d", v, name('f', i), in.left(), translate.DefaultDepth)
			}
		}
		m.budget(enough)
		memory := in.bytes()
		line += fmt.Sprintf("; memory %d %x;", len(memory), maphash.Bytes(hashSeed, memory))
		for i := range g.shows {
			line += " " + show(name('g', i))
		}
		for i := range g.tables {
			line += " " + show(name('s', i))
			for e := range uint64(20) {
				line += " " + show(name('t', i), e)
			}
		}
		seen = append(seen, line)
	}
	return seen, fuel
}

// differ runs a generated module in every way and reports where they differ, and then once more with half of the
// fuel that each call took.
func differ(t *testing.T, seed1, seed2 uint64) {
	g := generate(seed1, seed2)
	g.wasm = reachable(t, g.wasm)
	all := variants()
	var first []string
	var took []int64
	run := func(v variant, budget func(int) int64) {
		seen, fuel := observe(t, v, v.open(t, features, translate.DefaultDepth), &g, seed1, budget)
		if first == nil {
			first = seen
		}
		for i := range first {
			if i >= len(seen) || seen[i] != first[i] {
				t.Fatalf("seeds %d, %d: %s:\n%s\n%s:\n%s", seed1, seed2, all[0], first[i], v, seen[min(i, len(seen)-1)])
			}
		}
		if !v.translated {
			return
		}
		if took == nil {
			took = fuel
		}
		for i := range took {
			if fuel[i] != took[i] && fuel[i] >= 0 {
				t.Fatalf("seeds %d, %d: call %d took %d fuel at first, %d on %s: %s", seed1, seed2, i, took[i], fuel[i], v, seen[i+1])
			}
		}
	}
	for _, v := range all {
		run(v, nil)
	}
	whole := took
	first, took = nil, nil
	for _, v := range all {
		if v.translated {
			run(v, func(call int) int64 { return whole[call] / 2 })
		}
	}
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
	interpreted := variants()[3]
	for seed := range uint64(100) {
		g := generate(seed, 1)
		g.wasm = reachable(t, g.wasm)
		v := interpreted
		seen, fuel := observe(t, v, v.open(t, features, translate.DefaultDepth), &g, seed, nil)
		m := v.open(t, features, translate.DefaultDepth)
		translate.ChargeEach(&m.(wazeroMachine).w.options)
		seenEach, each := observe(t, v, m, &g, seed, nil)
		for i := range fuel {
			outcome := seen[i+1]
			if outcome != seenEach[i+1] {
				t.Fatalf("seed %d: %s; charged one by one: %s", seed, outcome, seenEach[i+1])
			}
			if ok := strings.Contains(strings.SplitN(outcome, ";", 2)[0], " ok"); ok && fuel[i] != each[i] || fuel[i] < each[i] {
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
