package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	goruntime "runtime"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/agent"
	"github.com/ripstop-vm/ripstop/agent/supervisor"
	"github.com/ripstop-vm/ripstop/agent/wall"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/module"
	"github.com/ripstop-vm/ripstop/runtime/processor"
)

func newCompileCommand() *cobra.Command {
	var dir, engine string
	var cpu uint64
	var size int
	cmd := &cobra.Command{
		Use:    "compile",
		Short:  "Compile a module on standard input for a server (started by `ripstop serve`, not by hand)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" || cpu == 0 {
				return usageError(cmd, errors.New("a compiler is started by `ripstop serve`"))
			}
			program, err := programDigest()
			if err != nil {
				return err
			}
			if err := limitProcess(supervisor.CompileAddressSpace, cpu, supervisor.CompileOutput, supervisor.CompileSpent); err != nil {
				return err
			}
			wall.Enter(wall.Options{Write: append(coverageDirs(), dir)}) // the worker says what does not hold
			r, err := compileModule(cmd.Context(), cmd.InOrStdin(), size, runtime.Engine(engine), dir)
			if err != nil {
				return err
			}
			r.Program = program
			return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
		},
	}
	cmd.Flags().StringVar(&dir, "code", "", "directory to leave the code in")
	cmd.Flags().StringVar(&engine, "engine", string(runtime.Wazero), "engine to compile for")
	cmd.Flags().Uint64Var(&cpu, "cpu", 0, "seconds of processor time that it may take")
	cmd.Flags().IntVar(&size, "size", 0, "bytes of the module, if known")
	return cmd
}

// compileModule validates the bytes whole, bounds them, audits their imports, and compiles them for an engine into dir. A refusal is a result; an
// error is ours.
func compileModule(ctx context.Context, in io.Reader, size int, engine runtime.Engine, dir string) (r supervisor.CompileResult, err error) {
	wasm, err := readAll(processor.Courteous(in), size)
	if err != nil {
		return r, fmt.Errorf("read the module: %w", err)
	}
	refuse := func(code, title, detail string) (supervisor.CompileResult, error) {
		return supervisor.CompileResult{Problem: &wire.Problem{Code: code, Status: http.StatusUnprocessableEntity, Title: title, Detail: detail}}, nil
	}
	rt, err := runtime.Open(ctx, agent.RuntimeOptions(engine, dir))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, rt.Close()) }()
	m, err := rt.Compile(ctx, wasm)
	var bad *module.Error
	switch {
	case errors.As(err, &bad):
		return refuse("module-invalid", "The module was refused", err.Error())
	case err != nil:
		return r, err
	}
	kind, err := guest.KindOf(m.Info())
	if err != nil {
		return refuse("module-kind", "The module cannot answer requests", err.Error())
	}
	return supervisor.CompileResult{Kind: string(kind)}, nil
}

// readAll reads a module of size bytes, or about as many. io.ReadAll would touch five times as much memory, new pages all of it, which the kernel
// clears while requests wait.
func readAll(r io.Reader, size int) ([]byte, error) {
	b := make([]byte, 0, max(size, 0)+1) // the last read finds the end
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return nil, err
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

// programDigest tells programs apart whose compiled code is not of use to each other: it is the SHA-256 of this program's file.
func programDigest() (string, error) {
	path := "/proc/self/exe" // what runs, whatever lies at its path by now
	if goruntime.GOOS != "linux" {
		var err error
		if path, err = os.Executable(); err != nil {
			return "", fmt.Errorf("find this program: %w", err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read this program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	// Each deploy reads this program, beside requests.
	if _, err := io.Copy(h, processor.Courteous(f)); err != nil {
		return "", fmt.Errorf("read this program: %w", err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}
