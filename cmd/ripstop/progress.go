package main

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/schollz/progressbar/v3"
)

// What a deploy, a backup or a restore shows of its progress, and when: a bar on a terminal, once it takes long enough for someone to wonder, and a line now
// and then elsewhere.
const (
	progressAfter  = time.Second
	progressRedraw = 200 * time.Millisecond
	progressLines  = 5 * time.Second
	progressServer = "the server checks and compiles"
)

var (
	deploying = doing{"uploading", progressServer}
	backingUp = doing{"", "receiving the backup"}
	restoring = doing{"restoring", "restoring"}
)

// progress says on out how far something is, from start until stop: what was read of so many bytes, then that the other side is at
// work, as is when a module is deployed. All of it is written by one goroutine.
type progress struct {
	out      io.Writer
	terminal bool
	clock    clock.Clock
	does     doing
	size     int64 // bytes to read; 0 if there are none, or it is not known how many
	read     atomic.Int64

	began time.Time
	sent  time.Time // when the module was seen to be read whole; zero before
	bar   *progressbar.ProgressBar

	end  chan struct{}
	done sync.WaitGroup
}

// doing says what is done while bytes of a known number are read, and otherwise.
type doing struct{ reading, working string }

// startProgress begins to show progress on out.
func startProgress(out io.Writer, terminal bool, does doing, size int64, c clock.Clock) *progress {
	p := &progress{out: out, terminal: terminal, clock: c, does: does, size: size, began: c.Now(), end: make(chan struct{})}
	every := progressLines
	if terminal {
		every = progressRedraw
	}
	tick := c.NewTicker(every)
	p.done.Go(func() {
		defer tick.Stop()
		for {
			select {
			case <-tick.C():
				p.show()
			case <-p.end:
				p.clear()
				return
			}
		}
	})
	return p
}

// stop takes the bar away. Nothing is written after it.
func (p *progress) stop() {
	close(p.end)
	p.done.Wait()
}

// reader counts what is read of in.
func (p *progress) reader(in io.Reader) io.Reader { return countingReader{in, &p.read} }

type countingReader struct {
	in    io.Reader
	count *atomic.Int64
}

func (r countingReader) Read(b []byte) (int, error) {
	n, err := r.in.Read(b)
	r.count.Add(int64(n))
	return n, err
}

// show writes a line, or draws the bar anew.
func (p *progress) show() {
	now, read := p.clock.Now(), p.read.Load()
	sending := read < p.size
	if !sending && p.sent.IsZero() {
		p.sent = now
		p.clear() // the bar of the upload
	}
	what := p.does.working
	if p.size == 0 && read > 0 {
		what += ": " + sizeText(read)
	}
	working := fmt.Sprintf("%s (%s so far)", what, now.Sub(p.began).Round(time.Second))
	switch {
	case p.terminal && now.Sub(p.began) < progressAfter:
	case !p.terminal && sending:
		fmt.Fprintf(p.out, "%s: %s of %s\n", p.does.reading, sizeText(read), sizeText(p.size))
	case !p.terminal:
		fmt.Fprintln(p.out, working)
	case sending:
		if p.bar == nil {
			p.bar = progressbar.NewOptions64(p.size, progressbar.OptionSetWriter(p.out), progressbar.OptionShowBytes(true),
				progressbar.OptionSetDescription(p.does.reading), progressbar.OptionFullWidth(), progressbar.OptionClearOnFinish())
		}
		_ = p.bar.Set64(read) // a bar that cannot be drawn is no reason to stop
	default:
		if p.bar == nil {
			// It is drawn here and not by the bar's own goroutine, so that nothing is drawn after stop.
			p.bar = progressbar.NewOptions64(-1, progressbar.OptionSetWriter(p.out), progressbar.OptionSetElapsedTime(false),
				progressbar.OptionSpinnerType(14), progressbar.OptionSetSpinnerChangeInterval(0), progressbar.OptionClearOnFinish())
		}
		p.bar.Describe(working)
	}
}

func (p *progress) clear() {
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}
