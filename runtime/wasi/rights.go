package wasi

// rights is a set of operations that a descriptor allows (witx: rights).
type rights uint64

const (
	rightFDDatasync rights = 1 << iota
	rightFDRead
	rightFDSeek
	rightFDFdstatSetFlags
	rightFDSync
	rightFDTell
	rightFDWrite
	rightFDAdvise
	rightFDAllocate
	rightPathCreateDirectory
	rightPathCreateFile
	rightPathLinkSource
	rightPathLinkTarget
	rightPathOpen
	rightFDReaddir
	rightPathReadlink
	rightPathRenameSource
	rightPathRenameTarget
	rightPathFilestatGet
	rightPathFilestatSetSize
	rightPathFilestatSetTimes
	rightFDFilestatGet
	rightFDFilestatSetSize
	rightFDFilestatSetTimes
	rightPathSymlink
	rightPathRemoveDirectory
	rightPathUnlinkFile
	rightPollFDReadwrite
	rightSockShutdown
	rightSockAccept
)

var rightNames = []string{
	"FD_DATASYNC", "FD_READ", "FD_SEEK", "FD_FDSTAT_SET_FLAGS", "FD_SYNC", "FD_TELL", "FD_WRITE", "FD_ADVISE", "FD_ALLOCATE",
	"PATH_CREATE_DIRECTORY", "PATH_CREATE_FILE", "PATH_LINK_SOURCE", "PATH_LINK_TARGET", "PATH_OPEN", "FD_READDIR",
	"PATH_READLINK", "PATH_RENAME_SOURCE", "PATH_RENAME_TARGET", "PATH_FILESTAT_GET", "PATH_FILESTAT_SET_SIZE",
	"PATH_FILESTAT_SET_TIMES", "FD_FILESTAT_GET", "FD_FILESTAT_SET_SIZE", "FD_FILESTAT_SET_TIMES", "PATH_SYMLINK",
	"PATH_REMOVE_DIRECTORY", "PATH_UNLINK_FILE", "POLL_FD_READWRITE", "SOCK_SHUTDOWN", "SOCK_ACCEPT",
}

// What each kind of descriptor can do at all. path_open drops the rights that do not apply to what it opened.
const (
	rightsAll  = rightSockAccept<<1 - 1
	rightsFile = rightFDDatasync | rightFDRead | rightFDSeek | rightFDFdstatSetFlags | rightFDSync | rightFDTell |
		rightFDWrite | rightFDAdvise | rightFDAllocate | rightFDFilestatGet | rightFDFilestatSetSize |
		rightFDFilestatSetTimes | rightPollFDReadwrite
	rightsDir = rightFDFdstatSetFlags | rightFDSync | rightFDDatasync | rightFDAdvise | rightPathCreateDirectory |
		rightPathCreateFile | rightPathLinkSource | rightPathLinkTarget | rightPathOpen | rightFDReaddir |
		rightPathReadlink | rightPathRenameSource | rightPathRenameTarget | rightPathFilestatGet |
		rightPathFilestatSetSize | rightPathFilestatSetTimes | rightFDFilestatGet | rightFDFilestatSetTimes |
		rightPathSymlink | rightPathRemoveDirectory | rightPathUnlinkFile | rightPollFDReadwrite
	rightsStdin    = rightFDRead | rightFDFdstatSetFlags | rightFDFilestatGet | rightPollFDReadwrite
	rightsStdout   = rightFDWrite | rightFDFdstatSetFlags | rightFDFilestatGet | rightPollFDReadwrite | rightFDSync | rightFDDatasync
	rightsSocket   = rightFDRead | rightFDWrite | rightFDFdstatSetFlags | rightFDFilestatGet | rightPollFDReadwrite | rightSockShutdown
	rightsListener = rightFDRead | rightFDFdstatSetFlags | rightFDFilestatGet | rightPollFDReadwrite | rightSockAccept
)

// fdflags is how a descriptor behaves (witx: fdflags).
type fdflags uint16

const (
	fdAppend fdflags = 1 << iota
	fdDsync
	fdNonblock
	fdRsync
	fdSync
	fdflagsAll = fdSync<<1 - 1
)

var fdflagNames = []string{"APPEND", "DSYNC", "NONBLOCK", "RSYNC", "SYNC"}

// filetype is what an object is (witx: filetype).
type filetype uint8

const (
	typeUnknown filetype = iota
	typeBlockDevice
	typeCharacterDevice
	typeDirectory
	typeRegularFile
	typeSocketDgram
	typeSocketStream
	typeSymbolicLink
)
