// Package examples holds programs to begin with. Package guest's tests build and run them.
package examples

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

func TestEveryExampleHasAValidManifestAndSaysHowToRunIt(t *testing.T) {
	table, err := hostcall.NewTable(guest.Libraries()...)
	if err != nil {
		t.Fatal(err)
	}
	mains, err := filepath.Glob("*/main.go")
	if err != nil || len(mains) < 5 {
		t.Fatalf("%d examples, %v", len(mains), err)
	}
	for _, main := range mains {
		dir := filepath.Dir(main)
		b, err := os.ReadFile(filepath.Join(dir, "ripstop.yaml"))
		if err != nil {
			t.Error(err)
			continue
		}
		m, err := manifest.Parse(b, table)
		if err != nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		m.Fill(m.Name)
		if err := m.Validate(table); err != nil || m.Name != dir {
			t.Errorf("%s: name %q, %v", dir, m.Name, err)
		}
		readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
		if err != nil || !strings.Contains(string(readme), "go build") {
			t.Errorf("%s: README.md does not say how to build it: %v", dir, err)
		}
		if with := "ripstop deploy --manifest examples/" + dir + "/ripstop.yaml bin/examples/" + dir + ".wasm"; !strings.Contains(string(readme), with) {
			t.Errorf("%s: README.md does not say how to deploy what `make examples` builds: %s", dir, with)
		}
	}
}
