package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// Options configures a Client. Addrs and Credentials are required.
type Options struct {
	Addrs       []string      // host:port of control processes; any of them will do
	Credentials *Credentials  // who the caller is, and whom it trusts
	Dial        time.Duration // how long it is tried to reach one; 0 means 2 s
	Silence     time.Duration // a connection on which nothing comes for so long is asked for a sign of life, and given as long again; 0 means 5 s
}

// Client is a broker that control processes serve. Close ends it.
type Client struct {
	opts   Options
	last   atomic.Int64 // index of the address that was reached last
	done   context.Context
	cancel context.CancelFunc

	mu        sync.Mutex
	closed    bool
	cert      *tls.Certificate // of transport's connections
	transport *http.Transport
	conns     map[*conn]bool // that are open
}

// conn is a connection that the client knows of.
type conn struct {
	net.Conn
	c *Client
}

func (n *conn) Close() error {
	n.c.mu.Lock()
	delete(n.c.conns, n)
	n.c.mu.Unlock()
	return n.Conn.Close()
}

// Open makes a client. It connects when it is first used.
func Open(opts Options) (*Client, error) {
	if len(opts.Addrs) == 0 || opts.Credentials == nil {
		return nil, fmt.Errorf("open remote broker: no addresses or no credentials: %w", broker.ErrInvalid)
	}
	if opts.Dial < 0 || opts.Silence < 0 {
		return nil, fmt.Errorf("open remote broker: negative option: %w", broker.ErrInvalid)
	}
	for _, addr := range opts.Addrs {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, fmt.Errorf("open remote broker: address %.200q: %w: %w", addr, broker.ErrInvalid, err)
		}
	}
	if opts.Dial == 0 {
		opts.Dial = 2 * time.Second
	}
	if opts.Silence == 0 {
		opts.Silence = 5 * time.Second
	}
	opts.Addrs = slices.Clone(opts.Addrs)
	c := &Client{opts: opts, conns: map[*conn]bool{}}
	c.done, c.cancel = context.WithCancel(context.Background()) // ends with Close
	return c, nil
}

// Records are the broker's records.
func (c *Client) Records() *Records { return &Records{c} }

// Leases are the broker's leases.
func (c *Client) Leases() *Leases { return &Leases{c} }

// Blobs are the broker's blobs.
func (c *Client) Blobs() *Blobs { return &Blobs{c} }

// Queue is the broker's queue.
func (c *Client) Queue() *Queue { return &Queue{c} }

// Buckets are the broker's buckets.
func (c *Client) Buckets() *Buckets { return &Buckets{c} }

// Close ends watches and calls that are under way with broker.ErrClosed, and closes the connections. Later calls fail with
// broker.ErrClosed. It may be called twice.
func (c *Client) Close() error {
	c.cancel()
	c.mu.Lock()
	c.closed = true
	conns := slices.Collect(maps.Keys(c.conns))
	c.mu.Unlock()
	for _, n := range conns {
		_ = n.Close() // what it says about what was under way is of no interest
	}
	return nil
}

// current answers the transport whose connections have the current certificate.
func (c *Client) current() (*http.Transport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, broker.ErrClosed
	}
	cert := c.opts.Credentials.certificate()
	if c.transport == nil || cert != c.cert {
		if c.transport != nil {
			go c.transport.CloseIdleConnections() // it closes them under c.mu; what is under way on others ends by itself
		}
		c.cert = cert
		c.transport = &http.Transport{
			DialContext:     c.dial,
			TLSClientConfig: c.opts.Credentials.config(cert),
			Protocols:       new(http.Protocols),
			HTTP2:           &http.HTTP2Config{SendPingTimeout: c.opts.Silence, PingTimeout: c.opts.Silence, MaxReadFrameSize: 1 << 20},
			// A connection without a call is kept for a while, as an agent calls again soon.
			IdleConnTimeout:     90 * time.Second,
			TLSHandshakeTimeout: 5 * time.Second,
			DisableCompression:  true,
		}
		c.transport.Protocols.SetHTTP2(true)
	}
	return c.transport, nil
}

// dialPause is between two rounds over all addresses.
const dialPause = 25 * time.Millisecond

// dial reaches a control process, whatever address it is asked for: the one that was reached last, or else the next. Nothing was sent yet, so
// that it may try again and again.
func (c *Client) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Dial)
	defer cancel()
	var d net.Dialer
	first := c.last.Load()
	var errs []error
	for {
		errs = errs[:0]
		for i := range int64(len(c.opts.Addrs)) {
			at := (first + i) % int64(len(c.opts.Addrs))
			// One that does not answer leaves time for the others.
			try, stop := context.WithTimeout(ctx, c.opts.Dial/time.Duration(min(len(c.opts.Addrs), 4)))
			got, err := d.DialContext(try, network, c.opts.Addrs[at])
			stop()
			if err == nil {
				c.last.Store(at)
				return c.keep(got)
			}
			errs = append(errs, err)
		}
		pause := clock.System.NewTimer(dialPause)
		select {
		case <-pause.C():
		case <-ctx.Done():
			pause.Stop()
			return nil, &dialError{errors.Join(errs...)}
		}
	}
}

// keep remembers a connection, so that Close closes it.
func (c *Client) keep(got net.Conn) (net.Conn, error) {
	n := &conn{got, c}
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.conns[n] = true
	}
	c.mu.Unlock()
	if closed {
		_ = got.Close()
		return nil, broker.ErrClosed
	}
	return n, nil
}

// next lets the next connection go to another control process.
func (c *Client) next() { c.last.Store((c.last.Load() + 1) % int64(len(c.opts.Addrs))) }

// dialError says that no connection was made, so that nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// stream is the answer to a call that is being read.
type stream struct {
	c      *Client
	ctx    context.Context // of the call: like that of a request, whose answer it is
	what   protocol.Method
	body   io.ReadCloser
	cancel context.CancelFunc
	once   sync.Once
}

// open sends a call, whose body is m or, if that is nil, what r gives, and answers what is said to it.
func (c *Client) open(ctx context.Context, what protocol.Method, m *protocol.Call, r io.Reader) (*stream, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	transport, err := c.current()
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.done, cancel)
	s := &stream{c: c, ctx: ctx, what: what, cancel: func() { stop(); cancel() }}
	if m != nil {
		r = bytes.NewReader(m.Marshal())
	}
	// The transport sends a call again by itself only when the server has said that it did not look at it.
	req, err := http.NewRequestWithContext(within, http.MethodPost, "https://"+protocol.ServerName+string(what), r)
	if err != nil {
		s.close()
		return nil, err
	}
	req.Header.Set("Content-Type", protocol.ContentType)
	req.Header.Set(protocol.HeaderSchema, strconv.Itoa(protocol.Schema))
	if end, ok := ctx.Deadline(); ok {
		left := max(end.Sub(clock.System.Now()).Milliseconds(), 1)
		req.Header.Set(protocol.HeaderTimeout, strconv.FormatInt(left, 10))
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		err = s.explain(err)
		s.close()
		return nil, err
	}
	s.body = resp.Body
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != protocol.ContentType {
		s.close()
		return nil, fmt.Errorf("%s: %w: it answers %s; is it a control process of ripstop?", c.where(), broker.ErrUnavailable, resp.Status)
	}
	return s, nil
}

// where names the control process for people.
func (c *Client) where() string { return c.opts.Addrs[c.last.Load()] }

// explain says what it means that no answer came. After broker.ErrUnavailable it is not known whether the call took effect.
func (s *stream) explain(err error) error {
	if cause := context.Cause(s.ctx); cause != nil {
		return cause
	}
	if s.c.done.Err() != nil {
		return broker.ErrClosed
	}
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	switch {
	case errors.As(err, &authority), errors.As(err, &invalid), errors.As(err, &name):
		return fmt.Errorf("%s: %w: its certificate is not one of this cluster's control processes: %w", s.c.where(), broker.ErrAccess, err)
	case errors.Is(err, io.EOF):
		err = errors.New("the answer was cut off")
	}
	return fmt.Errorf("%s: %w: %w", s.c.where(), broker.ErrUnavailable, err)
}

// read reads the next part of the answer. The last has End; its Err is that of the call.
func (s *stream) read() (*protocol.Reply, error) {
	r, err := protocol.ReadFrame(s.body)
	switch {
	case err == nil && r.End:
		// The stream's own end comes right after. Without it the transport would take the call for one that was given up, and tell the server.
		_, _ = s.body.Read(make([]byte, 1))
		s.close()
		return r, r.Err
	case err != nil:
		err = s.explain(err)
		s.close()
		return nil, err
	}
	return r, nil
}

// close lets go of the answer, and tells the server if it was not read to its end. It may be called twice.
func (s *stream) close() {
	s.once.Do(func() {
		s.cancel()
		if s.body != nil {
			_ = s.body.Close()
		}
	})
}

// call sends a call and reads an answer of one part.
func (c *Client) call(ctx context.Context, what protocol.Method, m *protocol.Call) (*protocol.Reply, error) {
	s, err := c.open(ctx, what, m, nil)
	if err != nil {
		return &protocol.Reply{}, err
	}
	defer s.close()
	r, err := s.read()
	if r == nil {
		r = &protocol.Reply{}
	}
	return r, err
}

// tries of a call that changes nothing.
const tries = 3

// ask is call for what changes nothing: if no answer came it is asked again, perhaps of another control process.
func (c *Client) ask(ctx context.Context, what protocol.Method, m *protocol.Call) (r *protocol.Reply, err error) {
	for range tries {
		r, err = c.call(ctx, what, m)
		if !errors.Is(err, broker.ErrUnavailable) {
			break
		}
	}
	return r, err
}

// pause waits for a while that is longer after each failure, or until ctx ends. Many clients that failed together do not come back together.
func pause(ctx context.Context, failures int) {
	t := clock.System.NewTimer(broker.Backoff{First: 50 * time.Millisecond, Max: 2 * time.Second}.Delay(failures, rand.Float64()))
	defer t.Stop()
	select {
	case <-t.C():
	case <-ctx.Done():
	}
}
