package wasi

import (
	"encoding/binary"
	"io"
	"slices"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Provide gives a run that is under way another environment, input and output, as in Options, in place of those that New gave it.
// Descriptors keep their numbers, rights and flags. It is called while the guest waits in a host call that Need names, or before it
// runs: a guest that has met none of them cannot tell it from having had these all along, unless one is an *os.File.
func (s *System) Provide(env []string, stdin io.Reader, stdout io.Writer) error {
	if err := checkEnv(env); err != nil {
		return err
	}
	s.env = slices.Clone(env)
	s.stdin.set(stdin)
	s.stdout.set(stdout)
	return nil
}

// Need is what a host call has to have of the request that its guest answers.
type Need uint8

const (
	NeedsNothing Need = iota // the answer is the same for every request, and nothing outside the sandbox changes
	NeedsEnviron             // it asks for the environment
	NeedsRequest             // it reads the input, writes the output, or changes something outside the sandbox
)

// Needs says what a call of this library needs, before it takes effect. The calls of a guest up to its first that needs something can be
// made before there is a request.
func (s *System) Needs(c *hostcall.Call) Need {
	switch c.Func.Name {
	case "environ_get", "environ_sizes_get":
		return NeedsEnviron
	case "fd_read":
		return needsIf(s.standsFor(c.Uint32(0), s.stdin))
	case "poll_oneoff":
		return needsIf(s.waitsForInput(c.Text(0)))
	case "fd_write":
		return needsIf(s.writesOutside(c.Uint32(0)))
	case "path_open":
		return needsIf(c.Uint32(openOflags)&(oCreat|oTrunc) != 0)
	}
	return needsIf(c.Func.Class == hostcall.WriteOutside)
}

// standsFor reports whether descriptor fd is r.
func (s *System) standsFor(fd uint32, r resource) bool {
	d, _ := s.fds.get(fd, 0)
	return d != nil && d.res == r
}

// waitsForInput reports whether a poll_oneoff waits for the input, too.
func (s *System) waitsForInput(subs []byte) bool {
	for sub := range slices.Chunk(subs, subscriptionSize) {
		if sub[8] == eventFDRead && s.standsFor(binary.LittleEndian.Uint32(sub[16:]), s.stdin) {
			return true
		}
	}
	return false
}

// writesOutside reports whether what is written to descriptor fd goes to the output, a file or a socket. What goes to the standard
// error is a log.
func (s *System) writesOutside(fd uint32) bool {
	d, _ := s.fds.get(fd, 0)
	if d == nil {
		return false
	}
	switch r := d.res.(type) {
	case *stdout:
		return r == s.stdout
	case *fileResource, *socket:
		return true
	}
	return false
}

func needsIf(yes bool) Need {
	if yes {
		return NeedsRequest
	}
	return NeedsNothing
}
