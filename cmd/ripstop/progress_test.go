package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

func TestADeployShowsHowFarItIs(t *testing.T) {
	const size = 1 << 20
	for name, c := range map[string]struct {
		terminal   bool
		took       time.Duration
		read       int64
		want, none string
	}{
		"nothing at first on a terminal":       {true, progressAfter / 2, 10, "", "uploading"},
		"a bar on a terminal":                  {true, 2 * progressAfter, size / 2, "uploading", progressServer},
		"the server's work on a terminal":      {true, 2 * progressAfter, size, progressServer, "uploading"},
		"a line elsewhere":                     {false, progressLines, size / 2, "uploading: 512.0 KiB of 1.0 MiB\n", progressServer},
		"the server's work, elsewhere, a line": {false, progressLines, size, progressServer + " (5s so far)\n", "uploading"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			now := clock.NewManual(time.Unix(0, 0))
			p := startProgress(&out, c.terminal, deploying, size, now)
			if n, err := io.CopyN(io.Discard, p.reader(strings.NewReader(strings.Repeat("x", size))), c.read); n != c.read || err != nil {
				t.Fatal(n, err)
			}
			p.stop() // what follows is this goroutine's
			now.Advance(c.took)
			p.show()
			p.clear()
			if got := out.String(); !strings.Contains(got, c.want) || strings.Contains(got, c.none) || c.want == "" && got != "" {
				t.Errorf("shows %q, want %q", got, c.want)
			}
		})
	}
}

func TestProgressIsShownWhileTimePasses(t *testing.T) {
	now := clock.NewManual(time.Unix(0, 0))
	in, out := io.Pipe()
	p := startProgress(out, false, deploying, 0, now)
	now.Advance(progressLines)
	line := make([]byte, 100)
	if n, err := in.Read(line); err != nil || !strings.HasPrefix(string(line[:n]), progressServer) {
		t.Errorf("shows %q, %v", line[:n], err)
	}
	p.stop()
}
