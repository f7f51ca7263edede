package reactor

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
)

// BenchmarkRequests measures a short request over loopback, with the client's side of it, in place and by net/http alone.
func BenchmarkRequests(b *testing.B) {
	for _, clients := range []int{1, 32} {
		for _, alone := range []bool{false, true} {
			b.Run(fmt.Sprintf("clients=%d/nethttp=%t", clients, alone), func(b *testing.B) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				server := quiet(http.HandlerFunc(hello))
				if alone {
					go func() { _ = server.Serve(l) }()
					defer server.Close()
				} else {
					s := New(Options{HTTP: server, Log: slog.New(slog.DiscardHandler)})
					go func() { _ = s.Serve(l) }()
					defer s.Close()
				}
				b.SetParallelism(clients)
				b.RunParallel(func(pb *testing.PB) {
					c, err := net.Dial("tcp", l.Addr().String())
					if err != nil {
						b.Error(err)
						return
					}
					defer c.Close()
					r := bufio.NewReader(c)
					for pb.Next() {
						if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
							b.Error(err)
							return
						}
						resp, err := http.ReadResponse(r, nil)
						if err == nil {
							_, err = io.Copy(io.Discard, resp.Body)
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

// BenchmarkParse measures the reading of a request as browsers send it.
func BenchmarkParse(b *testing.B) {
	text := []byte("GET /path?query=value HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: agent/1.0\r\nAccept: text/html\r\nAccept-Language: en\r\nAccept-Encoding: gzip\r\nCookie: a=b\r\n\r\n")
	r := plain.WithContext(b.Context())
	b.ReportAllocs()
	for b.Loop() {
		if !parse(text, r) {
			b.Fatal("it is not plain")
		}
	}
}
