package wasi

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// FuzzHostFunctions calls every function with any arguments and memory. A call may fail in whatever way it likes; it may not
// panic, outlive its context, or touch what was not granted.
func FuzzHostFunctions(f *testing.F) {
	for n := range Library().Funcs {
		seed := []byte{byte(n)}
		for _, v := range []uint64{3, 1, textAt, 1, 0, 1<<64 - 1, 64, 4, 64} {
			seed = binary.LittleEndian.AppendUint64(seed, v)
		}
		f.Add(seed, []byte("f\x00\x00\x00\x10\x00\x00\x00"))
	}
	dir := tree(f, map[string]string{"root/f": "hello", "root/d/g": "", "root/cut/s": "cut", "outside": "untouched"})
	f.Fuzz(func(t *testing.T, calls, mem []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		g := newCaller(t, Options{
			Args: []string{"a"}, Env: []string{"K=v"}, Stdin: bytes.NewReader(mem), MaxFiles: 12,
			Preopens: []Preopen{{Guest: "/", Host: filepath.Join(dir, "root"), Except: []string{"/cut"}}},
		})
		g.ctx = ctx
		if _, err := g.sys.Insert(&chanStream{in: mem, room: 100}); err != nil {
			t.Fatal(err)
		}
		copy(g.mem[textAt:], mem)
		copy(g.mem, mem)
		for len(calls) > 0 {
			fn := &Library().Funcs[int(calls[0])%len(Library().Funcs)]
			calls = calls[1:]
			params := make([]uint64, len(fn.Params))
			for i := range params {
				var b [8]byte
				calls = calls[copy(b[:], calls):]
				params[i] = binary.LittleEndian.Uint64(b[:])
			}
			if fn.Name == "fd_allocate" || fn.Name == "fd_filestat_set_size" {
				params[1], params[len(params)-1] = params[1]%(1<<20), params[len(params)-1]%(1<<20) // the disk is shared
			}
			if e := g.call(fn.Name, params...); g.err == nil && e > hostcall.ENOTCAPABLE && fn.Fails {
				t.Errorf("%s answered %d", fn, e)
			}
			if g.err != nil {
				break
			}
		}
		if b, err := os.ReadFile(filepath.Join(dir, "outside")); err != nil || string(b) != "untouched" {
			t.Errorf("outside: %q, %v", b, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "root", "cut", "s")); err != nil || string(b) != "cut" {
			t.Errorf("excepted: %q, %v", b, err)
		}
	})
}
