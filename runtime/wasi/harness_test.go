package wasi

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// linearMemory is a guest's memory without a guest.
type linearMemory []byte

func (m linearMemory) Bytes() []byte { return m }

// caller makes host calls as a guest would.
type caller struct {
	t       testing.TB
	sys     *System
	door    *hostcall.Door
	numbers map[string]int
	mem     linearMemory
	ctx     context.Context
	err     error // what ended the guest, if a call did
}

type unwound struct{}

func newCaller(t testing.TB, opts Options, interposers ...hostcall.Interposer) *caller {
	t.Helper()
	sys, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sys.Close() })
	table, err := hostcall.NewTable(Library())
	if err != nil {
		t.Fatal(err)
	}
	g := &caller{t: t, sys: sys, numbers: map[string]int{}, mem: make(linearMemory, 4<<20), ctx: context.Background()}
	for n, f := range table.Funcs() {
		g.numbers[f.Name] = n
	}
	if g.door, err = hostcall.NewDoor(table, []hostcall.Binding{{Library: Library(), State: sys}}, interposers); err != nil {
		t.Fatal(err)
	}
	g.door.Attach(g.mem, unwound{})
	return g
}

// call dispatches one call and answers its errno.
func (g *caller) call(name string, params ...uint64) (e hostcall.Errno) {
	g.t.Helper()
	n, ok := g.numbers[name]
	if !ok {
		g.t.Fatalf("no function %s", name)
	}
	stack := append([]uint64(nil), params...)
	if len(stack) == 0 {
		stack = make([]uint64, 1)
	}
	mark := g.door.Enter(g.ctx)
	defer func() {
		r := recover()
		if _, ended := r.(unwound); r != nil && !ended {
			panic(r)
		} else if ended {
			g.err = g.door.Leave(mark, context.Canceled)
			e = 1<<32 - 1
			return
		}
		_ = g.door.Leave(mark, nil)
	}()
	g.door.Dispatch(n, stack)
	return hostcall.Errno(uint32(stack[0]))
}

// Where calls find what they need: texts at 4096 and 12288, results at 64 and up.
const (
	textAt, text2At = 4096, 12288
	outAt           = 64
	vecAt           = 32768
	dataAt          = 65536
)

func (g *caller) text(at int, s string) (ptr, n uint64) {
	copy(g.mem[at:], s)
	return uint64(at), uint64(len(s))
}

func (g *caller) u32(at int) uint32 { return binary.LittleEndian.Uint32(g.mem[at:]) }
func (g *caller) u64(at int) uint64 { return binary.LittleEndian.Uint64(g.mem[at:]) }

// vec makes one vector of n bytes at dataAt.
func (g *caller) vec(n int) (ptr, count uint64) {
	binary.LittleEndian.PutUint32(g.mem[vecAt:], dataAt)
	binary.LittleEndian.PutUint32(g.mem[vecAt+4:], uint32(n))
	return vecAt, 1
}

// What a libc asks for when it opens to read, and to read and write.
const (
	reading   = rightsAll &^ (rightFDWrite | rightFDAllocate | rightFDDatasync)
	readWrite = rightsAll
)

func (g *caller) open(fd uint32, p string, oflags uint64, base rights, flags fdflags) (uint32, hostcall.Errno) {
	g.t.Helper()
	ptr, n := g.text(textAt, p)
	e := g.call("path_open", uint64(fd), 1, ptr, n, oflags, uint64(base), uint64(rightsAll), uint64(flags), outAt)
	return g.u32(outAt), e
}

func (g *caller) mustOpen(fd uint32, p string, oflags uint64, base rights, flags fdflags) uint32 {
	g.t.Helper()
	got, e := g.open(fd, p, oflags, base, flags)
	if e != hostcall.Success {
		g.t.Fatalf("path_open %s: %s", p, e)
	}
	return got
}

func (g *caller) path1(name string, fd uint32, p string) hostcall.Errno {
	g.t.Helper()
	ptr, n := g.text(textAt, p)
	return g.call(name, uint64(fd), ptr, n)
}

func (g *caller) rename(fd uint32, from string, to uint32, name string) hostcall.Errno {
	g.t.Helper()
	a, an := g.text(textAt, from)
	b, bn := g.text(text2At, name)
	return g.call("path_rename", uint64(fd), a, an, uint64(to), b, bn)
}

func (g *caller) link(fd uint32, follow uint64, from string, to uint32, name string) hostcall.Errno {
	g.t.Helper()
	a, an := g.text(textAt, from)
	b, bn := g.text(text2At, name)
	return g.call("path_link", uint64(fd), follow, a, an, uint64(to), b, bn)
}

func (g *caller) symlink(target string, fd uint32, name string) hostcall.Errno {
	g.t.Helper()
	a, an := g.text(textAt, target)
	b, bn := g.text(text2At, name)
	return g.call("path_symlink", a, an, uint64(fd), b, bn)
}

func (g *caller) stat(fd uint32, p string, follow uint64) hostcall.Errno {
	g.t.Helper()
	ptr, n := g.text(textAt, p)
	return g.call("path_filestat_get", uint64(fd), follow, ptr, n, outAt)
}

// write answers how much was written.
func (g *caller) write(fd uint32, s string) (int, hostcall.Errno) {
	g.t.Helper()
	copy(g.mem[dataAt:], s)
	v, n := g.vec(len(s))
	e := g.call("fd_write", uint64(fd), v, n, outAt)
	return int(g.u32(outAt)), e
}

func (g *caller) pwrite(fd uint32, s string, off uint64) hostcall.Errno {
	g.t.Helper()
	copy(g.mem[dataAt:], s)
	v, n := g.vec(len(s))
	return g.call("fd_pwrite", uint64(fd), v, n, off, outAt)
}

func (g *caller) read(fd uint32, n int) (string, hostcall.Errno) {
	g.t.Helper()
	v, c := g.vec(n)
	e := g.call("fd_read", uint64(fd), v, c, outAt)
	if e != hostcall.Success {
		return "", e
	}
	return string(g.mem[dataAt : dataAt+int(g.u32(outAt))]), e
}

// readdir lists a directory in pieces of at most piece bytes, and calls between after each piece.
func (g *caller) readdir(fd uint32, piece int, between func()) []string {
	g.t.Helper()
	var names []string
	cookie := uint64(0)
	for {
		if e := g.call("fd_readdir", uint64(fd), dataAt, uint64(piece), cookie, outAt); e != hostcall.Success {
			g.t.Fatalf("fd_readdir: %s", e)
		}
		used := int(g.u32(outAt))
		b := g.mem[dataAt : dataAt+used]
		for len(b) >= 24 {
			n := int(binary.LittleEndian.Uint32(b[16:]))
			if len(b) < 24+n {
				break
			}
			cookie = binary.LittleEndian.Uint64(b)
			names = append(names, string(b[24:24+n]))
			b = b[24+n:]
		}
		if used < piece {
			return names
		}
		if between != nil {
			between()
		}
	}
}

func wantErrno(t testing.TB, what string, got, want hostcall.Errno) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

// tree makes files (content) and directories (names that end in a slash) below a new directory.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if name[len(name)-1] == '/' {
			if err := os.MkdirAll(p, 0o777); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(p), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
