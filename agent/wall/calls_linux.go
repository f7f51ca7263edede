package wall

import (
	"errors"
	"fmt"
	"os"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// allowed are the system calls that a worker makes, with any arguments. The frequent ones come first: kernels before 5.11
// go through the list at every call. A name that an architecture does not have is left out there.
var allowed = [][]string{
	{ // Go's threads, its poller and its memory
		"futex", "read", "write", "epoll_pwait", "nanosleep", "rt_sigreturn", "sched_yield", "madvise", "getpid", "gettid", "getrusage",
		"mmap", "munmap", "mprotect", "mremap", "mincore", "brk", "close", "epoll_ctl", "epoll_create1", "epoll_wait", "eventfd2", "pipe2",
		"rt_sigaction", "rt_sigprocmask", "sigaltstack", "exit", "exit_group", "restart_syscall", "sched_getaffinity",
		"clock_gettime", "clock_nanosleep", "clock_getres", "gettimeofday", "time", "getrandom", "getcpu",
		"setitimer", "timer_create", "timer_settime", "timer_delete", // its profiler
		"set_robust_list", "set_tid_address", "rseq", "membarrier", "ppoll", "poll", // C libraries' threads, with an engine in C
		"getuid", "geteuid", "getgid", "getegid", "getppid", "getcwd", "uname", "dup", "dup3",
	},
	{ // connections that others opened: they are accepted, used and closed
		"accept4", "accept", "shutdown", "getsockname", "getpeername", "getsockopt", "writev", "readv", "recvfrom", "recvmsg", "sendfile", "splice",
	},
	{ // files; Landlock says which
		"openat", "openat2", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "lseek", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2",
		"getdents64", "ftruncate", "fallocate", "fsync", "fdatasync", "fadvise64", "copy_file_range",
		"mkdirat", "unlinkat", "renameat", "renameat2", "linkat", "symlinkat", "readlinkat", "readlink", "utimensat",
	},
	{ // memory that is a file: images of sandboxes
		"memfd_create",
	},
}

// pagemapScan is the number of the PAGEMAP_SCAN ioctl (linux/fs.h, since Linux 6.7).
const pagemapScan = 0xc0606610

// conditional are the calls whose arguments decide. Values of one argument are alternatives.
func conditional(pid int) []seccomp.NameWithConditions {
	var list []seccomp.NameWithConditions
	allow := func(name string, conditions ...seccomp.Condition) {
		list = append(list, seccomp.NameWithConditions{Name: name, Conditions: conditions})
	}
	is := func(argument uint32, value uint64) seccomp.Condition {
		return seccomp.Condition{Argument: argument, Operation: seccomp.Equal, Value: value}
	}
	// Threads, not processes; and none in other namespaces.
	allow("clone",
		seccomp.Condition{Argument: 0, Operation: seccomp.BitsSet, Value: unix.CLONE_THREAD},
		seccomp.Condition{Argument: 0, Operation: seccomp.BitsNotSet, Value: unix.CLONE_NEWNS | unix.CLONE_NEWUSER | unix.CLONE_NEWPID |
			unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP | unix.CLONE_PTRACE | unix.CLONE_PARENT})
	// Signals to this process only: Go interrupts its threads with them.
	allow("tgkill", is(0, uint64(pid)))
	// No owner or signal of a descriptor (F_SETOWN, F_SETSIG): the kernel would send signals to others for us.
	for _, command := range []uint64{unix.F_DUPFD, unix.F_DUPFD_CLOEXEC, unix.F_GETFD, unix.F_SETFD, unix.F_GETFL, unix.F_SETFL, unix.F_ADD_SEALS, unix.F_GET_SEALS} {
		allow("fcntl", is(1, command))
	}
	allow("ioctl", is(1, pagemapScan))
	// What an HTTP server sets on what it accepts.
	for _, option := range []uint64{unix.SO_KEEPALIVE, unix.SO_LINGER} {
		allow("setsockopt", is(1, unix.SOL_SOCKET), is(2, option))
	}
	for _, option := range []uint64{unix.TCP_NODELAY, unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL, unix.TCP_KEEPCNT, unix.TCP_USER_TIMEOUT} {
		allow("setsockopt", is(1, unix.IPPROTO_TCP), is(2, option))
	}
	allow("sendto", is(4, 0), is(5, 0))                      // to no address: what is connected already
	allow("setpriority", is(0, unix.PRIO_PROCESS), is(1, 0)) // of the calling thread
	allow("getpriority", is(0, unix.PRIO_PROCESS), is(1, 0))
	allow("prlimit64", is(0, 0), is(2, 0)) // reading our own
	allow("prctl", is(0, unix.PR_SET_VMA)) // names of mappings
	allow("prctl", is(0, unix.PR_SET_NAME))
	return list
}

// filter is what a process with this id may call.
func filter(pid int) (seccomp.Policy, error) {
	info, err := arch.GetInfo("")
	if err != nil {
		return seccomp.Policy{}, err
	}
	if info.SyscallNames == nil {
		return seccomp.Policy{}, fmt.Errorf("the system calls of %s are not known", info.Name)
	}
	group := seccomp.SyscallGroup{Action: seccomp.ActionAllow}
	for _, names := range allowed {
		for _, name := range names {
			if _, ok := info.SyscallNames[name]; ok {
				group.Names = append(group.Names, name)
			}
		}
	}
	for _, c := range conditional(pid) {
		if _, ok := info.SyscallNames[c.Name]; ok {
			group.NamesWithCondtions = append(group.NamesWithCondtions, c)
		}
	}
	return seccomp.Policy{
		DefaultAction: seccomp.ActionErrno, // EPERM
		Syscalls: []seccomp.SyscallGroup{group,
			// Its flags are in memory, where a filter cannot read them. C libraries take the older call when this one is not there.
			{Names: []string{"clone3"}, Action: refuse(unix.ENOSYS)}},
	}, nil
}

func refuse(e unix.Errno) seccomp.Action { return seccomp.Action(unix.SECCOMP_RET_ERRNO | uint32(e)) }

// tsyncESRCH has the kernel fail when a thread could not be confined (linux/seccomp.h, since Linux 5.7). Without it the number of that
// thread comes back in place of an error.
const tsyncESRCH = 1 << 4

// confineCalls refuses all system calls but those that are allowed, in all threads, and makes sure of it.
func confineCalls() error {
	policy, err := filter(os.Getpid())
	if err != nil {
		return err
	}
	if err := seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync | tsyncESRCH, Policy: policy}); err != nil {
		return err
	}
	if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
		_ = unix.Close(fd)
		return errors.New("it was set up and does not refuse")
	}
	return nil
}
