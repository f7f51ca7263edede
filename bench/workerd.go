package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

const workerdConfig = `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [ (name = "main", worker = (modules = [ (name = "w", esModule = embed "worker.js") ], compatibilityDate = "2026-01-01")) ],
  sockets = [ (name = "http", address = "%s", http = (), service = "main") ],
);
`

// worker answers hello, and never where the path says spin.
const worker = `export default { fetch(request) {
  if (request.url.endsWith("/spin")) for (;;) {}
  return new Response(` + "`" + hello + "`" + `);
} };
`

// findWorkerd installs workerd, once.
func (b *bench) findWorkerd(ctx context.Context) (string, error) {
	return b.npm(ctx, "workerd", "@cloudflare/workerd-*/bin/workerd")
}

// startWorkerd serves a Worker and answers its URL.
func (b *bench) startWorkerd(ctx context.Context) (*process, string, error) {
	program, err := b.findWorkerd(ctx)
	if err != nil {
		return nil, "", err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, "", err
	}
	dir := filepath.Join(b.cache, "npm-workerd")
	for name, text := range map[string]string{"config.capnp": fmt.Sprintf(workerdConfig, address), "worker.js": worker} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, "", err
		}
	}
	p, err := b.start(ctx, "workerd", dir, nil, program, "serve", "config.capnp")
	if err != nil {
		return nil, "", err
	}
	url := "http://" + address + "/"
	if err := p.answers(ctx, url); err != nil {
		p.stop()
		return nil, "", err
	}
	return p, url, nil
}
