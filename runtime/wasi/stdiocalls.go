package wasi

import (
	"errors"
	"io"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// readStdin serves fd_read of a standard input.
func readStdin(c *hostcall.Call, d *descriptor, r *stdin) {
	want := 0
	for _, v := range c.Value(1).Vecs {
		want = min(want+int(v.Len), MaxTransfer)
	}
	if want > 0 {
		ready := func() bool { _, ok := r.ready(); return ok }
		if d.flags&fdNonblock != 0 {
			if !ready() {
				c.Fail(hostcall.EAGAIN)
				return
			}
		} else if !system(c).wait(c, ready) {
			return
		}
	}
	n, e := transfer(c, 1, func(p []byte, done int) (int, error) {
		if _, ok := r.ready(); done > 0 && (r.direct || !ok) {
			return 0, nil // a further Read might wait
		}
		n, err := r.read(p)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return n, err
	})
	finish(c, 2, n, e)
}

// longTransfer is after how many bytes others may get their turn in a write that does not wait: the lines of so many take a good part of a slice.
const longTransfer = 64 << 10

// writeStdout serves fd_write of a standard output. What one call writes is one Write, so that lines stay whole, or a
// few after each other where nobody else writes in between.
func writeStdout(c *hostcall.Call, r *stdout) {
	var only []byte
	var all []byte
	parts, total := 0, 0
	for _, v := range c.Value(1).Vecs {
		n := min(int(v.Len), MaxTransfer-total)
		if n == 0 {
			continue
		}
		p, ok := c.View(v.Ptr, uint32(n))
		if !ok {
			break
		}
		if parts++; parts == 1 {
			only = p
		} else {
			if parts == 2 {
				all = append(all, only...)
			}
			all = append(all, p...)
		}
		total += n
	}
	if parts > 1 {
		only = all
	}
	if total == 0 {
		finish(c, 2, 0, hostcall.Success)
		return
	}
	ctx := c.Context()
	var n int
	var err error
	if r.waits {
		c.Block()
		n, err = r.write(ctx, only)
		c.Unblock()
	} else {
		for more := true; more && n < total; {
			piece := only[n:min(n+longTransfer, total)]
			var m int
			m, err = r.write(ctx, piece)
			n += max(m, 0)
			more = m == len(piece) && err == nil && (total <= longTransfer || c.Tick())
		}
	}
	n = min(max(n, 0), total)
	if err != nil && ctx.Err() != nil {
		interrupted(c, ctx)
		return
	}
	if err != nil && n == 0 {
		c.Fail(toErrno(err))
		return
	}
	finish(c, 2, n, hostcall.Success)
}
