package main

import (
	"context"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
)

func TestFuelEndsAGuest(t *testing.T) {
	loop := guestFile(t, wasmtest.Loop(wasmtest.Br(0)))
	for name, c := range map[string]struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		"enough":               {[]string{"--fuel", "1000000", guestFile(t, write())}, 0, "from me\n", ""},
		"a loop":               {[]string{"--fuel", "1000000", loop}, 124, "", "its fuel of 1000000 is used up (--fuel)"},
		"a deadline before it": {[]string{"--fuel", "1000000000000000", "--timeout", "20ms", loop}, 124, "", "ended after 20ms"},
		"a trap":               {[]string{"--fuel", "1000", guestFile(t, []byte{wasmtest.Unreachable})}, 134, "", "trap: unreachable\n   0  main.main"},
		"no number":            {[]string{"--fuel", "lots", loop}, 2, "", "lots"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := runRipstop(t, context.Background(), append([]string{"run"}, c.args...)...)
			if code != c.code || stdout != c.stdout || !strings.Contains(stderr, c.stderr) {
				t.Errorf("exit %d, stdout %q, stderr %q; want %d, %q, and %q in stderr", code, stdout, stderr, c.code, c.stdout, c.stderr)
			}
		})
	}
}
