// Package api is the HTTP front end: what users do to jobs, secrets and tokens, and what they read of logs and traces.
//
// openapi.yaml is the source of truth; types and routes are generated from it. Handlers decide nothing about jobs: they
// authenticate, read bounded input, ask a Control and put the answer into words. Every error is a problem (RFC 9457).
// Ingress, where jobs answer their own requests, is package gateway's and listens elsewhere.
package api

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/envelope"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// DefaultMaxUpload bounds the body of an upload, in bytes: 64 MiB.
const DefaultMaxUpload = 64 << 20

//go:embed openapi.yaml
var description []byte

// Control is what handlers ask for changes and facts; control.Store is one. Errors that are the user's to fix have a
// *wire.Problem in them, those for an unknown name match control.ErrNotFound.
type Control interface {
	Deploy(ctx context.Context, by, job string, module io.Reader, m *manifest.Manifest) (control.Job, control.Version, error)
	Rollback(ctx context.Context, by, job string, to uint64) (control.Job, control.Version, error)
	Remove(ctx context.Context, by, job string) error
	Job(ctx context.Context, name string) (control.Job, control.Version, error)
	Jobs(ctx context.Context) ([]control.JobVersion, error)
	Versions(ctx context.Context, job string) ([]control.Version, error)
	Module(ctx context.Context, digest string) (io.ReadCloser, int64, error)

	CreateToken(ctx context.Context, by, name string, ttl time.Duration, scope control.Scope) (control.Token, string, error)
	Tokens(ctx context.Context) ([]control.Token, error)
	RevokeToken(ctx context.Context, by, nameOrID string) error
	Authenticate(ctx context.Context, secret string) (control.Token, error)

	SetSecret(ctx context.Context, by, job, name string, value []byte) error
	Secrets(ctx context.Context, job string) ([]string, error)
	RemoveSecret(ctx context.Context, by, job, name string) error

	Enqueue(ctx context.Context, job string, v control.NewInvocation) (broker.Receipt, error)
	Invocation(ctx context.Context, job, id string) (broker.Status, error)
	InvocationResult(ctx context.Context, job, id string) (envelope.Response, error)
	Queued(ctx context.Context, job string) (broker.Counts, error)
	Schedules(ctx context.Context, job string) ([]control.ScheduleStatus, error)
	DeadLetters(ctx context.Context, job, after string, limit int) ([]broker.Status, error)
	DeadLetter(ctx context.Context, job, id string) (broker.Status, envelope.Request, error)
	Requeue(ctx context.Context, by, job, id string) error
	Invocations(ctx context.Context, job, after string, limit int) (list []broker.Status, next string, err error)
	Cancel(ctx context.Context, by, job, id string) error
	Discard(ctx context.Context, by, job, id string) error

	Audit(ctx context.Context, e control.AuditEntry) error
	AuditLog(ctx context.Context, f control.AuditFilter) ([]control.AuditEntry, error)
}

// JobStatus is how a job's current version is.
type JobStatus struct {
	State  string // "ready", "starting" or "failed"; "" means ready
	Reason string // why it is not ready; may be empty
}

// Hub hands out what guests report. A live channel is closed by stop or when the hub ends; a reader that is too slow
// loses reports, never holds up others. stop may be called twice.
type Hub interface {
	// Logs answers up to tail recent lines of job, the oldest first, and those that follow them.
	Logs(job string, tail int) (backlog []wire.Report, live <-chan wire.Report, stop func())
	// Traces turns tracing of job on until stop is called.
	Traces(job string) (live <-chan wire.Report, stop func())
}

// Options configures New. Control and Hub are required.
type Options struct {
	Control        Control
	Hub            Hub
	Broker         Broker                                     // nil: what concerns it is not found
	Metrics        http.Handler                               // serves /metrics; nil: 404
	Ready          func() error                               // nil error: the server takes deploys and serves jobs; nil: always
	Status         func(job string, version uint64) JobStatus // how a job's current version is; nil: always ready
	IngressURL     string                                     // base URL of jobs, such as http://127.0.0.1:8080; required
	MaxUpload      int64                                      // bytes of a module; 0 means DefaultMaxUpload
	Hosts          []string                                   // names that clients may use for this server, besides loopback and its own address
	Table          *hostcall.Table                            // what rules of manifests are checked against; nil leaves that to Control
	ManifestSchema []byte                                     // JSON Schema of a manifest; nil: 404
	Version        string                                     // of the server
	Clock          clock.Clock                                // nil means the system clock
	Log            *slog.Logger                               // nil means slog.Default()
}

// Server handles the API's requests. Make an http.Server of it with NewServer, which sets the timeouts it relies on.
type Server struct {
	opts    Options
	ingress *url.URL
	hosts   map[string]bool
	echo    *echo.Echo
	refused refusals

	stopOnce sync.Once
	stopping chan struct{} // closed when followers are to leave
}

var _ ServerInterface = (*Server)(nil)

// New makes a Server. It starts nothing.
func New(opts Options) (*Server, error) {
	var errs []error
	if opts.Control == nil {
		errs = append(errs, errors.New("control is missing"))
	}
	if opts.Hub == nil {
		errs = append(errs, errors.New("hub is missing"))
	}
	ingress, err := url.Parse(opts.IngressURL)
	if err != nil || ingress.Host == "" || ingress.Scheme != "http" && ingress.Scheme != "https" {
		errs = append(errs, fmt.Errorf("ingress URL %q is no http URL", opts.IngressURL))
	}
	if opts.MaxUpload < 0 {
		errs = append(errs, fmt.Errorf("upload bound of %d bytes is negative", opts.MaxUpload))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("set up API: %w", err)
	}
	if opts.MaxUpload == 0 {
		opts.MaxUpload = DefaultMaxUpload
	}
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	s := &Server{opts: opts, ingress: ingress, hosts: map[string]bool{}, stopping: make(chan struct{})}
	for _, h := range opts.Hosts {
		s.hosts[strings.ToLower(strings.TrimSuffix(h, "."))] = true
	}
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.HTTPErrorHandler = func(err error, c echo.Context) { s.fail(c, err) }
	// Unknown paths and methods pass these, too: who has no token learns nothing about what there is.
	e.Use(s.recoverPanics, s.checkHost, s.authenticate)
	guards := map[string][]echo.MiddlewareFunc{}
	for operation, verb := range operationVerbs {
		if verb != "" {
			guards[operation] = []echo.MiddlewareFunc{s.require(verb)}
		}
		if !anyQuery[operation] {
			guards[operation] = append(guards[operation], checkQuery(queryParameters[operation]))
		}
	}
	RegisterHandlersWithOptions(e, s, RegisterHandlersOptions{OperationMiddlewares: guards})
	s.echo = e
	return s, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	// What an earlier answer on this connection was given to be read in says nothing about this one.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	s.echo.ServeHTTP(w, r)
}

// Stop ends the answers that have no end of their own (followed logs and traces), so that a graceful shutdown need not
// wait for their clients. It may be called twice.
func (s *Server) Stop() { s.stopOnce.Do(func() { close(s.stopping) }) }

// NewServer makes an http.Server for s that bounds slow clients: headers within 10 s and 64 KiB, and idle connections
// for two minutes. Bodies and answers have their own deadlines, which move while data does. Its Shutdown calls s.Stop.
func NewServer(s *Server) *http.Server {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelDebug),
	}
	srv.RegisterOnShutdown(s.Stop)
	return srv
}

// recoverPanics answers a bug of ours with a problem, and logs where it happened.
func (s *Server) recoverPanics(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v)
			}
			s.opts.Log.Error("api handler panicked", "path", c.Path(), "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = errInternal
		}()
		return next(c)
	}
}
