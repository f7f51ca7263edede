# Every target is described by `make help`. Nothing here needs more than Go, make, git and, for tests, redis-server (`make deps`);
# `bench` leaves out the peers whose tools are missing.
SHELL := /bin/bash
.DEFAULT_GOAL := help
GO ?= go
BIN := bin/ripstop
export CGO_ENABLED ?= 0

.PHONY: help build demo deps test test-wasmtime race check fmt vet lint generate-check cross fuzz gostd docs-check soak bench examples gostd-wasmtime clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/ripstop
	$(GO) build -o $(BIN) ./cmd/ripstop

examples: ## build the example guests into bin/examples
	@scripts/examples

demo: build examples ## start a server, deploy examples, show their host calls and a denial; CI=1 ends by itself
	@scripts/demo

deps: ## see that redis-server is there, which tests start; installs it when run as root on Debian
	@scripts/deps

test: deps ## run all tests
	$(GO) test -timeout 20m ./...
	cd bench && $(GO) test ./...

race: deps ## run the tests of concurrent parts under the race detector (needs a C compiler)
	@if command -v $${CC:-gcc} >/dev/null 2>&1; then \
	  CGO_ENABLED=1 $(GO) test -race -short -timeout 25m ./agent/... ./gateway/... ./broker/... ./control/... ./api/... ./runtime/guest/... ./runtime/hostcall/... ./runtime/processor/... ./internal/lazyctx ; \
	else echo "race: no C compiler here; install gcc to run the race detector" >&2; exit 1; fi

test-wasmtime: ## run the tests of engines and guests on wasmtime (needs a C compiler)
	@if command -v $${CC:-gcc} >/dev/null 2>&1; then \
	  CGO_ENABLED=1 $(GO) vet -tags wasmtime ./runtime/... ./cmd/... && \
	  CGO_ENABLED=1 $(GO) test -tags wasmtime -short -timeout 25m ./runtime ./runtime/engine/... ./runtime/translate ./runtime/wasi ./runtime/guest && \
	  CGO_ENABLED=1 $(GO) test -tags wasmtime -run 'Engine|Wasmtime' ./cmd/ripstop ; \
	else echo "test-wasmtime: no C compiler here; install gcc to build with wasmtime" >&2; exit 1; fi

fmt: ## fail if gofmt would change anything
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi

vet: ## go vet, here and for guests
	$(GO) vet ./...
	GOOS=wasip1 GOARCH=wasm $(GO) vet ./sdk/... ./examples/...

lint: ## staticcheck
	$(GO) tool staticcheck ./...

generate-check: ## fail if generated code is not what its sources give
	@scripts/generate-check

cross: ## build for every supported platform
	GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/ripstop
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/ripstop
	GOOS=linux GOARCH=amd64 $(GO) build -o /dev/null ./cmd/ripstop

FUZZTIME ?= 5s
fuzz: ## run every fuzz target for FUZZTIME
	@scripts/fuzz $(FUZZTIME)

gostd: build ## run tests of Go's standard library as guests, translated
	@scripts/gostd $(BIN)

gostd-wasmtime: ## the same on wasmtime (needs a C compiler)
	@if command -v $${CC:-gcc} >/dev/null 2>&1; then \
	  CGO_ENABLED=1 $(GO) build -tags wasmtime -o $(BIN)-wasmtime ./cmd/ripstop && ENGINE=wasmtime scripts/gostd $(BIN)-wasmtime ; \
	else echo "gostd-wasmtime: no C compiler here; install gcc to build with wasmtime" >&2; exit 1; fi

docs-check: build examples ## run the commands that the docs show
	@scripts/docs-check

check: fmt vet lint generate-check cross test test-wasmtime race gostd fuzz docs-check ## everything a reviewer would ask
	$(MAKE) demo CI=1

soak: build gostd-wasmtime ## long runs: Go's library on wasmtime, tests tagged soak, each fuzz target for ten minutes
	@scripts/soak

bench: ## measure beside peers, print a table and write bench/out/report.json (docs/benchmarks.md)
	@scripts/bench

clean: ## remove what was built
	rm -rf bin bench/out .cache
