package main

import (
	"errors"
	"os"
	"path/filepath"
)

// Addresses that the server listens on, and that the client verbs expect it at, unless told otherwise.
const (
	defaultAPIAddress     = "127.0.0.1:7070"
	defaultIngressAddress = "127.0.0.1:8080"
)

// tokenFile is the bootstrap token's name in the data directory. Its mode is 0600.
const tokenFile = "token"

// codeKeyFile is the key's name in the data directory that compiled code is sealed with. Its mode is 0600.
const codeKeyFile = "code.key"

// dataDirHelp is the help text of --data, for every command that has it.
const dataDirHelp = "data directory (default $RIPSTOP_DATA, else ripstop in the user's data directory)"

// dataDir answers the data directory: flag when it is not empty, else $RIPSTOP_DATA, else $XDG_DATA_HOME/ripstop, else
// ~/.local/share/ripstop. It creates nothing.
func dataDir(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if dir := os.Getenv("RIPSTOP_DATA"); dir != "" {
		return dir, nil
	}
	// The XDG base directory specification has relative paths ignored.
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "ripstop"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", errors.New("no home directory to keep data in: give --data DIR or set RIPSTOP_DATA")
	}
	return filepath.Join(home, ".local", "share", "ripstop"), nil
}

// beneath reports whether path is dir or beneath it, links resolved. Of a path that is not there yet, its nearest parent that is
// there counts.
func beneath(path, dir string) (bool, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false, err
	}
	real, err := filepath.EvalSymlinks(path)
	for errors.Is(err, os.ErrNotExist) && path != filepath.Dir(path) {
		path = filepath.Dir(path)
		real, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return false, err
	}
	rel, err := filepath.Rel(dir, real)
	return err == nil && filepath.IsLocal(rel), nil
}
