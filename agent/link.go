package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/runtime"
)

// maxStreams is how many requests are under way on a Link at once; more wait. The other end allows a few more.
const maxStreams = 1000

// Link is a worker's connection to its control process: HTTP/2 over one connection, with the worker as the client. It is
// safe for concurrent use, and over for good when the connection breaks.
type Link struct {
	conn  *http.ClientConn
	slots chan struct{}
}

// NewLink speaks over conn, which it owns from then on.
func NewLink(ctx context.Context, conn net.Conn) (*Link, error) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	t := &http.Transport{
		Protocols:          protocols,
		DisableCompression: true,
		HTTP2:              &http.HTTP2Config{StrictMaxConcurrentRequests: true},
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}
	c, err := t.NewClientConn(ctx, "http", "control:80")
	if err != nil {
		return nil, fmt.Errorf("open the link: %w", errors.Join(err, conn.Close()))
	}
	return &Link{conn: c, slots: make(chan struct{}, maxStreams)}, nil
}

// Close ends the link and what is under way on it.
func (l *Link) Close() error { return l.conn.Close() }

// Do makes one request. The response's body gives its slot back when it is closed.
func (l *Link) Do(r *http.Request) (*http.Response, error) {
	select {
	case l.slots <- struct{}{}:
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	}
	resp, err := l.conn.RoundTrip(r)
	if err != nil {
		<-l.slots
		return nil, err
	}
	resp.Body = &slotBody{ReadCloser: resp.Body, free: func() { <-l.slots }}
	return resp, nil
}

type slotBody struct {
	io.ReadCloser
	closed atomic.Bool
	free   func()
}

func (b *slotBody) Close() error {
	err := b.ReadCloser.Close()
	if !b.closed.Swap(true) {
		b.free()
	}
	return err
}

// request makes a request for the link. path may have a query.
func request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	return http.NewRequestWithContext(ctx, method, "http://control"+path, body)
}

// maxModule bounds what is read as a module, in bytes.
const maxModule = 1 << 30

// Module reads the bytes of a module. What the control process refused is a *wire.Problem.
func (l *Link) Module(ctx context.Context, digest string) ([]byte, error) {
	r, err := request(ctx, http.MethodGet, wire.PathModule+digest, nil)
	if err != nil {
		return nil, err
	}
	resp, err := l.Do(r)
	if err != nil {
		return nil, fmt.Errorf("read module %.12s: %w", digest, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read module %.12s: %w", digest, refusal(resp))
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxModule))
	if err != nil {
		// The control process had it when it began: its storage, or it, failed in the middle.
		return nil, &wire.Problem{Code: "storage-unavailable", Status: http.StatusServiceUnavailable, Title: "The module could not be read", Detail: fmt.Sprintf("read module %.12s: %v", digest, err)}
	}
	return b, nil
}

// refusal is why the control process did not answer with 200.
func refusal(resp *http.Response) error {
	p := &wire.Problem{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(p); err != nil || p.Code == "" {
		return errors.New(resp.Status)
	}
	return p
}

// Code asks where the code of a module, compiled for an engine, lies, and waits while it is compiled. program is the digest of this program's file.
// Refusals of the module are *wire.Problem.
func (l *Link) Code(ctx context.Context, engine runtime.Engine, digest, program string) (runtime.Code, error) {
	r, err := request(ctx, http.MethodGet, wire.PathCode+string(engine)+"/"+digest, nil)
	if err != nil {
		return runtime.Code{}, err
	}
	r.Header.Set(wire.HeaderProgram, program)
	resp, err := l.Do(r)
	if err != nil {
		return runtime.Code{}, fmt.Errorf("ask for the code of module %.12s: %w", digest, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return runtime.Code{}, fmt.Errorf("ask for the code of module %.12s: %w", digest, refusal(resp))
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return runtime.Code{}, fmt.Errorf("ask for the code of module %.12s: %w", digest, err)
	}
	var c wire.Code
	code := runtime.Code{}
	if err := json.Unmarshal(b, &c); err != nil || len(c.SHA256) != len(code.SHA256) {
		return runtime.Code{}, fmt.Errorf("ask for the code of module %.12s: the answer is none: %w", digest, err)
	}
	code.Path = c.Path
	copy(code.SHA256[:], c.SHA256)
	return code, nil
}

// Orders calls each with every order, one at a time, until the link breaks or ctx ends.
func (l *Link) Orders(ctx context.Context, each func(wire.Order)) error {
	r, err := request(ctx, http.MethodGet, wire.PathOrders, nil)
	if err != nil {
		return err
	}
	resp, err := l.Do(r)
	if err != nil {
		return fmt.Errorf("ask for orders: %w", err)
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var o wire.Order
		if err := dec.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("the control process ended the orders")
			}
			return fmt.Errorf("read orders: %w", err)
		}
		each(o)
	}
}

// PathMetrics is where Post takes what was measured to.
const PathMetrics = wire.PathMetrics

// Post hands a body of telemetry over.
func (l *Link) Post(ctx context.Context, path string, body []byte) error {
	r, err := request(ctx, http.MethodPost, path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := l.Do(r)
	if err != nil {
		return fmt.Errorf("post to %s: %w", path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return fmt.Errorf("post to %s: %s", path, resp.Status)
	}
	return nil
}
