package reactor

import (
	"errors"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// netConn is a connection of the loop's that has become one of Go's scheduler. Package net would copy its descriptor, and there may be none to spare.
type netConn struct {
	*os.File
	remote net.Addr
}

var _ net.Conn = (*netConn)(nil)

func (c *netConn) Read(b []byte) (int, error) {
	n, err := c.File.Read(b)
	return n, bare(err)
}

func (c *netConn) Write(b []byte) (int, error) {
	n, err := c.File.Write(b)
	return n, bare(err)
}

// bare is an error of a file as a connection has it: net/http asks whether it is a net.Error.
func bare(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// CloseWrite tells the client that nothing more comes.
func (c *netConn) CloseWrite() error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if failed := raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) }); failed != nil {
		return failed
	}
	return err
}

func (c *netConn) RemoteAddr() net.Addr { return c.remote }

func (c *netConn) LocalAddr() net.Addr {
	local := net.Addr(&net.TCPAddr{})
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if at, err := unix.Getsockname(int(fd)); err == nil {
				local = address(at)
			}
		})
	}
	return local
}
