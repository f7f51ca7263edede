//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestAPathIsBeneathADirectoryWhateverLinksLeadThere(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "dir")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"link": dir, "sublink": filepath.Join(dir, "sub")} {
		if err := os.Symlink(to, filepath.Join(top, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		path, dir string
		want      bool
	}{
		{"dir", "dir", true}, {"dir/sub", "dir", true}, {"dir/sub/not/there", "dir", true}, {"sublink", "dir", true}, {"dir/sub", "link", true},
		{"dir", "", true}, {"not/there", "dir", false}, {"", "dir", false}, {"dir", "sublink", false}, {"dirs", "dir", false},
	} {
		got, err := beneath(filepath.Join(top, c.path), filepath.Join(top, c.dir))
		if err != nil || got != c.want {
			t.Errorf("%q beneath %q: %v, %v", c.path, c.dir, got, err)
		}
	}
	if _, err := beneath(top, filepath.Join(top, "not there")); err == nil {
		t.Error("a directory that is not there holds something")
	}
}

func TestAServerRefusesAVolumeThatHoldsItsOwnData(t *testing.T) {
	dir := t.TempDir()
	err := serve(t.Context(), serveOptions{data: filepath.Join(dir, "data"), maxUpload: "1MiB", logFormat: "text", logLevel: "info", volumes: []string{"all=" + dir}}, t.Output(), t.Output())
	if err == nil {
		t.Fatal("it started")
	}
	t.Log(err)
	if _, err := os.Stat(filepath.Join(dir, "data")); !os.IsNotExist(err) {
		t.Error("it made a data directory")
	}
}

func TestAReadOnlyVolumeIsNotGrantedForWriting(t *testing.T) {
	s := startServer(t, "--volume", "fixed="+t.TempDir()+":ro")
	module := saying("Content-Type: text/plain\n\nhello")
	s.deploy("reads", module, "capabilities: {files: [{guest: /data, source: fixed}]}\n")
	code, body := s.tryDeploy("writes", module, "capabilities: {files: [{guest: /data, source: fixed/below, access: rw}]}\n")
	if code != 422 || !strings.Contains(string(body), `volume \"fixed\" is read-only`) {
		t.Errorf("%d %s", code, body)
	}
}
