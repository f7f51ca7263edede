package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/agent/wall"
)

func TestTheDoctorSaysWhatHoldsAndWhatEachAbsenceCosts(t *testing.T) {
	t.Setenv("RIPSTOP_DATA", filepath.Join(t.TempDir(), "none"))
	var out, stderr bytes.Buffer
	if code := execute(t.Context(), newRoot(), []string{"doctor", "--json"}, nil, &out, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	var d diagnosis
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	if d.Go != goruntime.Version() || d.OS != goruntime.GOOS || goruntime.GOOS == "linux" && !strings.HasPrefix(d.Kernel, "Linux ") {
		t.Errorf("%+v", d)
	}
	seen := map[string]bool{}
	for _, c := range d.Checks {
		if c.Name == "" || seen[c.Name] || c.Holds != (c.Cost == "") || !c.Holds && c.Detail == "" {
			t.Errorf("%+v", c)
		}
		seen[c.Name] = true
	}
	want := []string{"seccomp", "landlock", "PAGEMAP_SCAN", "processors", "thread priority", "broker"}
	if goruntime.GOOS == "linux" {
		want = append(want, "openat2", "memfd", "open files", "vm.max_map_count")
	}
	for _, name := range want {
		if !seen[name] {
			t.Errorf("nothing is said of %s", name)
		}
	}

	out.Reset()
	if code := execute(t.Context(), newRoot(), []string{"doctor"}, nil, &out, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	for name := range seen {
		if !strings.Contains(out.String(), "\n"+name+" ") {
			t.Errorf("no line for %s:\n%s", name, out.String())
		}
	}
}

func TestTheDoctorPrintsCostsBelowItsTable(t *testing.T) {
	d := diagnosis{Version: "v1", Go: "go1", OS: "linux", Arch: "amd64", Kernel: "Linux 5.4", Checks: []wall.Measure{
		check("this", "version 3", "nothing", nil), check("that", "", "speed", errors.New("switched off")), processorCheck(1),
	}}
	var out bytes.Buffer
	if err := d.print(&out); err != nil {
		t.Fatal(err)
	}
	const want = `ripstop v1, go1, Linux 5.4, amd64

CHECK       HOLDS  DETAIL
this        yes    version 3
that        no     switched off
processors  no     one core

What is missing costs:
  that: speed
  processors: a guest that computes delays every request
`
	if out.String() != want {
		t.Errorf("it printed\n%s", out.String())
	}
	d.Checks = d.Checks[:1]
	out.Reset()
	if err := d.print(&out); err != nil || !strings.HasSuffix(out.String(), "\nEverything holds.\n") {
		t.Errorf("it printed\n%s, %v", out.String(), err)
	}
}
