package secretfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestASecretFileCutOffBeforeIsWrittenAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path+".new", []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("whole")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if b, _ := os.ReadFile(path); err != nil || string(b) != "whole" || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %q, %v, %v", b, info, err)
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the half is left: %v", err)
	}
	if err := Write(filepath.Join(path, "below"), nil); err == nil {
		t.Error("a file below a file was written")
	}
}
