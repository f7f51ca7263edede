package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a pseudoterminal: what a user has, and what a program has of it.
func terminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = user.Close() })
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return user, program
}

func echoes(t *testing.T, f *os.File) bool {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return s.Lflag&unix.ECHO != 0
}

func TestAnInterruptedPromptLeavesTheTerminalAsItWas(t *testing.T) {
	user, program := terminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		_, err := readPassword(ctx, int(program.Fd()))
		got <- err
	}()
	for echoes(t, program) { // it asks
	}
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if !echoes(t, program) {
		t.Error("the terminal shows nothing any more")
	}
	_, _ = user.WriteString("\n") // what reads ends
}

func TestAPromptReadsWhatIsTyped(t *testing.T) {
	user, program := terminal(t)
	if _, err := user.WriteString("s3cret\n"); err != nil {
		t.Fatal(err)
	}
	if b, err := readPassword(t.Context(), int(program.Fd())); err != nil || string(b) != "s3cret" {
		t.Errorf("it read %q, %v", b, err)
	}
}
