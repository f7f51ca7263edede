package server

import (
	"hash/maphash"
	"sync"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
)

// Bounds of frames: 16 MiB in all.
const (
	maxFrames     = 256
	maxFrameBytes = 64 << 10
)

// frames are the last events as they are sent, so that those who watch the same share them. The zero value is ready to use.
type frames struct {
	mu   sync.Mutex
	kept [maxFrames]struct {
		at     broker.Revision
		prefix string
		bytes  []byte
	}
}

var frameSeed = maphash.MakeSeed()

// of answers the frame of an event, as far as it is below prefix. Nobody changes it.
func (f *frames) of(e broker.Event, prefix string) []byte {
	slot := &f.kept[(e.Revision.Number+maphash.String(frameSeed, prefix))%maxFrames]
	f.mu.Lock()
	defer f.mu.Unlock()
	if slot.at == e.Revision && slot.prefix == prefix {
		return slot.bytes
	}
	b := (&protocol.Reply{Event: &e}).Frame()
	if len(b) <= maxFrameBytes {
		slot.at, slot.prefix, slot.bytes = e.Revision, prefix, b
	}
	return b
}
