package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/runtime/guest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
	"github.com/ripstop-vm/ripstop/runtime/module"
)

// inspection is what `ripstop inspect` prints.
type inspection struct {
	File      string             `json:"file"`
	Digest    string             `json:"digest"` // SHA-256
	Size      int                `json:"size"`   // bytes
	Name      string             `json:"name,omitempty"`
	Kind      string             `json:"kind,omitempty"` // "command" or "task"
	WhyNoKind string             `json:"why_no_kind,omitempty"`
	Runs      bool               `json:"runs"` // every import is known, and it has a kind
	Needs     []string           `json:"needs"`
	Imports   []inspectedImport  `json:"imports"`
	Exports   []inspectedExport  `json:"exports"`
	Memory    *inspectedMemory   `json:"memory,omitempty"`
	Functions int                `json:"functions"`
	CodeBytes int                `json:"code_bytes"`
	DataBytes int                `json:"data_bytes"`
	Largest   inspectedFunctions `json:"largest"`
	Producers []string           `json:"producers"`
	Custom    []string           `json:"custom_sections"`
	Names     bool               `json:"function_names"`
	Debug     bool               `json:"debug_information"`
}

type inspectedImport struct {
	Module  string `json:"module"`
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Type    string `json:"type,omitempty"`
	Known   bool   `json:"known"`
	Problem string `json:"problem,omitempty"`
}

type inspectedExport struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	Type string `json:"type,omitempty"`
}

type inspectedMemory struct {
	MinPages uint64  `json:"min_pages"` // of 64 KiB
	MaxPages *uint64 `json:"max_pages,omitempty"`
}

// inspectedFunctions are the module's largest figures of those that are bounded.
type inspectedFunctions struct {
	Bytes       int    `json:"bytes"`
	Locals      int    `json:"locals"`
	Nesting     int    `json:"nesting"`
	Labels      int    `json:"jump_targets"`
	BlockLocals uint64 `json:"blocks_times_locals"`
}

func newInspectCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "inspect MODULE.wasm",
		Example: "  ripstop inspect hello.wasm\n  ripstop inspect --json hello.wasm",
		Short:   "Show what a module is, imports, exports and would need",
		Long: "Show a module's kind, imports, exports and memory, what it would need to be granted, and how close it comes to the\n" +
			"platform's bounds. The module is read, not run. Exit code 2: it could not be deployed; standard error says why.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			wasm, err := readModule(args[0])
			if err != nil {
				return exitError{exitUsage, err}
			}
			in, err := inspect(args[0], wasm)
			if err != nil {
				return exitError{exitUsage, fmt.Errorf("%s: %w", args[0], err)}
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), in)
			} else {
				err = in.print(cmd.OutOrStdout())
			}
			if err == nil && !in.Runs {
				err = exitError{exitUsage, fmt.Errorf("%s could not be deployed: %s", args[0], in.problem())}
			}
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// inspect reads a module. It fails if the module is malformed or over a bound.
func inspect(file string, wasm []byte) (*inspection, error) {
	m, err := module.Parse(wasm, module.Bounds{})
	if err != nil {
		return nil, err
	}
	table, err := hostcall.NewTable(guest.Libraries()...)
	if err != nil {
		return nil, err
	}
	in := &inspection{
		File: file, Digest: fmt.Sprintf("%x", sha256.Sum256(wasm)), Size: m.Size, Name: m.Name, Functions: m.Functions, CodeBytes: m.CodeBytes,
		DataBytes: m.DataBytes, Names: m.HasNames, Debug: m.HasDebug, Needs: needs(m),
		// Empty lists, not null, in JSON.
		Producers: append([]string{}, m.Producers...), Custom: append([]string{}, m.Custom...), Imports: []inspectedImport{}, Exports: []inspectedExport{},
		Largest: inspectedFunctions{m.Largest.Bytes, m.Largest.Locals, m.Largest.Nesting, m.Largest.Labels, m.Largest.BlockLocals},
	}
	kind, err := guest.KindOf(m)
	if in.Kind = string(kind); err != nil {
		in.WhyNoKind = err.Error()
	}
	in.Runs = err == nil
	for i := range m.Imports {
		im := &m.Imports[i]
		known, problem := module.Known(im, table)
		in.Runs = in.Runs && known
		x := inspectedImport{Module: im.Module, Name: im.Name, Kind: im.Kind.String(), Known: known, Problem: problem}
		if im.Kind == module.ExternFunc {
			x.Type = im.Type.String()
		}
		in.Imports = append(in.Imports, x)
	}
	for _, e := range m.Exports {
		x := inspectedExport{Name: e.Name, Kind: e.Kind.String()}
		if e.Kind == module.ExternFunc {
			x.Type = e.Type.String()
		}
		in.Exports = append(in.Exports, x)
	}
	for _, mem := range m.Memories {
		in.Memory = &inspectedMemory{MinPages: mem.Min}
		if mem.HasMax {
			in.Memory.MaxPages = &mem.Max
		}
	}
	return in, nil
}

// problem is why the module could not be deployed; empty if it could.
func (in *inspection) problem() string {
	var unknown []string
	for _, im := range in.Imports {
		if !im.Known {
			unknown = append(unknown, im.Module+"."+im.Name)
		}
	}
	switch {
	case len(unknown) > 1:
		return fmt.Sprintf("it imports %s and %d more that cannot be served", unknown[0], len(unknown)-1)
	case len(unknown) == 1:
		return fmt.Sprintf("it imports %s, which cannot be served", unknown[0])
	}
	return in.WhyNoKind
}

// capabilityOf says what has to be granted for an import to do anything. The first prefix that fits counts.
var capabilityOf = []struct{ prefix, need string }{
	{"path_", "files: paths are opened or changed (capabilities.files; --dir)"},
	{"fd_readdir", "files: paths are opened or changed (capabilities.files; --dir)"},
	{"environ_", "env: the environment is read (capabilities.env; --env)"},
	{"clock_time_get", "clock: the time is read (granted unless frozen or offset)"},
	{"random_get", "random: random bytes are read (granted; capabilities.random makes them repeatable)"},
	{"sock_", "sockets: connections are accepted, or the SDK's streams are used"},
	{"fetch", "fetch: outbound requests (capabilities.fetch)"},
	{"kv_", "kv: buckets are used (capabilities.kv)"},
	{"invoke", "invoke: other jobs are invoked (capabilities.invoke)"},
	{"enqueue", "enqueue: requests are queued for jobs (capabilities.enqueue)"},
	{"secret", "secrets: secrets are read (capabilities.secrets)"},
	{"config", "config: configuration is read (config)"},
}

// needs is what a module's imports let one expect that it would use, in a fixed order.
func needs(m *module.Module) []string {
	out := []string{}
	for _, c := range capabilityOf {
		for i := range m.Imports {
			if strings.HasPrefix(m.Imports[i].Name, c.prefix) && !slices.Contains(out, c.need) {
				out = append(out, c.need)
			}
		}
	}
	return out
}

func (in *inspection) print(w io.Writer) error {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-10s %s\n", name, escapeLine(fmt.Sprintf(format, args...)))
	}
	line("file", "%s", in.File)
	line("digest", "%s", in.Digest)
	if in.Kind != "" {
		line("kind", "%s", in.Kind)
	} else {
		line("kind", "none: %s", in.WhyNoKind)
	}
	if in.Name != "" {
		line("name", "%s", in.Name)
	}
	line("size", "%d bytes: %d of code in %d functions, %d of data", in.Size, in.CodeBytes, in.Functions, in.DataBytes)
	if in.Memory != nil {
		most := "no maximum of its own"
		if in.Memory.MaxPages != nil {
			most = fmt.Sprintf("at most %d KiB", *in.Memory.MaxPages*64)
		}
		line("memory", "%d KiB at the start, %s", in.Memory.MinPages*64, most)
	}
	b := module.DefaultBounds()
	l := in.Largest
	line("largest", "a function of %d bytes (bound %d), %d locals (%d), %d nested blocks (%d), %d jump targets (%d), blocks × locals %d (%d)",
		l.Bytes, b.FunctionBytes, l.Locals, b.FunctionLocals, l.Nesting, b.Nesting, l.Labels, b.Labels, l.BlockLocals, b.BlockLocals)
	for _, p := range in.Producers {
		line("producer", "%s", p)
	}
	line("debug", "function names: %t, debug information: %t", in.Names, in.Debug)
	for _, n := range in.Needs {
		line("needs", "%s", n)
	}
	if len(in.Needs) == 0 {
		line("needs", "nothing that has to be granted")
	}
	for _, im := range in.Imports {
		text := fmt.Sprintf("%s.%s %s%s", im.Module, im.Name, im.Kind, strings.TrimRight(" "+im.Type, " "))
		if !im.Known {
			text += "   UNKNOWN: " + im.Problem
		}
		line("import", "%s", text)
	}
	for _, e := range in.Exports {
		line("export", "%s %s%s", e.Name, e.Kind, strings.TrimRight(" "+e.Type, " "))
	}
	return nil
}
