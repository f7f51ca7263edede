package wasi

import (
	"net"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

var library = &hostcall.Library{Name: "wasi"}

func newListener(net.Listener, func()) *descriptor { return nil }
func newSocket(Stream) *descriptor                 { return nil }
func (s *System) preopen([]Preopen) error          { return nil }
