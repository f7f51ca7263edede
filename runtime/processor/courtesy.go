package processor

import (
	"io"
	"time"

	"github.com/ripstop-vm/ripstop/internal/clock"
)

// Courtesy has a long piece of work outside of a run yield as often as a run does. The zero value is ready to use, by one goroutine.
type Courtesy struct{ since time.Duration }

// courtesy is for how long work goes on before it yields.
const courtesy = time.Millisecond / yieldsPerSlice

// Yield yields if the last time, or the first call, is long enough ago.
func (c *Courtesy) Yield() {
	switch now := clock.Elapsed(); {
	case c.since == 0:
		c.since = now
	case now-c.since >= courtesy:
		Yield()
		c.since = clock.Elapsed()
	}
}

// readAtOnce bounds what is read between two looks at the time, in bytes: reading, hashing and writing that much takes about as long as courtesy.
const readAtOnce = 64 << 10

// Courteous is r for who reads much of it and does something with each piece: its reads yield.
func Courteous(r io.Reader) io.Reader { return &courteous{r: r} }

type courteous struct {
	r        io.Reader
	courtesy Courtesy
}

func (c *courteous) Read(p []byte) (int, error) {
	c.courtesy.Yield()
	return c.r.Read(p[:min(len(p), readAtOnce)])
}
