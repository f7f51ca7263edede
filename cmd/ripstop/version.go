package main

import (
	"fmt"
	goruntime "runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/runtime"
)

// version is set by the linker (-X main.version=v1.2.3) in releases.
var version = ""

// buildInfo says what this binary is.
type buildInfo struct {
	Version string           `json:"version"`
	Commit  string           `json:"commit,omitempty"`
	Go      string           `json:"go"`
	OS      string           `json:"os"`
	Arch    string           `json:"arch"`
	Engines []runtime.Engine `json:"engines"` // that guests can run on
}

// readBuildInfo asks the linker's variable first, then what the go command recorded.
func readBuildInfo() buildInfo {
	b := buildInfo{Version: version, Go: goruntime.Version(), OS: goruntime.GOOS, Arch: goruntime.GOARCH, Engines: runtime.Engines()}
	info, ok := debug.ReadBuildInfo()
	if ok {
		if b.Version == "" && info.Main.Version != "(devel)" {
			b.Version = info.Main.Version
		}
		dirty := false
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.modified":
				dirty = s.Value == "true"
			}
		}
		if dirty && b.Commit != "" {
			b.Commit += "-dirty"
		}
	}
	if b.Version == "" {
		b.Version = "devel"
	}
	return b
}

// line is how `ripstop version` and `ripstop --version` say it.
func (b buildInfo) line() string {
	return fmt.Sprintf("ripstop %s %s %s/%s\n", b.Version, b.Go, b.OS, b.Arch)
}

func newVersionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version of this binary",
		Example: "  ripstop version\n  ripstop version --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := readBuildInfo()
			if asJSON {
				return printJSON(cmd.OutOrStdout(), b)
			}
			_, err := fmt.Fprint(cmd.OutOrStdout(), b.line())
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
