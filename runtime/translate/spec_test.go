package translate_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero/api"
)

// script is a test script of the specification, as wast2json writes it.
type script struct {
	Commands []command `json:"commands"`
}

type command struct {
	Type       string `json:"type"`
	Line       int    `json:"line"`
	Name       string `json:"name"`
	Filename   string `json:"filename"`
	As         string `json:"as"`
	Text       string `json:"text"`
	ModuleType string `json:"module_type"`
	Action     struct {
		Type   string  `json:"type"`
		Field  string  `json:"field"`
		Module string  `json:"module"`
		Args   []value `json:"args"`
	} `json:"action"`
}

type value struct {
	Type  string `json:"type"`
	Lane  string `json:"lane_type"`
	Value any    `json:"value"`
}

// raw is a parameter as an engine takes it.
func (v value) raw(t *testing.T) []uint64 {
	if v.Type == "v128" {
		width := map[byte]int{'8': 8, '6': 16, '2': 32, '4': 64}[v.Lane[len(v.Lane)-1]]
		var out [2]uint64
		for i, lane := range v.Value.([]any) {
			out[i*width/64] |= number(t, lane, width) << (i * width % 64)
		}
		return out[:]
	}
	switch {
	case v.Value == nil || v.Value == "null":
		return []uint64{0}
	case v.Type == "externref":
		return []uint64{number(t, v.Value, 64) + 1} // 0 is null
	case strings.HasSuffix(v.Type, "32"):
		return []uint64{number(t, v.Value, 32)}
	}
	return []uint64{number(t, v.Value, 64)}
}

func number(t *testing.T, v any, bits int) uint64 {
	s := v.(string)
	if strings.HasPrefix(s, "-") {
		n, err := strconv.ParseInt(s, 10, bits)
		if err != nil {
			t.Fatal(err)
		}
		return uint64(n) & (1<<bits - 1)
	}
	n, err := strconv.ParseUint(s, 10, bits)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// play runs a script and answers what came of each command, and the fuel that calls took.
func play(t *testing.T, w *world, dir string, s *script, spectest []byte) (outcomes []string, fuel []int64) {
	if _, err := w.instantiate(spectest, "spectest"); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var last *instance
	named := map[string]*instance{}
	for i := 0; i < len(s.Commands); i++ {
		c := &s.Commands[i]
		result, took := "", int64(0)
		switch c.Type {
		case "module", "assert_malformed", "assert_invalid", "assert_unlinkable", "assert_uninstantiable":
			if c.ModuleType == "text" {
				continue
			}
			name := ""
			if c.Type == "module" && i+1 < len(s.Commands) && s.Commands[i+1].Type == "register" {
				name = s.Commands[i+1].As
				i++
			}
			in, err := w.instantiate(read(c.Filename), name)
			result = w.outcome(err)
			if c.Type == "module" {
				if last = in; c.Name != "" {
					named[c.Name] = in
				}
			}
		case "assert_return", "action", "assert_trap", "assert_exhaustion":
			in := last
			if c.Action.Module != "" {
				in = named[c.Action.Module]
			}
			if in == nil {
				result = "no module"
				break
			}
			if c.Action.Type == "get" {
				result = fmt.Sprint(in.ExportedGlobal(c.Action.Field).Get())
				break
			}
			var params []uint64
			for _, a := range c.Action.Args {
				params = append(params, a.raw(t)...)
			}
			results, err := w.call(in, c.Action.Field, params...)
			if result = w.outcome(err); err == nil {
				i := 0
				for _, typ := range in.ExportedFunction(c.Action.Field).Definition().ResultTypes() {
					switch typ {
					case 0x70: // an address of the engine's
						result += fmt.Sprint(" function: ", results[i] != 0)
					case 0x7b:
						result += fmt.Sprintf(" %x:%x", results[i], results[i+1])
						i++
					default:
						result += fmt.Sprintf(" %x", results[i])
					}
					i++
				}
			} else if c.Type == "assert_return" || c.Type == "action" {
				t.Errorf("line %d: %s: %v", c.Line, w.kind, err)
			}
			if w.translate {
				took = w.used()
			}
		default:
			t.Fatalf("line %d: unknown command %s", c.Line, c.Type)
		}
		fuel = append(fuel, took)
		outcomes = append(outcomes, fmt.Sprintf("line %d, %s: %s", c.Line, c.Type, result))
	}
	return outcomes, fuel
}

// TestTheSpecificationsSuitesGiveTheSameResults plays the specification's scripts with and without translation, compiled and
// interpreted, and compares what comes of each command; and the fuel that calls take, which no engine may change.
func TestTheSpecificationsSuitesGiveTheSameResults(t *testing.T) {
	base := filepath.Join(wazeroDir(t), "internal/integration_test/spectest")
	spectest, err := os.ReadFile(filepath.Join(base, "testdata/spectest.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	found, commands := 0, 0
	for suite, on := range map[string]api.CoreFeatures{"v1": api.CoreFeaturesV1, "v2": api.CoreFeaturesV2, "tail-call": features, "extended-const": features} {
		files, err := filepath.Glob(filepath.Join(base, suite, "testdata/*.json"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no scripts for %s: %v", suite, err)
		}
		found += len(files)
		for _, file := range files {
			t.Run(suite+"/"+strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
				raw, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				var s script
				if err := json.Unmarshal(raw, &s); err != nil {
					t.Fatal(err)
				}
				outcomes, fuel := map[kind][]string{}, map[kind][]int64{}
				for _, k := range kinds {
					w := newWorld(t, k, on)
					w.options.Depth = kind{interpret: true}.depth()
					outcomes[k], fuel[k] = play(t, w, filepath.Dir(file), &s, spectest)
					w.close()
				}
				for _, interpret := range []bool{false, true} {
					plain, translated := outcomes[kind{interpret, false}], outcomes[kind{interpret, true}]
					for i := range plain {
						if plain[i] != translated[i] {
							t.Errorf("%s: %s; translated: %s", kind{interpret, false}, plain[i], translated[i])
						}
					}
				}
				a, b := fuel[kind{false, true}], fuel[kind{true, true}]
				for i := range a {
					if a[i] != b[i] {
						t.Errorf("%s: %d fuel compiled, %d interpreted", outcomes[kind{false, true}][i], a[i], b[i])
					}
				}
				commands += len(outcomes[kinds[0]])
			})
		}
	}
	t.Logf("%d scripts, %d commands", found, commands)
	if found < 200 {
		t.Error("too few scripts: are the suites there?")
	}
}
