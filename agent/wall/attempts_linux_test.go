package wall

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ripstop-vm/ripstop/runtime/image"
)

// attempts are by name what a worker tries.
var attempts = map[string]func(w *world) error{
	"read a file outside":      func(w *world) error { return open(filepath.Join(w.Outside, "secret"), unix.O_RDONLY) },
	"write a file outside":     func(w *world) error { return open(filepath.Join(w.Outside, "secret"), unix.O_WRONLY) },
	"make a file outside":      func(w *world) error { return open(filepath.Join(w.Outside, "new"), unix.O_WRONLY|unix.O_CREAT) },
	"list a directory outside": func(w *world) error { return open(w.Outside, unix.O_RDONLY|unix.O_DIRECTORY) },
	"follow a link outside":    func(w *world) error { return open(filepath.Join(w.Granted, "link"), unix.O_RDONLY) },
	"go through the process's root": func(w *world) error {
		return open(filepath.Join("/proc/self/root", w.Outside, "secret"), unix.O_RDONLY)
	},
	"open with an old call": func(w *world) error { return openOld(filepath.Join(w.Outside, "secret")) },
	"use a held directory": func(w *world) error {
		fd, err := unix.Open(w.Outside, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		in, err := unix.Openat2(fd, "secret", &unix.OpenHow{})
		if err == nil {
			_ = unix.Close(in)
		}
		return err
	},
	"open by a file handle": func(w *world) error {
		h, mount, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(w.Outside, "secret"), 0)
		if err != nil {
			return err
		}
		_ = mount
		fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		in, err := unix.OpenByHandleAt(fd, h, unix.O_RDONLY)
		if err == nil {
			_ = unix.Close(in)
		}
		return err
	},
	"read what was inherited by chance": func(*world) error { _, err := unix.Pread(4, make([]byte, 1), 0); return err },
	"link a file outside into the grant": func(w *world) error {
		return unix.Link(filepath.Join(w.Outside, "secret"), filepath.Join(w.Granted, "linked"))
	},
	"move a file outside into the grant": func(w *world) error {
		return unix.Rename(filepath.Join(w.Outside, "moved"), filepath.Join(w.Granted, "moved"))
	},
	"remove a file outside":     func(w *world) error { return unix.Unlink(filepath.Join(w.Outside, "removed")) },
	"cut a file outside short":  func(w *world) error { return unix.Truncate(filepath.Join(w.Outside, "cut"), 0) },
	"open a file to others":     func(w *world) error { return unix.Chmod(filepath.Join(w.Outside, "secret"), 0o644) },
	"write where it may read":   func(w *world) error { return open(filepath.Join(w.ReadOnly, "file"), unix.O_WRONLY) },
	"make a device":             func(w *world) error { return unix.Mknod(filepath.Join(w.Granted, "device"), unix.S_IFCHR, 0x103) },
	"connect":                   func(w *world) error { return dial("tcp", w.Address) },
	"send a datagram":           func(w *world) error { return dial("udp", w.Address) },
	"connect a local socket":    func(w *world) error { return dial("unix", "@ripstop-wall-test-"+w.Address) },
	"listen":                    func(*world) error { return listen() },
	"make a pair of sockets":    func(*world) error { _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
	"connect its own listener":  func(*world) error { return unix.Connect(listenerFD, &unix.SockaddrInet4{Port: 1}) },
	"execute a program":         func(*world) error { return unix.Exec("/bin/true", []string{"true"}, nil) },
	"execute memory":            func(*world) error { return executeMemory() },
	"make a process":            func(*world) error { return fork(uintptr(unix.SIGCHLD)) },
	"make a process as clone":   func(*world) error { return call(unix.SYS_CLONE3, 0, 0) },
	"trace the parent":          func(w *world) error { return trace(w.Parent) },
	"read the parent's memory":  func(w *world) error { return readMemory(w) },
	"write the parent's memory": func(w *world) error { return writeMemory(w) },
	"open the parent's memory":  func(w *world) error { return openMemory(w) },
	"read the parent's environment": func(w *world) error {
		return open("/proc/"+strconv.Itoa(w.Parent)+"/environ", unix.O_RDONLY)
	},
	"take a descriptor of the parent": func(w *world) error {
		p, err := unix.PidfdOpen(w.Parent, 0)
		if err != nil {
			return err
		}
		defer unix.Close(p)
		fd, err := unix.PidfdGetfd(p, 0, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	},
	"signal the parent":         func(w *world) error { return unix.Kill(w.Parent, 0) },
	"signal a thread outside":   func(w *world) error { return unix.Tgkill(w.Parent, w.Parent, 0) },
	"have the kernel signal it": func(w *world) error { _, err := unix.FcntlInt(listenerFD, unix.F_SETOWN, w.Parent); return err },
	"limit the parent":          func(w *world) error { return unix.Prlimit(w.Parent, unix.RLIMIT_CORE, nil, new(unix.Rlimit)) },
	"slow the parent":           func(w *world) error { return unix.Setpriority(unix.PRIO_PROCESS, w.Parent, 1) },
	"show its memory again":     func(*world) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) },
	"io_uring":                  func(*world) error { return call(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(new([120]byte)))) },
	"bpf":                       func(*world) error { return call(unix.SYS_BPF, 0, 0) },
	"mount":                     func(w *world) error { return unix.Mount("none", w.Granted, "tmpfs", 0, "") },
	"new namespace":             func(*world) error { return unix.Unshare(unix.CLONE_NEWNS) },
	"another root":              func(w *world) error { return unix.Chroot(w.Outside) },
	"userfaultfd":               func(*world) error { return call(unix.SYS_USERFAULTFD, 0, 0) },
	"perf events":               func(*world) error { return call(unix.SYS_PERF_EVENT_OPEN, 0, 0) },
	"keys":                      func(*world) error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_KEYRING, true); return err },
	"another user":              func(*world) error { return call(unix.SYS_SETUID, 1, 0) },

	// What a worker lives on.
	"serve":                 serve,
	"read where it may":     func(w *world) error { return open(filepath.Join(w.ReadOnly, "file"), unix.O_RDONLY) },
	"keep files":            keepFiles,
	"keep files by handle":  keepByHandle,
	"find written pages":    scanPages,
	"run code it made":      mapCode,
	"threads and collector": threads,
	"return to an image":    returnToImage,
}

// works are the attempts that the wall lets through.
var works = []string{"serve", "read where it may", "keep files", "keep files by handle", "find written pages", "run code it made", "threads and collector", "return to an image"}

func open(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

func dial(network, address string) error {
	c, err := net.Dial(network, address)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.WriteString(c, "secret")
	return err
}

func listen() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		_ = l.Close()
	}
	return err
}

func call(number, a, b uintptr) error {
	fd, _, e := unix.Syscall6(number, a, b, 0, 0, 0, 0)
	if e != 0 {
		return e
	}
	if fd > 2 {
		_ = unix.Close(int(fd))
	}
	return nil
}

func executeMemory() error {
	fd, err := unix.MemfdCreate("program", 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	b, err := os.ReadFile("/bin/true")
	if err != nil {
		b = []byte("#!/bin/true\n")
	}
	if _, err := unix.Write(fd, b); err != nil {
		return err
	}
	path := append([]byte{}, 0)
	argv := []*byte{nil}
	_, _, e := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&path[0])), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&argv[0])), unix.AT_EMPTY_PATH, 0)
	return e
}

func trace(pid int) error {
	goruntime.LockOSThread()
	defer goruntime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		return err
	}
	// Let go of at once: what is traced stops for its tracer at the next signal, of which the Go runtime sends itself many.
	if err := unix.PtraceInterrupt(pid); err != nil {
		return err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		return err
	}
	deliver := status.StopSignal()
	if status.TrapCause() == unix.PTRACE_EVENT_STOP {
		deliver = 0 // it stopped for the interrupt, not for a signal
	}
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(pid), 0, uintptr(deliver), 0, 0)
	if e != 0 {
		return e
	}
	return nil
}

func readMemory(w *world) error {
	var secret [8]byte
	n, err := unix.ProcessVMReadv(w.Parent, []unix.Iovec{{Base: &secret[0], Len: 8}}, []unix.RemoteIovec{{Base: uintptr(w.Secret), Len: 8}}, 0)
	if err == nil && (n != 8 || string(secret[:]) != parentSecret) {
		return fmt.Errorf("read %q", secret[:n])
	}
	return err
}

func writeMemory(w *world) error {
	same := []byte(parentSecret)
	_, err := unix.ProcessVMWritev(w.Parent, []unix.Iovec{{Base: &same[0], Len: 8}}, []unix.RemoteIovec{{Base: uintptr(w.Secret), Len: 8}}, 0)
	return err
}

func openMemory(w *world) error {
	f, err := os.Open("/proc/" + strconv.Itoa(w.Parent) + "/mem")
	if err != nil {
		return err
	}
	defer f.Close()
	var secret [8]byte
	_, err = f.ReadAt(secret[:], int64(w.Secret))
	return err
}

func serve(*world) error {
	l, err := net.FileListener(os.NewFile(uintptr(dup(listenerFD)), "listener"))
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Unix(1<<40, 0)); err != nil {
		return err
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	buffers := net.Buffers{b, b}
	_, err = buffers.WriteTo(c)
	return err
}

func dup(fd int) int {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return -1
	}
	return n
}

func keepFiles(w *world) error {
	dir := filepath.Join(w.Granted, "kept")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, "file")
	f, err := os.CreateTemp(dir, "t")
	if err != nil {
		return err
	}
	_, err = f.WriteString("text")
	err = errors.Join(err, f.Sync(), f.Truncate(2), f.Close(), os.Rename(f.Name(), path), os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)))
	// Between directories, and by links.
	other := filepath.Join(dir, "sub", "file")
	err = errors.Join(err, os.Rename(path, other), os.Link(other, path), os.Symlink("file", filepath.Join(dir, "soft")))
	if b, e := os.ReadFile(filepath.Join(dir, "soft")); e != nil || string(b) != "te" {
		err = errors.Join(err, e, fmt.Errorf("read back %q", b))
	}
	if _, e := os.ReadDir(dir); e != nil {
		err = errors.Join(err, e)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// keepByHandle is how package wasi goes about files: it takes hold of them first, and reaches them through what it holds.
func keepByHandle(w *world) error {
	root, err := unix.Open(w.Granted, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	proc := func(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
	how := unix.OpenHow{Flags: unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_CLOEXEC, Mode: 0o600, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	made, err := unix.Openat2(root, "held", &how)
	if err != nil {
		return err
	}
	defer unix.Close(made)
	how.Flags, how.Mode = unix.O_PATH|unix.O_CLOEXEC, 0
	held, err := unix.Openat2(root, "held", &how)
	if err != nil {
		return err
	}
	defer unix.Close(held)
	again, err := unix.Open(proc(held), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(again)
	name := make([]byte, unix.PathMax)
	n, err := unix.Readlink(proc(held), name)
	if err == nil && !strings.HasSuffix(string(name[:n]), "/held") {
		err = fmt.Errorf("its name is %s", name[:n])
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	flags, e := unix.FcntlInt(uintptr(again), unix.F_GETFL, 0)
	if e == nil {
		_, e = unix.FcntlInt(uintptr(again), unix.F_SETFL, flags|unix.O_APPEND)
	}
	_, write := unix.Pwrite(again, []byte("text"), 0)
	_, seek := unix.Seek(again, 0, io.SeekStart)
	return errors.Join(err, e, write, seek, unix.Fallocate(again, 0, 0, 8), unix.Fadvise(again, 0, 0, unix.FADV_SEQUENTIAL), unix.Fdatasync(again), unix.Ftruncate(again, 1),
		unix.Fstatfs(held, &fs), unix.Fstat(held, &st), unix.UtimesNanoAt(held, "", []unix.Timespec{{Sec: 1}, {Sec: 1}}, unix.AT_EMPTY_PATH),
		unix.Mkdirat(root, "dir", 0o700), unix.Linkat(unix.AT_FDCWD, proc(held), root, "dir/linked", unix.AT_SYMLINK_FOLLOW), unix.Renameat(root, "held", root, "dir/held"),
		unix.Unlinkat(root, "dir/held", 0), unix.Unlinkat(root, "dir/linked", 0), unix.Unlinkat(root, "dir", unix.AT_REMOVEDIR))
}

func scanPages(w *world) error {
	m, err := unix.Mmap(-1, 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer unix.Munmap(m)
	m[5000] = 1
	var entry [8]byte
	at := int64(uintptr(unsafe.Pointer(&m[4096]))) / int64(os.Getpagesize()) * 8
	if _, err := w.pagemap.ReadAt(entry[:], at); err != nil {
		return err
	}
	if entry[7]&0x80 == 0 {
		return errors.New("the page does not count as present")
	}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, w.pagemap.Fd(), pagemapScan, uintptr(unsafe.Pointer(new([96]byte))))
	if e == unix.EPERM {
		return e
	}
	return nil // how the kernel likes an empty argument, or whether it has the call, is not what we ask
}

func mapCode(*world) error {
	fd, err := unix.MemfdCreate("code", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, 4096); err != nil {
		return err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE); err != nil {
		return err
	}
	m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	return errors.Join(unix.Mprotect(m, unix.PROT_READ|unix.PROT_EXEC), unix.Madvise(m, unix.MADV_DONTNEED), unix.Munmap(m))
}

// returnToImage is a sandbox's memory back at its image, by the method that was found before the wall stood.
func returnToImage(w *world) error {
	im, err := image.Take(image.Source{Memory: bytes.Repeat([]byte("image"), 1<<16)})
	if err != nil {
		return err
	}
	m, err := w.space.NewMemory(im, 1<<20, nil)
	if err != nil {
		return errors.Join(err, im.Close())
	}
	m.Bytes()[70_000] = 'x'
	err = m.Return()
	if got := m.Bytes()[70_000]; got != 'i' {
		err = errors.Join(err, fmt.Errorf("%q came back", got))
	}
	return errors.Join(err, m.Close(), im.Close())
}

// threads has the runtime make threads, interrupt them and collect garbage.
func threads(*world) error {
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			goruntime.LockOSThread()
			kept := [][]byte{}
			for range 100 {
				kept = append(kept, make([]byte, 10_000))
			}
			goruntime.KeepAlive(kept)
			goruntime.GC()
		})
	}
	wg.Wait()
	return nil
}

// fork makes a process that does nothing and ends: its stack is a copy, and it makes no call but exit.
func fork(signal uintptr) error {
	pid, _, e := unix.RawSyscall6(unix.SYS_CLONE, signal, 0, 0, 0, 0, 0)
	if e != 0 {
		return e
	}
	if pid == 0 {
		for {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	return nil
}
