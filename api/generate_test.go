package api

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The committed code is what the description generates. The generator is part of this module's tools, so nothing is fetched
// that building does not need.
func TestGeneratedCodeIsUpToDate(t *testing.T) {
	for config, file := range map[string]string{"model/model.cfg.yaml": "model/model.gen.go", "server.cfg.yaml": "api.gen.go", "client/client.cfg.yaml": "client/client.gen.go"} {
		text, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		out := filepath.Join(dir, "generated.go")
		elsewhere := bytes.Replace(text, []byte("output: "+file), []byte("output: "+out), 1)
		if bytes.Equal(elsewhere, text) {
			t.Fatalf("%s does not write %s", config, file)
		}
		if err := os.WriteFile(filepath.Join(dir, "config.yaml"), elsewhere, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "go", "tool", "oapi-codegen", "-config", filepath.Join(dir, "config.yaml"), "openapi.yaml")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		want, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is out of date: run go generate ./api", file)
		}
	}
}
