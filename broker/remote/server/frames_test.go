package server

import (
	"bytes"
	"io"
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
)

func event(number uint64, mark string, size int) broker.Event {
	return broker.Event{Revision: broker.Revision{Number: number, Mark: mark}, Changes: []broker.Change{{Record: broker.Record{Key: "k", Value: make([]byte, size)}}}}
}

func TestThoseWhoWatchTheSameShareFrames(t *testing.T) {
	var f frames
	first := f.of(event(1, "a", 10), "")
	if rep, err := protocol.ReadFrame(bytes.NewReader(first)); err != nil || rep.End || rep.Event.Revision.Number != 1 || len(rep.Event.Changes) != 1 {
		t.Errorf("the frame is %+v, %v", rep, err)
	}
	if again := f.of(event(1, "a", 10), ""); &again[0] != &first[0] {
		t.Error("it is made again for another who watches the same")
	}
	// Another prefix or another store's event of the same number is another frame, whatever place it has.
	narrow := event(1, "a", 10)
	narrow.Changes[0].Key = "kk"
	for _, other := range [][]byte{f.of(narrow, "kk"), f.of(event(1, "b", 10), ""), f.of(event(1+maxFrames, "a", 10), "")} {
		if bytes.Equal(other, first) {
			t.Error("one is taken for the other")
		}
	}
}

func TestALargeFrameIsNotKept(t *testing.T) {
	var f frames
	for _, c := range []struct {
		size int
		kept bool
	}{{maxFrameBytes - 100, true}, {maxFrameBytes, false}} {
		e := event(uint64(c.size), "a", c.size)
		first, again := f.of(e, ""), f.of(e, "")
		if kept := &first[0] == &again[0]; kept != c.kept || !bytes.Equal(first, again) {
			t.Errorf("a frame of %d bytes: kept %v", len(first), kept)
		}
		if _, err := protocol.ReadFrame(io.LimitReader(bytes.NewReader(again), 1<<20)); err != nil {
			t.Error(err)
		}
	}
}
