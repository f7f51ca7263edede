package wasi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Bounds of what one call may ask for.
const (
	MaxPath          = 4096    // bytes of a path
	MaxVectors       = 1024    // elements of a scatter or gather list
	MaxSubscriptions = 1024    // of one poll_oneoff
	MaxTransfer      = 1 << 20 // bytes moved by one call; more is a short count
	DefaultMaxFiles  = 256     // descriptors of a System
)

// Options configures a System. The zero value grants nothing: no arguments, an empty environment, standard input at its
// end, output that goes nowhere, no files and no network. Clocks and randomness are always there.
type Options struct {
	Args []string
	Env  []string // "NAME=value", in order
	// Stdin is read in a goroutine of its own unless it is known not to wait; one Read may still be under way when the
	// System is closed. If it has SetReadDeadline, Close ends that Read through it. nil is an empty input.
	Stdin io.Reader
	// Stdout and Stderr take what the guest writes. A Write is expected to return soon: except for an *os.File, it is
	// made on the sandbox's goroutine. nil discards.
	Stdout, Stderr io.Writer
	Preopens       []Preopen      // descriptors 3 and up, in order
	Listeners      []net.Listener // descriptors after them, to accept on. The System owns and closes them
	Gate           *Gate          // shared with other Systems, it bounds the file calls in the kernel; nil: no bound
	// DiskReserve is how many bytes have to stay free on the file systems of preopens: what would write more, or make another
	// entry, fails with ENOSPC. 0 means none. Where nobody can tell what is free it has no effect.
	DiskReserve uint64
	MaxFiles    int         // descriptors at once, standard streams included; 0 means DefaultMaxFiles
	Clock       clock.Clock // realtime and monotonic time; nil means the system clock
	Random      io.Reader   // of random_get; nil means the system's
}

// A Preopen grants a directory or a single file of the host.
type Preopen struct {
	Guest string // absolute path in the guest
	// Host is the directory or regular file on the host. Preopened files of one guest directory show up as a
	// directory that holds only them.
	Host     string
	ReadOnly bool // changes fail with EROFS
	// Except are guest-absolute paths below Guest that stay out of reach, whatever words are used: EACCES.
	Except []string
}

// System is the state that WASI functions see in one sandbox. It is used by the goroutine that runs the sandbox; nothing
// may call it while a host call of another goroutine is under way. Close ends it.
type System struct {
	args, env []string
	clock     clock.Clock
	start     time.Time
	random    io.Reader
	fds       table
	first     []*descriptor // those that New opened
	stdin     *stdin        // what the first of them stand for, whatever numbers they have by now
	stdout    *stdout
	roots     []*root
	wake      chan struct{} // holds one token when some stream may be ready
	closing   sync.Once
	gate      *Gate
	passed    time.Duration // when the file call under way passed the gate
	reserve   uint64
}

// New makes the System of one sandbox. It opens every preopen and fails, having closed what it opened, if one is not
// there or the options contradict themselves; all bad fields are reported at once. Listeners are taken over even then.
func New(opts Options) (*System, error) {
	s := &System{
		args: append([]string(nil), opts.Args...), clock: opts.Clock, random: opts.Random,
		wake: make(chan struct{}, 1), gate: opts.Gate, reserve: opts.DiskReserve,
	}
	if s.clock == nil {
		s.clock = clock.System
	}
	if s.random == nil {
		s.random = systemRandom
	}
	s.start = s.clock.Now()
	s.fds.max = opts.MaxFiles
	if s.fds.max == 0 {
		s.fds.max = DefaultMaxFiles
	}
	var errs []error
	if opts.MaxFiles < 0 {
		errs = append(errs, fmt.Errorf("max files %d: negative", opts.MaxFiles))
	}
	for _, a := range s.args {
		if strings.IndexByte(a, 0) >= 0 {
			errs = append(errs, fmt.Errorf("argument %q contains a zero byte", a))
		}
	}
	errs = append(errs, checkEnv(opts.Env))
	s.env = slices.Clone(opts.Env)
	s.stdin, s.stdout = newStdin(opts.Stdin, s.notify), newStdout(opts.Stdout)
	s.fds.slots = append(make([]*descriptor, 0, 8), s.stdin.descriptor(), s.stdout.descriptor(), newStdout(opts.Stderr).descriptor())
	errs = append(errs, s.preopen(opts.Preopens))
	for _, l := range opts.Listeners {
		if _, err := s.fds.add(newListener(l, s.notify)); err != nil {
			errs = append(errs, errors.Join(fmt.Errorf("listener %s: %w", l.Addr(), err), l.Close()))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(fmt.Errorf("set up WASI: %w", err), s.Close())
	}
	s.first = slices.Clone(s.fds.slots)
	return s, nil
}

// checkEnv reports an entry that no environment can hold.
func checkEnv(env []string) error {
	for _, e := range env {
		if strings.IndexByte(e, '=') <= 0 || strings.IndexByte(e, 0) >= 0 {
			return fmt.Errorf("environment entry %q: want NAME=value without zero bytes", e)
		}
	}
	return nil
}

// Insert gives the guest a descriptor for a stream, which the System owns from then on, even if it fails. It fails with
// EMFILE when there are too many.
func (s *System) Insert(st Stream) (fd uint32, err error) {
	st.Subscribe(s.notify)
	return s.fds.add(newSocket(st))
}

// Close closes every descriptor: files, streams, listeners. It does not wait for a Read of Stdin that is under way. The
// second and later calls do nothing.
func (s *System) Close() error {
	var errs []error
	s.closing.Do(func() {
		for i, d := range s.fds.slots {
			if d != nil {
				errs = append(errs, d.close())
				s.fds.slots[i] = nil
			}
		}
		for _, r := range s.roots {
			errs = append(errs, r.Close())
		}
	})
	return errors.Join(errs...)
}

// notify is called by whatever a guest may wait for, from any goroutine.
func (s *System) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// wait blocks until ready answers true. If the call's context ends first it ends the guest and answers false.
func (s *System) wait(c *hostcall.Call, ready func() bool) bool {
	for !ready() {
		if !s.sleep(c, 0, false) {
			interrupted(c, c.Context())
			return false
		}
	}
	return true
}

// interrupted ends a guest that waited for something when its time was over.
func interrupted(c *hostcall.Call, ctx context.Context) {
	c.Fail(hostcall.ECANCELED)
	c.Stop(context.Cause(ctx))
}

// cleanGuest is a guest-absolute path in its shortest form, or an error.
func cleanGuest(p string) (string, error) {
	if !path.IsAbs(p) || strings.IndexByte(p, 0) >= 0 || len(p) > MaxPath {
		return "", fmt.Errorf("guest path %q: want an absolute path of at most %d bytes", p, MaxPath)
	}
	return path.Clean(p), nil
}
