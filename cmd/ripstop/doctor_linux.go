package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ripstop-vm/ripstop/agent/wall"
)

// Bounds under which a limit counts as missing.
const (
	enoughFiles = 8192  // descriptors: ingress alone takes up to maxConnections
	enoughMaps  = 65530 // the kernel's own default
	mapsEach    = 2     // mappings of a sandbox that began as an image: its image and what lies beyond
)

func kernelVersion() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}

// platformChecks are the system calls and limits that the server lives on.
func platformChecks() []wall.Measure {
	var files unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
	filesCheck := atLeast("open files", files.Max, enoughFiles, "at most so many connections and files of guests at once", err)
	maps, err := readNumber("/proc/sys/vm/max_map_count")
	mapsCheck := atLeast("vm.max_map_count", maps, enoughMaps, fmt.Sprintf("a worker has about one sandbox for each %d of them", mapsEach), err)
	return []wall.Measure{
		check("openat2", "", "guests have no files: paths cannot be resolved beneath a directory", tryOpenat2()),
		check("memfd", "", "each sandbox has a copy of its image", tryMemfd()),
		filesCheck, mapsCheck,
		check("ordinary user", "", "a worker that was taken over has root's user id, though none of its capabilities: without Landlock it can change the system's settings", ordinary()),
	}
}

func ordinary() error {
	if os.Geteuid() == 0 {
		return errors.New("this is root")
	}
	return nil
}

// atLeast checks a limit.
func atLeast(name string, have, want uint64, cost string, err error) wall.Measure {
	if err == nil && have < want {
		err = fmt.Errorf("%d, less than %d", have, want)
	}
	return check(name, strconv.FormatUint(have, 10), cost, err)
}

func readNumber(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
}

func tryOpenat2() error {
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, ".", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return fmt.Errorf("it takes Linux 5.6 or later: %w", err)
	}
	return unix.Close(fd)
}

func tryMemfd() error {
	fd, err := unix.MemfdCreate("ripstop-doctor", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
	return err
}
