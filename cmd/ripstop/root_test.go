package main

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// ripstop runs the command line in this process.
func ripstop(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(t.Context(), newRoot(), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestMistakesOnTheCommandLineExitWithTwo(t *testing.T) {
	for name, args := range map[string][]string{
		"an unknown verb":         {"explode"},
		"a misspelled verb":       {"inspct"},
		"a verb cut short":        {"re"},
		"an unknown topic":        {"help", "explode"},
		"an unknown flag":         {"version", "--loud"},
		"an argument too many":    {"version", "now"},
		"an unknown flag at root": {"--loud"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := ripstop(t, "", args...)
			if code != exitUsage {
				t.Errorf("exit %d, want %d", code, exitUsage)
			}
			if stdout != "" {
				t.Errorf("printed %q on stdout", stdout)
			}
			if !strings.HasPrefix(stderr, "ripstop: ") || !strings.HasSuffix(stderr, "--help`\n") || strings.Count(stderr, "\n") != 1 {
				t.Errorf("said %q", stderr)
			}
		})
	}
}

func TestAFlagThatIsNoNumberIsToldSo(t *testing.T) {
	fails(t, exitUsage, `invalid argument "-3" for "--fuel" flag: it takes a whole number from 0; see`, "run", "--fuel", "-3", "x.wasm")
	fails(t, exitUsage, `for "--priority" flag: it takes a whole number; see`, "invoke", "j", "--priority", "x")
	fails(t, exitUsage, "and not one as large; see", "run", "--fuel", "99999999999999999999", "x.wasm")
}

func TestTheVersionIsAFlagToo(t *testing.T) {
	_, want, _ := ripstop(t, "", "version")
	if code, got, _ := ripstop(t, "", "--version"); code != 0 || got != want || !strings.HasPrefix(got, "ripstop ") {
		t.Errorf("exit %d, %q, want %q", code, got, want)
	}
}

func TestAnInterruptedCommandExitsWith130AndSaysNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	root := newRoot()
	wait := newVersionCommand()
	wait.Use = "wait"
	wait.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Context().Err() }
	root.AddCommand(wait)
	var errs bytes.Buffer
	if code := execute(ctx, root, []string{"wait"}, nil, &errs, &errs); code != exitInterrupted || errs.Len() > 0 {
		t.Errorf("exit %d with %q, want %d and nothing", code, errs.String(), exitInterrupted)
	}
}

func TestTextFromElsewhereIsHarmlessOnATerminal(t *testing.T) {
	for in, want := range map[string]string{
		"plain":              "plain",
		"Grüße, 世界":          "Grüße, 世界",
		"\x1b[2Jgone":        `\x1b[2Jgone`,
		"line\nnext\tcell":   "line\nnext\tcell",
		"\xff\xfe":           `\xff\xfe`,
		"abc\u202egpj.exe":   `abc\u202egpj.exe`,
		"\u009b31m":          `\u009b31m`,
		"over\rwritten\x7f":  `over\x0dwritten\x7f`,
		"\U000e0041 tag":     `\U000e0041 tag`,
		"replacement \ufffd": "replacement \ufffd",
	} {
		if got := escapeText(in); got != want {
			t.Errorf("escapeText(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestTheBannersCommandsFindTheServer(t *testing.T) {
	t.Setenv("RIPSTOP_DATA", "/data")
	for _, c := range []struct{ address, dir, token, deploy string }{
		{"127.0.0.1:7070", "/data", "ripstop token)", "  ripstop deploy hello.wasm\n"},
		{"127.0.0.1:7373", "/data", "ripstop token)", "  ripstop deploy --server http://127.0.0.1:7373 hello.wasm\n"},
		{"0.0.0.0:7070", "/my data", "ripstop token --data '/my data')", "  ripstop deploy --data '/my data' hello.wasm\n"},
		{"[::1]:7070", "/it's", "ripstop token --data '/it'\\''s')", "  ripstop deploy --server http://[::1]:7070 --data '/it'\\''s' hello.wasm\n"},
	} {
		var out bytes.Buffer
		banner(&out, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.address)), "http://127.0.0.1:8080", c.dir)
		if got := out.String(); !strings.Contains(got, c.token) || !strings.HasSuffix(got, c.deploy) {
			t.Errorf("%s, %s: %s", c.address, c.dir, got)
		}
	}
}
