package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"net/http"
	"os"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"
)

// plainHost is the child that someone would write first: net/http, and a new instance on wazero for each request. It serves
// a guest's run at /, an endless one at /spin, and a command at /command.
func plainHost(args []string) error {
	f := flag.NewFlagSet("plainhost", flag.ContinueOnError)
	address := f.String("address", "", "")
	guest := f.String("guest", "", "")
	endless := f.String("endless", "", "")
	command := f.String("command", "", "")
	ends := f.Bool("ends", false, "guests end when their client leaves")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCloseOnContextDone(*ends))
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	serve := func(file string, handle func(http.ResponseWriter, *http.Request, wazero.CompiledModule) error) (http.HandlerFunc, error) {
		if file == "" {
			return http.NotFound, nil
		}
		wasm, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		code, err := r.CompileModule(ctx, wasm)
		return func(w http.ResponseWriter, req *http.Request) {
			if err := handle(w, req, code); err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
			}
		}, err
	}
	run := func(w http.ResponseWriter, req *http.Request, code wazero.CompiledModule) error {
		m, err := r.InstantiateModule(req.Context(), code, wazero.NewModuleConfig().WithName("").WithRandSource(rand.Reader))
		if err != nil {
			return err
		}
		defer m.Close(ctx)
		if _, err := m.ExportedFunction("run").Call(req.Context()); err != nil {
			return err
		}
		return answer(w, []byte(hello))
	}
	cgi := func(w http.ResponseWriter, req *http.Request, code wazero.CompiledModule) error {
		var out bytes.Buffer
		var m api.Module
		m, err := r.InstantiateModule(req.Context(), code, wazero.NewModuleConfig().WithName("").WithRandSource(rand.Reader).WithStdin(req.Body).WithStdout(&out).
			WithEnv("REQUEST_METHOD", req.Method).WithEnv("PATH_INFO", req.URL.Path).WithEnv("QUERY_STRING", req.URL.RawQuery))
		var exit *sys.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 0 {
			err = nil
		}
		if m != nil {
			defer m.Close(ctx)
		}
		if err != nil {
			return err
		}
		_, body, _ := bytes.Cut(out.Bytes(), []byte("\r\n\r\n"))
		return answer(w, body)
	}
	mux := http.NewServeMux()
	for path, s := range map[string]struct {
		file   string
		handle func(http.ResponseWriter, *http.Request, wazero.CompiledModule) error
	}{"/{$}": {*guest, run}, "/spin": {*endless, run}, "/command": {*command, cgi}} {
		h, err := serve(s.file, s.handle)
		if err != nil {
			return err
		}
		mux.Handle(path, h)
	}
	return http.ListenAndServe(*address, mux)
}

func answer(w http.ResponseWriter, body []byte) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, err := w.Write(body)
	return err
}

// startPlainHost starts it with flags, and answers its URL.
func (b *bench) startPlainHost(ctx context.Context, flags ...string) (*process, string, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, "", err
	}
	p, err := b.startChild(ctx, "plainhost", append([]string{"-address", address}, flags...)...)
	if err != nil {
		return nil, "", err
	}
	url := "http://" + address + "/"
	if err := p.answers(ctx, url); err != nil {
		p.stop()
		return nil, "", err
	}
	return p, url, nil
}
