//go:build wasmtime && cgo

package wasi

import (
	"encoding/binary"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// difference is what ours may answer where theirs answers something else.
type difference struct {
	names        []string
	ours, theirs []hostcall.Errno
	when         func(d *differing) bool // nil: always
	// harmless says that both sides are as they were, or that nothing compares what one of them changed: the sequence goes on even where
	// one side did what the other refused.
	harmless bool
	why      string
}

// differing is a call that the sides answered differently.
type differing struct {
	step
	us           *side // it can be asked about what the call is about
	ours, theirs hostcall.Errno
	shown        string // by ours
}

func errnos(e ...hostcall.Errno) []hostcall.Errno { return e }

func names(all string) []string { return strings.Fields(all) }

var (
	success = errnos(hostcall.Success)
	ended   = errnos(endedThere)
	badf    = errnos(hostcall.EBADF)
	// unfound is why a path leads nowhere.
	unfound = errnos(hostcall.ENOENT, hostcall.ENOTDIR, hostcall.ELOOP, hostcall.ENAMETOOLONG, hostcall.EPERM)
)

const (
	overPaths = "path_create_directory path_filestat_get path_filestat_set_times path_link path_open path_readlink path_remove_directory path_rename path_symlink path_unlink_file"
	overFiles = "fd_advise fd_allocate fd_datasync fd_fdstat_set_flags fd_filestat_get fd_filestat_set_size fd_filestat_set_times fd_pread fd_pwrite fd_read fd_readdir fd_seek fd_sync fd_tell fd_write"
)

// deliberate are all differences that are meant, or that are theirs.
var deliberate = []difference{
	// What a descriptor is and may.
	{names("fd_read fd_pread"), errnos(hostcall.EISDIR), badf, isDirectory, true, "POSIX: a directory is not read (EISDIR); theirs has EBADF for whatever is no file"},
	{names("fd_pread fd_pwrite fd_allocate"), errnos(hostcall.ESPIPE), badf, isStream, true, "POSIX: a stream has no places (ESPIPE)"},
	{names("fd_filestat_set_size"), errnos(hostcall.EINVAL), badf, isNoFile, true, "POSIX: what is no file has no size to be set (EINVAL)"},
	{names("fd_filestat_set_size"), errnos(hostcall.EINVAL), success, nil, false,
		"theirs opens for writing whatever may be asked to change its size; ours opens what is not to be written for reading, as Go's guests want for files that are read-only"},
	{names("fd_advise fd_datasync fd_filestat_set_times fd_pread fd_pwrite fd_read fd_sync fd_write"), errnos(hostcall.ENOTCAPABLE), badf, nil, true,
		"the descriptor has no right to it (witx: rights); theirs keeps no rights, and can do it to files that were opened for it only"},
	{names("fd_write fd_pwrite fd_datasync"), errnos(hostcall.ENOTCAPABLE), success, nil, false, "theirs keeps no rights"},
	{names("fd_allocate"), append(slices.Clone(success), hostcall.ENOTCAPABLE, hostcall.EINVAL), errnos(hostcall.ENOTSUP), nil, false, "theirs allocates nothing"},
	{names("fd_sync fd_datasync fd_filestat_set_times fd_fdstat_set_flags"), success, badf, isNoFile, true,
		"directories and standard streams: POSIX, and so ours, can sync a directory, set its times, and set flags of both"},
	{names("fd_fdstat_set_flags"), errnos(hostcall.ENOTSUP), append(slices.Clone(badf), hostcall.EINVAL), func(d *differing) bool { return d.params[1]&26 != 0 }, true,
		"writes of an open file cannot be made synchronous: ours does not support it, theirs takes it for wrong, and looks at files only"},
	{names("fd_fdstat_set_rights"), append(slices.Clone(success), hostcall.ENOTCAPABLE), append(slices.Clone(badf), hostcall.ENOTSUP), nil, true,
		"theirs keeps no rights, and has EBADF for standard streams"},
	{names(overPaths + " " + overFiles), errnos(hostcall.ENOTCAPABLE),
		append(slices.Clone(unfound), hostcall.Success, hostcall.EBADF, hostcall.EINVAL, hostcall.ENOTSUP, hostcall.ESPIPE, hostcall.EEXIST, hostcall.EISDIR, hostcall.ENOTEMPTY, hostcall.EBUSY, endedThere),
		func(d *differing) bool { return d.us.narrowed }, false, "a right was given up before"},
	{names("fd_prestat_dir_name"), badf, errnos(hostcall.ENOTDIR), nil, true, "what was not preopened has no name: ours says the same as fd_prestat_get"},
	{names(overPaths), errnos(hostcall.ENOTDIR), badf, underNoDirectory, true, "a path beneath a descriptor that is no directory"},

	// Numbers that stand for nothing, and such as contradict each other.
	{names("fd_advise fd_seek fd_fdstat_set_flags fd_filestat_set_times path_filestat_set_times clock_res_get clock_time_get proc_raise"),
		errnos(hostcall.EBADF, hostcall.EINVAL, hostcall.ENOTCAPABLE, hostcall.ENOTDIR, hostcall.ESPIPE, hostcall.ENOTSUP), ended, meansNothing, true,
		"a number that stands for no advice, whence, clock, signal or flag ends the guest there; ours answers an errno, and looks at the descriptor first"},
	{names("fd_filestat_set_times path_filestat_set_times fd_fdstat_set_flags fd_pread fd_pwrite"), errnos(hostcall.EBADF, hostcall.ENOTCAPABLE, hostcall.ENOTDIR, hostcall.EISDIR, hostcall.ESPIPE),
		errnos(hostcall.EINVAL), contradicts, true, "flags that contradict each other, and offsets past the largest, are found first there"},
	{names("random_get"), errnos(hostcall.EFAULT), ended, outsideMemory, true, "an address outside memory ends the guest there"},
	{names("random_get"), errnos(hostcall.EFAULT), success, func(d *differing) bool { return outsideMemory(d) && d.params[1] == 0 }, true,
		"nothing put outside memory: ours looks at the address, as memory.fill does"},

	// Waiting and clocks.
	{names("fd_read"), success, errnos(hostcall.EINTR), asksForNothing, true, "reading nothing from standard input"},
	{names("clock_res_get clock_time_get"), success, badf, func(d *differing) bool { return d.params[0] == clockProcess || d.params[0] == clockThread }, true,
		"theirs has no clocks of processor time; Go and C programs end where there are none"},
	{names("poll_oneoff"), success, badf, func(d *differing) bool {
		return strings.Contains(d.shown, "EBADF") || strings.Contains(d.shown, "ENOTCAPABLE")
	}, true,
		"a descriptor that cannot be waited for is an event with an error (witx: event); theirs fails the call"},
	{names("poll_oneoff"), success, errnos(hostcall.EINVAL), func(d *differing) bool { return strings.Contains(d.shown, "ENOTSUP") }, true, "and so is a clock of processor time"},

	// Paths.
	{names("path_open"), success, errnos(hostcall.EISDIR, hostcall.EINVAL), nil, false, "a directory opened with the rights of a file: ours leaves those out (witx: path_open), theirs refuses"},
	{names("path_open"), append(slices.Clone(unfound), hostcall.EISDIR), errnos(hostcall.EINVAL), func(d *differing) bool { return d.params[4]&10 == 10 }, true,
		"a directory to be truncated: theirs refuses without a look"},
	{names("path_open"), append(slices.Clone(unfound), hostcall.EEXIST), errnos(hostcall.EISDIR), func(d *differing) bool { return d.params[4]&1 != 0 }, true,
		"a file to be created whose name, or the link that leads to it, has a slash behind it: Linux has EISDIR for all; ours says what is there (POSIX: open)"},
	{names("path_open"), errnos(hostcall.ENOTDIR), errnos(hostcall.ELOOP), func(d *differing) bool { return d.params[4]&2 != 0 && d.params[1] == 0 }, true,
		"a link opened as a directory, and not followed: it is both"},
	{names("path_create_directory"), errnos(hostcall.EEXIST), errnos(hostcall.EPERM), dotted, true, "theirs looks at no \"..\" in the last place"},
	{names("path_remove_directory"), errnos(hostcall.ENOTEMPTY), errnos(hostcall.EPERM, hostcall.EINVAL), dotted, true, "theirs looks at no \"..\" in the last place, and \".\" is EINVAL"},
	{names("path_remove_directory"), errnos(hostcall.Success, hostcall.ENOTEMPTY), errnos(hostcall.EINVAL), func(d *differing) bool { return slashed(d.step) }, false,
		"theirs removes no directory that is named with a slash"},
	{names("path_remove_directory path_unlink_file"), errnos(hostcall.ENOTDIR), append(slices.Clone(unfound), hostcall.EINVAL, hostcall.EISDIR, hostcall.ENOTEMPTY), func(d *differing) bool { return slashed(d.step) }, true,
		"a link with a slash behind it: theirs goes where it leads (rmdir(2) and unlink(2) do not)"},
	{names("path_unlink_file"), errnos(hostcall.EISDIR), errnos(hostcall.EPERM), dotted, true, "theirs looks at no \"..\" in the last place"},
	{names("path_link"), success, errnos(hostcall.EINVAL), func(d *differing) bool { return d.params[1] == 1 }, false, "theirs links no target of a link"},
	{names("path_link"), append(slices.Clone(unfound), hostcall.EEXIST), errnos(hostcall.EINVAL), func(d *differing) bool { return d.params[1] == 1 }, true, "and says so without a look"},
	{names("path_filestat_set_times"), append(slices.Clone(unfound), hostcall.EBADF), success, func(d *differing) bool { return d.params[6] == 0 }, true,
		"with nothing to set theirs looks at no path"},
	{names("path_rename path_filestat_get path_filestat_set_times path_open path_readlink path_link path_unlink_file"), append(slices.Clone(unfound), hostcall.EINVAL), success,
		func(d *differing) bool { return slashed(d.step) }, false, "a slash behind a name: POSIX, and so ours, goes where a link leads, and refuses what is no directory (ENOTDIR)"},
	{names("path_link path_rename path_symlink"),
		append(slices.Clone(unfound), hostcall.EEXIST, hostcall.EBUSY, hostcall.EISDIR, hostcall.ENOTEMPTY), append(slices.Clone(unfound), hostcall.EEXIST, hostcall.EISDIR, hostcall.ENOTEMPTY, hostcall.EINVAL),
		func(d *differing) bool {
			all := d.us.reasons(d.step)
			return slices.Contains(all, d.ours) && slices.Contains(all, d.theirs)
		}, true, "two names, and each side says what is wrong with another: the one that it looks at first"},
}

// meant finds the difference that a call is an instance of.
func (d *differing) meant() (harmless, ok bool) {
	for _, m := range deliberate {
		if slices.Contains(m.names, d.name) && slices.Contains(m.ours, d.ours) && slices.Contains(m.theirs, d.theirs) && (m.when == nil || m.when(d)) {
			return m.harmless || d.ours != hostcall.Success && d.theirs != hostcall.Success, true
		}
	}
	return false, false
}

// scratchAt is where questions about a call have their memory.
const scratchAt = 3 << 20

// kind is what a handle stands for; 255 if for nothing.
func (h *side) kind(handle uint64) filetype {
	if h.call("fd_fdstat_get", h.descriptor(handle), scratchAt) != hostcall.Success {
		return 255
	}
	return filetype(h.memory()[scratchAt])
}

func isDirectory(d *differing) bool { return d.us.kind(d.params[0]) == typeDirectory }
func isNoFile(d *differing) bool    { return isDirectory(d) || isStream(d) }

// isStream says that the descriptor has no places. Its type is that of what the host has there, which may be a file.
func isStream(d *differing) bool {
	return d.us.call("fd_tell", d.us.descriptor(d.params[0]), scratchAt) == hostcall.ESPIPE
}

func underNoDirectory(d *differing) bool {
	return slices.ContainsFunc(d.fds, func(i int) bool { k := d.us.kind(d.params[i]); return k != 255 && k != typeDirectory })
}

func meansNothing(d *differing) bool {
	p := d.params
	switch d.name {
	case "fd_advise":
		return p[3] > 5
	case "fd_seek":
		return p[2] > 2
	case "fd_fdstat_set_flags":
		return p[1] > uint64(fdflagsAll)
	case "fd_filestat_set_times":
		return p[3] > 15
	case "path_filestat_set_times":
		return p[6] > 15
	case "clock_res_get", "clock_time_get":
		return p[0] > clockThread
	case "proc_raise":
		return p[0] > 30
	}
	return false
}

func contradicts(d *differing) bool {
	p := d.params
	both := func(flags uint64) bool { return flags&3 == 3 || flags&12 == 12 }
	switch d.name {
	case "fd_filestat_set_times":
		return both(p[3])
	case "path_filestat_set_times":
		return both(p[6])
	case "fd_fdstat_set_flags":
		return p[1]&26 != 0
	}
	return p[3] > math.MaxInt64-MaxTransfer // fd_pread and fd_pwrite
}

func outsideMemory(d *differing) bool { return d.params[0]+d.params[1] > uint64(len(d.us.memory())) }

// asksForNothing says that all vectors are empty.
func asksForNothing(d *differing) bool {
	v := d.texts[vecAt]
	n := uint32(0)
	for range d.params[2] {
		n, v = n+binary.LittleEndian.Uint32([]byte(v[4:])), v[8:]
	}
	return n == 0
}

func slashed(s step) bool {
	return strings.HasSuffix(s.texts[textAt], "/") || strings.HasSuffix(s.texts[text2At], "/")
}

// dotted says that the path ends in a name for what is there in any case.
func dotted(d *differing) bool { return endsInDots(d.texts[textAt]) }

func endsInDots(p string) bool {
	base := path.Base(p)
	return p != "" && (base == "." || base == ".." || base == "/")
}

// find looks a path up, without following a link in the last place.
func (h *side) find(handle uint64, p string) (hostcall.Errno, filetype) {
	copy(h.memory()[scratchAt:], p)
	const to = scratchAt + MaxPath
	e := h.call("path_filestat_get", h.descriptor(handle), 0, scratchAt, uint64(len(p)), to)
	return e, filetype(h.memory()[to+16])
}

// reasons are what a call over two names may be refused for, each of them looked at by itself.
func (h *side) reasons(s step) (all []hostcall.Errno) {
	old, name := s.texts[textAt], s.texts[text2At] // what is there, and what is to have a new name
	oldFD, nameFD := s.params[0], s.params[len(s.params)-3]
	if s.name == "path_symlink" { // the old one is text
		if old == "" {
			all = append(all, hostcall.ENOENT)
		}
		if strings.HasPrefix(old, "/") {
			all = append(all, hostcall.EPERM)
		}
	} else {
		e, kind := h.find(oldFD, old)
		all = append(all, e)
		if s.name == "path_link" && kind == typeDirectory {
			all = append(all, hostcall.EPERM)
		}
	}
	if e, _ := h.find(nameFD, strings.TrimRight(name, "/")); e == hostcall.Success { // the kernel's word, whatever the slash wants
		all = append(all, hostcall.EEXIST)
	}
	e, kind := h.find(nameFD, name)
	switch {
	case name == "":
		all = append(all, hostcall.ENOENT)
	case e == hostcall.Success && kind == typeDirectory:
		all = append(all, hostcall.EISDIR, hostcall.ENOTEMPTY)
	case e == hostcall.Success:
	case e == hostcall.ENOENT:
		dir, _ := splitPath(name)
		if e, _ := h.find(nameFD, dir); e != hostcall.Success {
			all = append(all, e)
		}
	default:
		all = append(all, e)
	}
	paths := []string{name, old}
	if s.name == "path_symlink" {
		paths = paths[:1]
	}
	for _, p := range paths {
		if endsInDots(p) {
			all = append(all, hostcall.EEXIST, hostcall.EBUSY, hostcall.EPERM, hostcall.EINVAL)
		}
		if strings.HasSuffix(p, "/") {
			all = append(all, hostcall.ENOTDIR, hostcall.ENOENT, hostcall.EISDIR)
		}
	}
	return slices.DeleteFunc(all, func(e hostcall.Errno) bool { return e == hostcall.Success })
}
