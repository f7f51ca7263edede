package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"time"
)

// wasmtimePeer is a running peers/wasmtime.
type wasmtimePeer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// buildWasmtime builds the program that measures wasmtime-go.
func (b *bench) buildWasmtime(ctx context.Context) error {
	if _, err := find("gcc", "wasmtime-go needs a C compiler (Debian: apt-get install gcc libc6-dev)"); err != nil {
		return err
	}
	_, err := output(ctx, filepath.Join(b.root, "bench"), []string{"CGO_ENABLED=1"}, "go", "build", "-tags", "wasmtime", "-o", filepath.Join(b.cache, "wasmtime"), "./peers/wasmtime")
	return err
}

// startWasmtime starts it. It fails with a missingError where it could not be built.
func (b *bench) startWasmtime(ctx context.Context) (*wasmtimePeer, error) {
	if err := b.missing["wasmtime-go"]; err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(b.cache, "wasmtime"))
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the program that measures wasmtime-go: %w", err)
	}
	return &wasmtimePeer{cmd, in, bufio.NewReader(out)}, nil
}

// stop ends the program.
func (p *wasmtimePeer) stop() {
	_ = p.in.Close()
	_ = p.cmd.Wait() // it has nothing to say
}

// measure asks for one measurement, in ns.
func (p *wasmtimePeer) measure(what, file string, d time.Duration) (float64, error) {
	if err := json.NewEncoder(p.in).Encode(map[string]any{"What": what, "File": file, "Time": d}); err != nil {
		return 0, fmt.Errorf("ask for %s: %w", what, err)
	}
	var a struct {
		Nanoseconds float64
		Error       string
	}
	l, err := p.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(l, &a)
	}
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	if err != nil {
		return 0, fmt.Errorf("wasmtime-go, %s: %w", what, err)
	}
	return a.Nanoseconds, nil
}
