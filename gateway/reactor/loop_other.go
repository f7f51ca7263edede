//go:build !linux

package reactor

import (
	"context"
	"net"
)

// polling is nothing where there is no epoll.
type polling struct{}

func (s *Server) serve(l net.Listener) error { return s.opts.HTTP.Serve(gated{l, s}) }

// Shutdown has no more connections accepted, and waits until all requests under way are answered, or ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	return s.opts.HTTP.Shutdown(ctx)
}

// Close ends everything at once.
func (s *Server) Close() error {
	s.stop()
	s.cancel()
	return s.opts.HTTP.Close()
}
