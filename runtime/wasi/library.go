package wasi

import "github.com/ripstop-vm/ripstop/runtime/hostcall"

// Module is the name that guests import these functions under.
const Module = "wasi_snapshot_preview1"

// Library is the functions of WASI preview 1, in the order of its specification. Every call answers the same one; a
// sandbox binds a *System to it.
func Library() *hostcall.Library { return library }

const (
	i32 = hostcall.I32
	i64 = hostcall.I64
)

// arg describes an In argument that is one parameter.
func arg(name string, kind hostcall.Kind, param int) hostcall.Arg {
	return hostcall.Arg{Name: name, Kind: kind, Param: param}
}

func fdArg(name string, param int) hostcall.Arg   { return arg(name, hostcall.FD, param) }
func uintArg(name string, param int) hostcall.Arg { return arg(name, hostcall.Uint, param) }

func namedArg(name string, kind hostcall.Kind, param int, names []string) hostcall.Arg {
	return hostcall.Arg{Name: name, Kind: kind, Param: param, Names: names}
}

func pathArgument(name string, param int) hostcall.Arg {
	return hostcall.Arg{Name: name, Kind: hostcall.Path, Param: param, Max: MaxPath}
}

func vectorsArg(name string, dir hostcall.Dir, param int) hostcall.Arg {
	return hostcall.Arg{Name: name, Dir: dir, Kind: hostcall.Vectors, Param: param, Max: MaxVectors}
}

// outNum describes where a number of size bytes is written.
func outNum(name string, param int, size uint32) hostcall.Arg {
	return hostcall.Arg{Name: name, Dir: hostcall.Out, Kind: hostcall.Uint, Param: param, Size: size}
}

func outFD(name string, param int) hostcall.Arg {
	return hostcall.Arg{Name: name, Dir: hostcall.Out, Kind: hostcall.FD, Param: param, Size: 4}
}

func outRecord(name string, param int, size uint32) hostcall.Arg {
	return hostcall.Arg{Name: name, Dir: hostcall.Out, Kind: hostcall.Record, Param: param, Size: size}
}

func outBytes(name string, param int) hostcall.Arg {
	return hostcall.Arg{Name: name, Dir: hostcall.Out, Kind: hostcall.Bytes, Param: param}
}

func rightsArg(name string, param int) hostcall.Arg {
	return namedArg(name, hostcall.Flags, param, rightNames)
}

func lookupArg(name string, param int) hostcall.Arg {
	return namedArg(name, hostcall.Flags, param, []string{"SYMLINK_FOLLOW"})
}

func clockArg(param int) hostcall.Arg { return namedArg("id", hostcall.Enum, param, clockNames) }

func fstArgs(atim int) []hostcall.Arg {
	return []hostcall.Arg{
		uintArg("atim", atim), uintArg("mtim", atim+1), namedArg("fst_flags", hostcall.Flags, atim+2, fstflagNames),
	}
}

// def describes a function that answers an errno.
func def(name string, class hostcall.Class, params []hostcall.ValueType, call func(*hostcall.Call), args ...hostcall.Arg) hostcall.Func {
	f := hostcall.Func{
		Module: Module, Name: name, Params: params, Results: []hostcall.ValueType{i32}, Class: class, Args: args, Fails: true,
		Call: call,
	}
	var fds []int
	for i, a := range args {
		if a.Kind == hostcall.FD && a.Dir == hostcall.In {
			fds = append(fds, i)
		}
	}
	if fds != nil {
		f.Resolve = fdResolver(fds...)
	}
	return f
}

// defPath describes a function over paths.
func defPath(name string, class hostcall.Class, params []hostcall.ValueType, call func(*hostcall.Call), paths []pathArg, args ...hostcall.Arg) hostcall.Func {
	f := def(name, class, params, call, args...)
	f.Resolve = resolver(paths...)
	return f
}

func blocks(f hostcall.Func) hostcall.Func {
	f.Blocks = true
	return f
}

func types(ts ...hostcall.ValueType) []hostcall.ValueType { return ts }

const (
	readLocal    = hostcall.ReadLocal
	writeLocal   = hostcall.WriteLocal
	readOutside  = hostcall.ReadOutside
	writeOutside = hostcall.WriteOutside
)

var library = &hostcall.Library{Name: "wasi", Funcs: []hostcall.Func{
	def("args_get", readLocal, types(i32, i32), argsGet, outRecord("argv", 0, 0), outRecord("argv_buf", 1, 0)),
	def("args_sizes_get", readLocal, types(i32, i32), argsSizesGet, outNum("argc", 0, 4), outNum("argv_buf_size", 1, 4)),
	def("environ_get", readLocal, types(i32, i32), environGet, outRecord("environ", 0, 0), outRecord("environ_buf", 1, 0)),
	def("environ_sizes_get", readLocal, types(i32, i32), environSizesGet,
		outNum("environc", 0, 4), outNum("environ_buf_size", 1, 4)),
	def("clock_res_get", readLocal, types(i32, i32), clockResGet, clockArg(0), outNum("resolution", 1, 8)),
	def("clock_time_get", readLocal, types(i32, i64, i32), clockTimeGet,
		clockArg(0), uintArg("precision", 1), outNum("time", 2, 8)),
	gated(def("fd_advise", writeLocal, types(i32, i64, i64, i32), fdAdvise,
		fdArg("fd", 0), uintArg("offset", 1), uintArg("len", 2), namedArg("advice", hostcall.Enum, 3, adviceNames))),
	gated(def("fd_allocate", writeOutside, types(i32, i64, i64), fdAllocate, fdArg("fd", 0), uintArg("offset", 1), uintArg("len", 2))),
	def("fd_close", writeLocal, types(i32), fdClose, fdArg("fd", 0)),
	gated(def("fd_datasync", writeOutside, types(i32), fdDatasync, fdArg("fd", 0))),
	def("fd_fdstat_get", readLocal, types(i32, i32), fdFdstatGet, fdArg("fd", 0), outRecord("stat", 1, 24)),
	def("fd_fdstat_set_flags", writeLocal, types(i32, i32), fdFdstatSetFlags,
		fdArg("fd", 0), namedArg("flags", hostcall.Flags, 1, fdflagNames)),
	def("fd_fdstat_set_rights", writeLocal, types(i32, i64, i64), fdFdstatSetRights,
		fdArg("fd", 0), rightsArg("fs_rights_base", 1), rightsArg("fs_rights_inheriting", 2)),
	gated(def("fd_filestat_get", readOutside, types(i32, i32), fdFilestatGet, fdArg("fd", 0), outRecord("buf", 1, filestatSize))),
	gated(def("fd_filestat_set_size", writeOutside, types(i32, i64), fdFilestatSetSize, fdArg("fd", 0), uintArg("size", 1))),
	gated(def("fd_filestat_set_times", writeOutside, types(i32, i64, i64, i32), fdFilestatSetTimes,
		append([]hostcall.Arg{fdArg("fd", 0)}, fstArgs(1)...)...)),
	gated(def("fd_pread", readOutside, types(i32, i32, i32, i64, i32), fdPread,
		fdArg("fd", 0), vectorsArg("iovs", hostcall.Out, 1), uintArg("offset", 3), outNum("nread", 4, 4))),
	def("fd_prestat_get", readLocal, types(i32, i32), fdPrestatGet, fdArg("fd", 0), outRecord("buf", 1, 8)),
	def("fd_prestat_dir_name", readLocal, types(i32, i32, i32), fdPrestatDirName, fdArg("fd", 0), outBytes("path", 1)),
	gated(def("fd_pwrite", writeOutside, types(i32, i32, i32, i64, i32), fdPwrite,
		fdArg("fd", 0), vectorsArg("iovs", hostcall.In, 1), uintArg("offset", 3), outNum("nwritten", 4, 4))),
	blocks(def("fd_read", readOutside, types(i32, i32, i32, i32), fdRead,
		fdArg("fd", 0), vectorsArg("iovs", hostcall.Out, 1), outNum("nread", 3, 4))),
	gated(def("fd_readdir", readOutside, types(i32, i32, i32, i64, i32), fdReaddir,
		fdArg("fd", 0), outBytes("buf", 1), uintArg("cookie", 3), outNum("bufused", 4, 4))),
	def("fd_renumber", writeLocal, types(i32, i32), fdRenumber, fdArg("fd", 0), fdArg("to", 1)),
	def("fd_seek", writeLocal, types(i32, i64, i32, i32), fdSeek,
		fdArg("fd", 0), arg("offset", hostcall.Int, 1), namedArg("whence", hostcall.Enum, 2, whenceNames), outNum("newoffset", 3, 8)),
	gated(def("fd_sync", writeOutside, types(i32), fdSyncCall, fdArg("fd", 0))),
	def("fd_tell", readLocal, types(i32, i32), fdTell, fdArg("fd", 0), outNum("offset", 1, 8)),
	blocks(def("fd_write", writeOutside, types(i32, i32, i32, i32), fdWrite,
		fdArg("fd", 0), vectorsArg("iovs", hostcall.In, 1), outNum("nwritten", 3, 4))),
	gated(defPath("path_create_directory", writeOutside, types(i32, i32, i32), pathCreateDirectory, []pathArg{createDirectoryPath},
		fdArg("fd", 0), pathArgument("path", 1))),
	gated(defPath("path_filestat_get", readOutside, types(i32, i32, i32, i32, i32), pathFilestatGet, []pathArg{filestatPath},
		fdArg("fd", 0), lookupArg("flags", 1), pathArgument("path", 2), outRecord("buf", 4, filestatSize))),
	gated(defPath("path_filestat_set_times", writeOutside, types(i32, i32, i32, i32, i64, i64, i32), pathFilestatSetTimes,
		[]pathArg{filestatPath},
		append([]hostcall.Arg{fdArg("fd", 0), lookupArg("flags", 1), pathArgument("path", 2)}, fstArgs(4)...)...)),
	gated(defPath("path_link", writeOutside, types(i32, i32, i32, i32, i32, i32, i32), pathLink, []pathArg{linkOldPath, linkNewPath},
		fdArg("old_fd", 0), lookupArg("old_flags", 1), pathArgument("old_path", 2), fdArg("new_fd", 4), pathArgument("new_path", 5))),
	gated(defPath("path_open", writeOutside, types(i32, i32, i32, i32, i32, i64, i64, i32, i32), pathOpen, []pathArg{openPath},
		fdArg("fd", 0), lookupArg("dirflags", 1), pathArgument("path", 2), namedArg("oflags", hostcall.Flags, 4, oflagNames),
		rightsArg("fs_rights_base", 5), rightsArg("fs_rights_inheriting", 6), namedArg("fdflags", hostcall.Flags, 7, fdflagNames),
		outFD("opened_fd", 8))),
	gated(defPath("path_readlink", readOutside, types(i32, i32, i32, i32, i32, i32), pathReadlink, []pathArg{readlinkPath},
		fdArg("fd", 0), pathArgument("path", 1), outBytes("buf", 3), outNum("bufused", 5, 4))),
	gated(defPath("path_remove_directory", writeOutside, types(i32, i32, i32), pathRemoveDirectory, []pathArg{removePath},
		fdArg("fd", 0), pathArgument("path", 1))),
	gated(defPath("path_rename", writeOutside, types(i32, i32, i32, i32, i32, i32), pathRename, []pathArg{renameOldPath, renameNewPath},
		fdArg("fd", 0), pathArgument("old_path", 1), fdArg("new_fd", 3), pathArgument("new_path", 4))),
	// What a symbolic link says is text: it is resolved when somebody follows it, and judged then.
	gated(defPath("path_symlink", writeOutside, types(i32, i32, i32, i32, i32), pathSymlink, []pathArg{symlinkPath},
		hostcall.Arg{Name: "old_path", Kind: hostcall.Text, Param: 0, Max: MaxPath, MaxErrno: hostcall.ENAMETOOLONG},
		fdArg("fd", 2), pathArgument("new_path", 3))),
	gated(defPath("path_unlink_file", writeOutside, types(i32, i32, i32), pathUnlinkFile, []pathArg{removePath},
		fdArg("fd", 0), pathArgument("path", 1))),
	blocks(def("poll_oneoff", readOutside, types(i32, i32, i32, i32), pollOneoff,
		hostcall.Arg{Name: "in", Kind: hostcall.Record, Param: 0, Count: 2, Size: subscriptionSize, Max: MaxSubscriptions},
		hostcall.Arg{Name: "out", Dir: hostcall.Out, Kind: hostcall.Record, Param: 1, Count: 2, Size: eventSize, Max: MaxSubscriptions},
		uintArg("nsubscriptions", 2), outNum("nevents", 3, 4))),
	{
		Module: Module, Name: "proc_exit", Params: types(i32), Class: writeLocal, Call: procExit,
		Args: []hostcall.Arg{uintArg("rval", 0)},
	},
	def("proc_raise", writeLocal, types(i32), procRaise, uintArg("sig", 0)),
	def("sched_yield", readLocal, nil, schedYield),
	def("random_get", readLocal, types(i32, i32), randomGet, outBytes("buf", 0)),
	blocks(def("sock_accept", readOutside, types(i32, i32, i32), sockAccept,
		fdArg("fd", 0), namedArg("flags", hostcall.Flags, 1, fdflagNames), outFD("connection", 2))),
	blocks(def("sock_recv", readOutside, types(i32, i32, i32, i32, i32, i32), sockRecv,
		fdArg("fd", 0), vectorsArg("ri_data", hostcall.Out, 1), namedArg("ri_flags", hostcall.Flags, 3, riflagNames),
		outNum("ro_datalen", 4, 4), outRecord("ro_flags", 5, 2))),
	blocks(def("sock_send", writeOutside, types(i32, i32, i32, i32, i32), sockSend,
		fdArg("fd", 0), vectorsArg("si_data", hostcall.In, 1), uintArg("si_flags", 3), outNum("so_datalen", 4, 4))),
	def("sock_shutdown", writeOutside, types(i32, i32), sockShutdown, fdArg("fd", 0), namedArg("how", hostcall.Flags, 1, sdflagNames)),
}}
