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

func TestOnlyItsBackendImportsAClientLibrary(t *testing.T) {
	owners := map[string]string{"go.etcd.io/bbolt": "/broker/embedded", "github.com/redis/go-redis": "/broker/redis"}
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}} {{join .TestImports \" \"}} {{join .XTestImports \" \"}}", module+"/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		pkg, imports, _ := strings.Cut(strings.TrimSpace(line), " ")
		for client, owner := range owners {
			if strings.Contains(imports, client) && pkg != module+owner {
				t.Errorf("%s imports %s", pkg, client)
			}
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
