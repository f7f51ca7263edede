package remote_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy is a network between clients and a server that can be cut.
type proxy struct {
	addr   string
	drop   atomic.Bool // the next call that a client sends is lost, and its connection with it
	mute   atomic.Bool // what the server sends is lost
	opened atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]bool
}

func newProxy(t testing.TB, target string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String(), conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		p.cut()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil {
				_ = client.Close()
				continue
			}
			p.opened.Add(1)
			p.mu.Lock()
			p.conns[client], p.conns[server] = true, true
			p.mu.Unlock()
			wg.Go(func() { p.copy(server, client, &p.drop, true) })
			wg.Go(func() { p.copy(client, server, &p.mute, false) })
		}
	})
	return p
}

// aCall is the least length of a TLS record of a client that has some of a call. What HTTP/2 sends of its own accord is shorter: an
// acknowledgement of settings, which may come after the answer to the first call, has 31 bytes, and an update of a window 35.
const aCall = 36

// copy hands on what from says. While lose is set it does not: and then, if once is set too, it hands on all but a call, and with that ends both.
func (p *proxy) copy(to, from net.Conn, lose *atomic.Bool, once bool) {
	defer func() {
		_, _ = to.Close(), from.Close()
		p.mu.Lock()
		delete(p.conns, to)
		delete(p.conns, from)
		p.mu.Unlock()
	}()
	for r := bufio.NewReader(from); ; {
		record, err := readRecord(r)
		switch {
		case err != nil:
			return
		case once && len(record) >= aCall && lose.CompareAndSwap(true, false):
			return
		case once || !lose.Load():
			if _, err := to.Write(record); err != nil {
				return
			}
		}
	}
}

// readRecord reads a TLS record (RFC 8446, section 5.1).
func readRecord(r io.Reader) ([]byte, error) {
	record := make([]byte, 5)
	if _, err := io.ReadFull(r, record); err != nil {
		return nil, err
	}
	record = append(record, make([]byte, int(binary.BigEndian.Uint16(record[3:])))...)
	_, err := io.ReadFull(r, record[5:])
	return record, err
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}
