package redis

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"
)

// bell wakes who waits for a queue. Scripts publish on a channel when something may be ready; one connection listens, from the first
// Wait on. Nothing rests on it: a message may get lost, or not be allowed, and then Wait asks a little later.
type bell struct {
	link    *link
	channel string
	ringer  sync.WaitGroup

	mu     sync.Mutex
	sub    *redis.PubSub
	closed bool
	rung   chan struct{} // closed at the next message
}

func newBell(l *link) *bell {
	return &bell{link: l, channel: l.keys.prefix + ":bell", rung: make(chan struct{})}
}

// listen answers a channel that is closed when something may be ready.
func (b *bell) listen() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sub == nil && !b.closed {
		ctx := context.Background() // it serves all who wait, until close
		if b.link.cluster != nil {
			b.sub = b.link.cluster.Subscribe(ctx, b.channel)
		} else {
			b.sub = b.link.single.Subscribe(ctx, b.channel)
		}
		messages := b.sub.Channel()
		b.ringer.Go(func() {
			for range messages {
				b.ring()
			}
		})
	}
	return b.rung
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.rung)
	b.rung = make(chan struct{})
}

func (b *bell) close() {
	b.mu.Lock()
	sub, closed := b.sub, b.closed
	b.closed = true
	b.mu.Unlock()
	if sub == nil || closed {
		return
	}
	_ = sub.Close() // what it says about a broken connection is of no interest
	b.ringer.Wait()
}
