package server

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

// Parts are the broker that is served.
type Parts struct {
	Records broker.Records
	Leases  broker.Leases
	Blobs   broker.Blobs
	Queue   broker.Queue
	Buckets broker.Buckets
}

// Authority knows the cluster's certificates.
type Authority interface {
	// Identify answers whom a certificate is of, that has just been shown with proof of its key. It fails with broker.ErrAccess, and says
	// why, if the certificate is not in force.
	Identify(cert *x509.Certificate) (identity.Identity, error)
	// Join answers a certificate, and those it was signed by, for a request (PKCS #10, in DER) of who has a token. It fails with
	// broker.ErrAccess and broker.ErrInvalid.
	Join(ctx context.Context, token string, request []byte) (chain [][]byte, err error)
	// Renew answers another certificate for who has one.
	Renew(ctx context.Context, who identity.Identity, request []byte) (chain [][]byte, err error)
}

// Options configures a Server. Parts, Certificate, Authority and Policy are required.
type Options struct {
	Parts
	Certificate  func() (*tls.Certificate, error) // that is in force, of a control process; asked for each connection
	Authority    Authority
	Policy       Policy
	Secret       []byte        // that all control processes share: with it, leases of invocations are bound to who got them. nil: one of its own
	MaxBlob      int64         // bytes of a blob that is put; 0 means 256 MiB
	MaxCalls     int           // of one caller that are under way at once; 0 means 64
	MaxStreams   int           // of one caller: watches and waits; 0 means 256
	History      int           // commits that a watcher may be behind; 0 means 4096
	HistoryBytes int           // and their keys and values; 0 means 16 MiB
	Window       time.Duration // how long a renewal waits for others to go with it; 0 means 5 ms
	Stall        time.Duration // how long a caller may take to send a call, or not read what it is sent; 0 means 30 s
	Log          *slog.Logger  // nil means slog.Default()
}

// Server serves a broker to the cluster. Run it with Serve.
type Server struct {
	opts    Options
	feed    *feed
	renewer *renewer

	mu    sync.Mutex
	peers map[identity.Identity]*peer
}

// peer counts what is under way of a caller.
type peer struct{ calls, streams int }

// New makes a server.
func New(opts Options) (*Server, error) {
	if opts.Records == nil || opts.Leases == nil || opts.Blobs == nil || opts.Queue == nil || opts.Buckets == nil ||
		opts.Certificate == nil || opts.Authority == nil || opts.Policy == nil {
		return nil, fmt.Errorf("serve the broker: an option is missing: %w", broker.ErrInvalid)
	}
	if opts.MaxBlob < 0 || opts.MaxCalls < 0 || opts.MaxStreams < 0 || opts.History < 0 || opts.HistoryBytes < 0 || opts.Window < 0 || opts.Stall < 0 {
		return nil, fmt.Errorf("serve the broker: negative option: %w", broker.ErrInvalid)
	}
	setDefault(&opts.MaxBlob, 256<<20)
	setDefault(&opts.MaxCalls, 64)
	setDefault(&opts.MaxStreams, 256)
	setDefault(&opts.History, 4096)
	setDefault(&opts.HistoryBytes, 16<<20)
	setDefault(&opts.Window, 5*time.Millisecond)
	setDefault(&opts.Stall, 30*time.Second)
	setDefault(&opts.Log, slog.Default())
	if opts.Secret == nil {
		opts.Secret = make([]byte, 32)
		_, _ = rand.Read(opts.Secret) // never fails
	}
	s := &Server{opts: opts, peers: map[identity.Identity]*peer{}}
	s.feed = newFeed(opts.Records, opts.History, opts.HistoryBytes)
	s.renewer = newRenewer(opts.Leases, opts.Window)
	return s, nil
}

func setDefault[T comparable](field *T, value T) {
	if zero := *new(T); *field == zero {
		*field = value
	}
}

// Serve answers calls on l until ctx ends, closes l and ends what is under way. It is called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	background.Go(func() { s.feed.run(ctx) })
	defer s.renewer.close()
	h := &http.Server{
		Handler:           s,
		TLSConfig:         s.tlsConfig(),
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 1000, SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelDebug), // handshakes that strangers begin and do not end
	}
	h.Protocols.SetHTTP2(true)
	h.Protocols.SetHTTP1(true) // only to say that it does not do
	stop := context.AfterFunc(ctx, func() { _ = h.Close() })
	defer stop()
	err := h.ServeTLS(l, "", "")
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve the broker on %s: %w", l.Addr(), err)
}

// tlsConfig asks for a certificate but does not judge it: each call is judged, so that who is refused is told why, and a certificate that ends
// while a connection lasts is not good for longer.
func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.opts.Certificate() },
		ClientAuth:     tls.RequestClientCert,
		// Without a ticket each connection has to prove its key again.
		SessionTicketsDisabled: true,
	}
}

// call is a call that is being answered.
type call struct {
	*protocol.Call
	s    *Server
	ctx  context.Context // of the request
	who  identity.Identity
	cert *x509.Certificate
	w    http.ResponseWriter
	rc   *http.ResponseController
	r    *http.Request
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.ProtoMajor < 2:
		w.Header().Set("Connection", "close")
		http.Error(w, "ripstop: use HTTP/2", http.StatusHTTPVersionNotSupported)
		return
	case r.Method != http.MethodPost || r.Header.Get("Content-Type") != protocol.ContentType:
		http.Error(w, "ripstop: this is a broker for agents and gateways, not an API for people", http.StatusNotFound)
		return
	}
	c := &call{s: s, ctx: r.Context(), w: w, rc: http.NewResponseController(w), r: r}
	w.Header().Set("Content-Type", protocol.ContentType)
	rep := &protocol.Reply{}
	err := c.run(rep)
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		// If it was not the caller who left, this process ends.
		err = fmt.Errorf("%w: this control process ends", broker.ErrUnavailable)
	}
	rep.End, rep.Err = true, err
	_ = c.send(rep) // who is gone is not told
}

// run does the call. What it leaves in rep is the last part of the answer.
func (c *call) run(rep *protocol.Reply) error {
	if n, err := strconv.ParseUint(c.r.Header.Get(protocol.HeaderSchema), 10, 16); err != nil || n == 0 {
		return fmt.Errorf("the call's schema: %w", broker.ErrInvalid)
	} else if n > protocol.Schema {
		return fmt.Errorf("the call's schema is %d, this control process's is %d: %w; update it", n, protocol.Schema, broker.ErrNewer)
	}
	m, ok := methods[protocol.Method(c.r.URL.Path)]
	if !ok {
		return fmt.Errorf("there is no method %.100q: %w", c.r.URL.Path, broker.ErrInvalid)
	}
	if text := c.r.Header.Get(protocol.HeaderTimeout); text != "" {
		d, ok := protocol.Timeout(text)
		if !ok {
			return fmt.Errorf("the call's timeout %.40q: %w", text, broker.ErrInvalid)
		}
		ctx, cancel := context.WithTimeout(c.ctx, d)
		defer cancel()
		c.ctx = ctx
	}
	if !m.anybody { // strangers are counted together
		if err := c.identify(); err != nil {
			return err
		}
	}
	leave, err := c.s.enter(c.who, m.stream)
	if err != nil {
		return err
	}
	defer leave()
	return c.read(m, rep)
}

// identify finds out who calls. It is asked again while an answer lasts.
func (c *call) identify() (err error) {
	if c.r.TLS == nil || len(c.r.TLS.PeerCertificates) == 0 {
		return fmt.Errorf("%w: the caller has no certificate; join the cluster first", broker.ErrAccess)
	}
	c.cert = c.r.TLS.PeerCertificates[0]
	c.who, err = c.s.opts.Authority.Identify(c.cert)
	return err
}

// maxJoin is how much of a call is read from a stranger, in bytes.
const maxJoin = 16 << 10

// read reads what the method is given, and does it.
func (c *call) read(m method, rep *protocol.Reply) error {
	if m.put {
		return m.do(c, rep)
	}
	body := io.Reader(c.r.Body)
	if m.anybody {
		body = io.LimitReader(body, maxJoin)
	}
	_ = c.rc.SetReadDeadline(clock.System.Now().Add(c.s.opts.Stall)) // nor may a caller take for ever to say what it wants
	b, err := protocol.ReadMessage(body, -1)
	_ = c.rc.SetReadDeadline(time.Time{})
	if err == nil {
		c.Call, err = protocol.UnmarshalCall(b)
	}
	if err != nil {
		return fmt.Errorf("read the call: %w", err)
	}
	return m.do(c, rep)
}

// send sends a part of the answer.
func (c *call) send(rep *protocol.Reply) error { return c.write(rep.Frame()) }

// write sends parts of the answer.
func (c *call) write(frames []byte) error {
	// A caller that does not read is let go of after a while. A deadline that passes while there is nothing to send would end the stream, too.
	_ = c.rc.SetWriteDeadline(clock.System.Now().Add(c.s.opts.Stall))
	defer func() { _ = c.rc.SetWriteDeadline(time.Time{}) }()
	if _, err := c.w.Write(frames); err != nil {
		return err
	}
	return c.rc.Flush()
}

// enter counts a call of somebody, until leave is called. It fails with broker.ErrUnavailable, and the call has not begun then.
func (s *Server) enter(who identity.Identity, stream bool) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peers[who]
	if p == nil {
		p = &peer{}
		s.peers[who] = p
	}
	n, most := &p.calls, s.opts.MaxCalls
	if stream {
		n, most = &p.streams, s.opts.MaxStreams
	}
	if *n >= most {
		return nil, fmt.Errorf("%w: %s has %d calls under way already; nothing was changed", broker.ErrUnavailable, who, most)
	}
	*n++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if *n--; p.calls+p.streams == 0 {
			delete(s.peers, who)
		}
	}, nil
}

// allow asks the policy.
func (c *call) allow(all ...Access) error {
	return c.s.opts.Policy.Allow(c.ctx, c.who, all...)
}
