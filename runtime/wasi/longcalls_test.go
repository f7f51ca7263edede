package wasi

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// looks counts how often a call looks at whether its turn is over.
type looks struct{ ticks int }

func (l *looks) Block()                        {}
func (l *looks) Unblock(context.Context) error { return nil }
func (l *looks) Charge(time.Duration)          {}
func (l *looks) Tick(context.Context) error    { l.ticks++; return nil }

func TestLongCallsLetOthersIn(t *testing.T) {
	var log bytes.Buffer
	g := newCaller(t, Options{Stderr: &log})
	l := new(looks)
	g.door.Share(l)
	const size = 1 << 20
	for i := range g.mem[dataAt : dataAt+size] {
		g.mem[dataAt+i] = byte(i) | 1
	}
	vecs, n := g.vec(size)
	if e := g.call("fd_write", 2, vecs, n, outAt); e != hostcall.Success || g.u32(outAt) != size || !bytes.Equal(log.Bytes(), g.mem[dataAt:dataAt+size]) {
		t.Errorf("fd_write: %v, %d bytes, of which %d came", e, g.u32(outAt), log.Len())
	}
	if l.ticks < size/longTransfer {
		t.Errorf("fd_write looked %d times", l.ticks)
	}
	l.ticks = 0
	if e := g.call("random_get", dataAt, size); e != hostcall.Success {
		t.Errorf("random_get: %v", e)
	}
	if l.ticks < size/randomPiece {
		t.Errorf("random_get looked %d times", l.ticks)
	}
}

// stingy is a writer that takes some bytes of the first write, and then none.
type stingy struct{ left int }

func (s *stingy) Write(p []byte) (int, error) {
	n := min(s.left, len(p))
	s.left -= n
	return n, nil
}

func TestAWriteEndsWithWhatItsWriterTook(t *testing.T) {
	for _, size := range []int{10, 1 << 20} {
		for _, takes := range []int{0, 5, size} {
			g := newCaller(t, Options{Stderr: &stingy{takes}})
			vecs, n := g.vec(size)
			if e := g.call("fd_write", 2, vecs, n, outAt); e != hostcall.Success || g.u32(outAt) != uint32(takes) {
				t.Errorf("%d bytes to a writer that takes %d: %v, %d written", size, takes, e, g.u32(outAt))
			}
		}
	}
}
