package wall

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	landlocksys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// minLandlock is the version that confines renames and links between directories by rule; the one before refuses them all, which
// guests would notice.
const minLandlock = 2

// Enter confines this process for good, all of its threads, and says what holds. It is called once, before the process
// touches anything hostile. A part that cannot be put up does not keep the others from it.
func Enter(opts Options) []Measure {
	_ = time.Local.String() // reads the time zone's file, which will be out of reach
	all := []Measure{
		measure(descriptors, "", closeInherited(opts.Descriptors)),
		measure(limits, "no core files", limitSelf()),
		measure(noNewPrivs, "", setNoNewPrivs()),
		measure(capabilities, "none", dropCapabilities()),
		Hide(),
	}
	abi, err := confineFiles(opts)
	all = append(all, measure(landlockName, abi, err))
	// The last one: setting up the others takes calls that it refuses.
	return append(all, measure(seccompName, "", confineCalls()))
}

// closeInherited closes the descriptors that this process got from the one that started it and was not meant to have. Those
// that it opened itself, the Go runtime's among them, are closed by exec and so are told apart.
func closeInherited(keep []int) error {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range list {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 || slices.Contains(keep, fd) {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err == nil && flags&unix.FD_CLOEXEC == 0 {
			err = unix.Close(fd)
		}
		if err != nil && !errors.Is(err, unix.EBADF) { // the one that the list was read from is gone
			return fmt.Errorf("close inherited descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// limitSelf sets the limits that a worker never needs. Address space stays open, since guests' memory is reserved far beyond
// what they use; so do file sizes, which are the volumes' business; processes are seccomp's.
func limitSelf() error {
	for _, resource := range []int{unix.RLIMIT_CORE, unix.RLIMIT_MSGQUEUE, unix.RLIMIT_RTPRIO} {
		if err := unix.Setrlimit(resource, &unix.Rlimit{}); err != nil {
			return fmt.Errorf("setrlimit %d: %w", resource, err)
		}
	}
	// Threads that were made nicer may become what they are now, as far as they may at all, and no better.
	own, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // the system call answers as the limit counts
	if err != nil {
		return fmt.Errorf("getpriority: %w", err)
	}
	var nice unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NICE, &nice); err != nil {
		return fmt.Errorf("getrlimit %d: %w", unix.RLIMIT_NICE, err)
	}
	most := min(nice.Cur, uint64(own))
	if err := unix.Setrlimit(unix.RLIMIT_NICE, &unix.Rlimit{Cur: most, Max: most}); err != nil {
		return fmt.Errorf("setrlimit %d: %w", unix.RLIMIT_NICE, err)
	}
	return nil
}

func setNoNewPrivs() error {
	if _, _, e := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
		return e
	}
	return nil
}

// dropCapabilities gives up all capabilities of all threads. With no_new_privs nothing brings them back.
func dropCapabilities() error {
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	none := new([2]unix.CapUserData)
	if _, _, e := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(header)), uintptr(unsafe.Pointer(none)), 0); e != 0 {
		return e
	}
	return nil
}

// Hide keeps other processes of this user from tracing this one and from reading its memory and environment, and has it
// leave no core file. The server hides itself from its worker with it. Its own files in /proc then belong to root: what is
// needed of them, such as /proc/self/pagemap, is opened before.
func Hide() Measure {
	return measure(hidden, "", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

func landlockABI() (int, error) {
	abi, err := landlocksys.LandlockGetABIVersion()
	switch {
	case errors.Is(err, unix.ENOSYS):
		return 0, errors.New("the kernel has none: it takes Linux 5.19 or later")
	case errors.Is(err, unix.EOPNOTSUPP):
		return 0, errors.New("switched off when the kernel started (lsm=)")
	case err != nil:
		return 0, err
	case abi < minLandlock:
		return abi, fmt.Errorf("version %d; it takes version %d, in Linux 5.19 or later", abi, minLandlock)
	}
	return abi, nil
}

// confineFiles allows files beneath the directories of opts and no other, and makes sure of it.
func confineFiles(opts Options) (string, error) {
	abi, err := landlockABI()
	if err != nil {
		return "", err
	}
	rules := []landlock.Rule{
		landlock.RODirs(opts.Read...).IgnoreIfMissing(),
		landlock.RWDirs(opts.Write...).WithRefer().IgnoreIfMissing(),
	}
	// Signals and connections are seccomp's business; a scope of signals would, on some kernels, cut threads off from each other.
	if err := landlock.V5.BestEffort().Restrict(rules...); err != nil {
		return "", err
	}
	if !slices.Contains(append(opts.Read, opts.Write...), "/") {
		if fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.Close(fd)
			return "", errors.New("it was set up and does not refuse")
		}
	}
	return "version " + strconv.Itoa(abi), nil
}

// Probe says which measures this machine offers, and changes nothing.
func Probe() []Measure {
	abi, err := landlockABI()
	detail := "version " + strconv.Itoa(abi)
	if err == nil && abi < 5 {
		detail += ": devices' ioctl calls are left to seccomp"
	}
	return []Measure{
		measure(noNewPrivs, "", nil), // since Linux 3.5; Go itself takes 3.2
		measure(capabilities, "a worker has none", nil),
		probeCalls(),
		measure(landlockName, detail, err),
		measure(hidden, "", nil),
	}
}

// probeCalls asks what the kernel lists as actions of filters, which it has since the version that has what we need.
func probeCalls() Measure {
	b, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil {
		return measure(seccompName, "", errors.New("the kernel has no filters: it takes Linux 5.7 or later, built with CONFIG_SECCOMP_FILTER"))
	}
	if !slices.Contains(strings.Fields(string(b)), "errno") {
		return measure(seccompName, "", errors.New("the kernel's filters cannot refuse calls"))
	}
	_, err = filter(os.Getpid())
	return measure(seccompName, "", err)
}
