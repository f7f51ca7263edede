package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/agent/supervisor"
	"github.com/ripstop-vm/ripstop/agent/wall"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime"
	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/module"
)

func newCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "check",
		Short:  "Check a module on standard input for a server (started by `ripstop serve`, not by hand)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := limitProcess(supervisor.CheckAddressSpace, supervisor.CheckCPU); err != nil {
				return err
			}
			wall.Enter(wall.Options{Write: coverageDirs()}) // the worker says what does not hold
			r, err := checkModule(cmd.Context(), cmd.InOrStdin())
			if err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
		},
	}
}

// checkModule validates the bytes whole, bounds them and audits their imports. A refusal is a result; an error is ours.
func checkModule(ctx context.Context, in io.Reader) (supervisor.CheckResult, error) {
	wasm, err := io.ReadAll(in)
	if err != nil {
		return supervisor.CheckResult{}, fmt.Errorf("read the module: %w", err)
	}
	refuse := func(code, title, detail string) (supervisor.CheckResult, error) {
		return supervisor.CheckResult{Problem: &wire.Problem{Code: code, Status: http.StatusUnprocessableEntity, Title: title, Detail: detail}}, nil
	}
	rt, err := runtime.Open(ctx, runtime.Options{Libraries: guest.Libraries(), Interpret: true})
	if err != nil {
		return supervisor.CheckResult{}, err
	}
	defer rt.Close()
	m, err := rt.Compile(ctx, wasm)
	var bad *module.Error
	switch {
	case errors.As(err, &bad):
		return refuse("module-invalid", "The module was refused", err.Error())
	case err != nil:
		return supervisor.CheckResult{}, err
	}
	kind, err := guest.KindOf(m.Info())
	if err != nil {
		return refuse("module-kind", "The module cannot answer requests", err.Error())
	}
	return supervisor.CheckResult{Kind: string(kind)}, nil
}
