package reactor

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	goruntime "runtime"
	"sync/atomic"
	"time"
)

// Options configures a Server. HTTP and its Handler are required.
type Options struct {
	// HTTP serves what is not plain, and its bounds hold for what is: IdleTimeout, ReadHeaderTimeout up to a connection's first request, and
	// WriteTimeout for what a client does not take at once. It is the Server's alone, which wraps its Handler and sets its ConnContext.
	HTTP *http.Server
	// Runners is how many goroutines answer in place at once; 0 means GOMAXPROCS.
	Runners int
	// Connections is how many may be open at once; more wait in the kernel's backlog. 0 means 8192.
	Connections int
	// Spoiled reports whether the calling goroutine's thread has to end with it, which it is asked after a handler that took Spoils or more. nil: never.
	Spoiled func() bool
	Spoils  time.Duration
	Log     *slog.Logger // nil means slog.Default()
}

// Server serves the connections of one listener. Its methods are safe for concurrent use.
type Server struct {
	opts    Options
	handler http.Handler
	slots   chan struct{} // has a value for each connection
	handed  *handOver
	closing atomic.Bool
	base    context.Context // of requests
	cancel  context.CancelFunc

	accepting context.Context // ends once no more connections are accepted
	refuse    context.CancelFunc
	polling
}

// New makes a Server, which holds nothing before Serve.
func New(opts Options) *Server {
	if opts.Runners == 0 {
		opts.Runners = goruntime.GOMAXPROCS(0)
	}
	if opts.Connections == 0 {
		opts.Connections = 8192
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	s := &Server{opts: opts, handler: opts.HTTP.Handler, slots: make(chan struct{}, opts.Connections)}
	s.accepting, s.refuse = context.WithCancel(context.Background())
	s.base, s.cancel = context.WithCancel(context.Background())
	opts.HTTP.Handler, opts.HTTP.ConnContext = adopting(s.handler), connContext
	return s
}

// Serve serves l's connections until Shutdown or Close, and returns http.ErrServerClosed then, or why it cannot. It owns l, and is called once.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	defer context.AfterFunc(s.accepting, func() { _ = l.Close() })()
	err := s.serve(l)
	if s.closing.Load() {
		return http.ErrServerClosed
	}
	return errors.Join(err, s.Close())
}

// stop has no more connections accepted.
func (s *Server) stop() {
	s.closing.Store(true)
	s.refuse()
}

// acquire takes a place for a connection; false once the server stops.
func (s *Server) acquire() bool {
	select {
	case <-s.accepting.Done():
		return false
	case s.slots <- struct{}{}:
		return true
	}
}

func (s *Server) release() { <-s.slots }

// gated is a listener of net/http's own whose connections have places.
type gated struct {
	net.Listener
	s *Server
}

func (g gated) Accept() (net.Conn, error) {
	if !g.s.acquire() {
		return nil, net.ErrClosed
	}
	c, err := g.Listener.Accept()
	if err != nil {
		g.s.release()
		return nil, err
	}
	return &handed{Conn: c, free: g.s.release}, nil
}

// acceptPause is how long to wait after the nth failure in a row to accept a connection: descriptors may be short for a while.
func acceptPause(n int) time.Duration { return min(5*time.Millisecond<<min(n, 10), time.Second) }
