package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// redisServer is a redis-server of its own that appends every write to a file.
type redisServer struct {
	*process
	dir, socket string
}

func findRedis() (string, error) { return find("redis-server", "Debian: apt-get install redis-server") }

// startRedis starts one. fsync is "always" or "everysec".
func (b *bench) startRedis(ctx context.Context, fsync string) (*redisServer, error) {
	program, err := findRedis()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "redis") // short: a socket's path may have 107 bytes
	if err != nil {
		return nil, err
	}
	s := &redisServer{dir: dir, socket: filepath.Join(dir, "redis.sock")}
	s.process, err = b.start(ctx, "redis", dir, nil, program, "--port", "0", "--unixsocket", s.socket, "--dir", dir, "--save", "", "--appendonly", "yes", "--appendfsync", fsync)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	for range 200 {
		if c, err := net.Dial("unix", s.socket); err == nil {
			_ = c.Close()
			return s, nil
		}
		if err = settle(ctx, 20*time.Millisecond); err != nil {
			break
		}
	}
	s.close()
	return nil, fmt.Errorf("redis-server did not start: %s", tail(s.log))
}

// close ends it and removes what it kept.
func (s *redisServer) close() {
	s.kill() // its data are not needed any more
	_ = os.RemoveAll(s.dir)
}
