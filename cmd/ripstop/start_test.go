package main

import (
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// A deploy starts this program as a compiler, and every command starts it as itself: what packages make before main is taken from each. The rest together
// takes two milliseconds.
func TestNoPackageTakesLongToInitialize(t *testing.T) {
	program, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--help")
	cmd.Env = append(cmd.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := regexp.MustCompile(`(?m)^init (\S+) .* (\d+) allocs$`).FindAllStringSubmatch(string(out), -1)
	if len(lines) < 10 {
		t.Fatalf("it says nothing of packages:\n%s", out)
	}
	for _, l := range lines {
		if n, err := strconv.Atoi(l[2]); err != nil || n > 10_000 {
			t.Errorf("%s makes %s things when the program starts", l[1], l[2])
		}
	}
}
