package main

import (
	"context"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/wasmtest"
)

func TestFuelAndTimeEndAGuest(t *testing.T) {
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
		"enough time":          {[]string{"--cpu", "1m", guestFile(t, write())}, 0, "from me\n", ""},
		"a loop for a time":    {[]string{"--cpu", "20ms", loop}, 124, "", "ended after 20ms at the processor (--cpu)"},
		"fuel before time":     {[]string{"--cpu", "1h", "--fuel", "100000", loop}, 124, "", "its fuel of 100000 is used up (--fuel)"},
		"less than no time":    {[]string{"--cpu", "-1s", loop}, 2, "", "--cpu -1s: a duration is not negative"},
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
