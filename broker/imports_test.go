package broker_test

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/ripstop-vm/ripstop"

func depsOf(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", pkg).CombinedOutput()
	if err != nil {
		t.Fatalf("go list -deps %s: %v: %s", pkg, err, out)
	}
	return strings.Fields(string(out))
}

func TestTheContractsImportNoBackend(t *testing.T) {
	for _, dep := range depsOf(t, module+"/broker") {
		if dep != module+"/broker" && !strings.HasPrefix(dep, module+"/internal/") {
			t.Errorf("package broker imports %s", dep)
		}
	}
}

func TestOnlyTheEmbeddedBackendImportsBbolt(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", module+"/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		pkg, imports, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.Contains(imports, "go.etcd.io/bbolt") && pkg != module+"/broker/embedded" {
			t.Errorf("%s imports bbolt", pkg)
		}
	}
}

// What a guest imports is compiled into every guest.
func TestTheSDKImportsTheStandardLibraryOnly(t *testing.T) {
	for _, dep := range depsOf(t, module+"/sdk") {
		if dep != module+"/sdk" && !strings.HasPrefix(dep, module+"/sdk/") {
			t.Errorf("package sdk imports %s", dep)
		}
	}
}
