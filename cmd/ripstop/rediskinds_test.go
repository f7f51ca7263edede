//go:build linux

package main

import (
	"fmt"
	"testing"

	"github.com/ripstop-vm/ripstop/internal/redistest"
)

func TestAServerKeepsWhatItHasInEachKindOfRedis(t *testing.T) {
	durable := []string{"appendonly yes", "appendfsync always"}
	for name, url := range map[string]func(*testing.T) string{
		"over TLS": func(t *testing.T) string {
			cert, key := redistest.Certificate(t)
			r := redistest.StartTLS(t, append([]string{"tls-cert-file " + cert, "tls-key-file " + key, "tls-ca-cert-file " + cert}, durable...)...)
			return fmt.Sprintf("rediss://%s?ca=%s&cert=%s&key=%s", r.Addr(), cert, cert, key)
		},
		"the master that Sentinel names": func(t *testing.T) string { return redistest.StartSentinel(t, durable...).URL() },
		"a Cluster":                      func(t *testing.T) string { return redistest.StartCluster(t, durable...).URL() },
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, "--broker", url(t))
			s.deploy("hello", saying("Content-Type: text/plain\n\nhello"), "")
			id := s.enqueue("hello", "", "")
			s.ended("hello", id)
			s.stop()
			s.start()
			s.until("the job to be served", func() bool {
				status, _, body := s.get("/hello/")
				return status == 200 && body == "hello"
			})
			if resp, body := s.result("hello", id); resp.StatusCode != 200 || body != "hello" {
				t.Errorf("the result of what was queued is %d %q", resp.StatusCode, body)
			}
		})
	}
}
