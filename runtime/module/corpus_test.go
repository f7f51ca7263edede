package module_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/ripstop-vm/ripstop/runtime/module"
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

// corpus calls f with every .wasm file below dir.
func corpus(t testing.TB, dir string, f func(path string, wasm []byte)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".wasm" {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f(strings.TrimPrefix(path, dir+"/"), b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestWhatTheEngineAcceptsParses goes through the specification's suites and wazero's other test modules: a module that
// the engine accepts parses, unless it needs a feature that is refused by name.
func TestWhatTheEngineAcceptsParses(t *testing.T) {
	ctx := context.Background()
	features := api.CoreFeaturesV2 | experimental.CoreFeaturesTailCall | experimental.CoreFeaturesExtendedConst
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(features))
	defer r.Close(ctx)
	accepted, refused, unsupported := 0, 0, 0
	corpus(t, wazeroDir(t), func(path string, wasm []byte) {
		// The engine accepts some of this proposal without being asked to.
		proposal := strings.Contains(path, "typed-function-references")
		c, engineErr := r.CompileModule(ctx, wasm)
		if engineErr == nil {
			c.Close(ctx)
		}
		_, err := module.Parse(wasm, module.Bounds{})
		var e *module.Error
		switch {
		case err == nil && engineErr == nil:
			accepted++
		case err != nil && !errors.As(err, &e):
			t.Errorf("%s: an error that is no *Error: %v", path, err)
		case engineErr == nil && e.Check == "features" && proposal:
			unsupported++
		case engineErr == nil:
			t.Errorf("%s: the engine accepts it, Parse says: %v", path, err)
		default:
			refused++
		}
	})
	t.Logf("%d accepted by both, %d refused by the engine, %d with unsupported features", accepted, refused, unsupported)
	if accepted < 2500 {
		t.Errorf("only %d modules were accepted: is the corpus there?", accepted)
	}
}
