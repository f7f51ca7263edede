package api

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/wire"
	"github.com/ripstop-vm/ripstop/manifest"
)

// Bounds of what else is uploaded, in bytes, and of how slowly.
const (
	maxManifest = 1 << 20
	maxSecret   = 64 << 10
	maxJSON     = 64 << 10

	readPatience = 30 * time.Second // without a byte
	readRate     = 4 << 10          // bytes a second, on average, after the first 30 s
)

// body reads a request's body within a bound and no slower than the client may be. It remembers how reading ended, as
// what Control says about a failed read is less clear.
type body struct {
	r       io.Reader
	left    int64
	limit   int64
	what    string
	ctl     *http.ResponseController
	clock   clock.Clock
	started time.Time
	read    int64
	err     error // nil or io.EOF while all is well
}

// open makes a body of at most limit bytes. what names it in errors: "module", "manifest". around is how much more may
// come with it (the rest of a form), which errors do not speak of. A body that says that it is larger is refused before
// a byte of it is read.
func (s *Server) open(c echo.Context, what string, limit, around int64) (*body, error) {
	r := c.Request()
	b := &body{r: r.Body, left: limit + around, limit: limit, what: what, ctl: http.NewResponseController(c.Response().Writer),
		clock: s.opts.Clock, started: s.opts.Clock.Now()}
	if r.ContentLength > limit+around {
		return nil, b.tooLarge()
	}
	c.Set(bodyKey, b)
	return b, nil
}

// bodyKey is where a request keeps its body once a handler has opened it.
const bodyKey = "ripstop.body"

// leaveBody is called before an answer that may come while the client still sends. net/http closes the connection after such an
// answer. As a rule it lingers first, since a connection that is closed with something unread is reset, which can cost the client
// the answer; but not where the client asked to be told to go on (Expect), as the CLI and curl do.
func leaveBody(c echo.Context) {
	if c.Request().Header.Get("Expect") == "" {
		return
	}
	if b, ok := c.Get(bodyKey).(*body); ok && b.err == io.EOF {
		return
	}
	// A body that is too large is what net/http is told this by, and it lingers then whatever the client expected.
	_, _ = http.MaxBytesReader(c.Response().Writer, io.NopCloser(strings.NewReader("x")), 0).Read(make([]byte, 1))
}

func (b *body) tooLarge() error {
	return newProblem(http.StatusRequestEntityTooLarge, "too-large", "Too large", "the %s is larger than this server's limit of %s (%d bytes)",
		b.what, manifest.Size(b.limit), b.limit)
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	// One byte more than is left tells a body of exactly the limit from a larger one.
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	now := b.clock.Now()
	deadline := b.started.Add(readPatience + time.Duration(b.read/readRate)*time.Second)
	if idle := now.Add(readPatience); idle.Before(deadline) {
		deadline = idle
	}
	_ = b.ctl.SetReadDeadline(deadline) // only test recorders have none
	n, err := b.r.Read(p)
	b.read += int64(n)
	b.left -= int64(n)
	switch {
	case b.left < 0:
		b.err = b.tooLarge()
		return n - 1, b.err
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		b.err = io.EOF
		_ = b.ctl.SetReadDeadline(time.Time{})
	case errors.As(err, new(*wire.Problem)):
		b.err = err // of a body that this one reads from
	default:
		b.err = newProblem(http.StatusBadRequest, "upload-interrupted", "Upload interrupted",
			"the %s ended after %d bytes: %s; nothing was changed", b.what, b.read, readFailure(err))
	}
	return n, b.err
}

func readFailure(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return "the client was too slow"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed"
	}
	return err.Error()
}

// failure is how reading ended if that was not at the end of the body; else err.
func (b *body) failure(err error) error {
	if b.err != nil && b.err != io.EOF {
		return b.err
	}
	return err
}

// all reads the whole body.
func (b *body) all() ([]byte, error) {
	p, err := io.ReadAll(b)
	if err != nil {
		return nil, b.failure(err)
	}
	return p, nil
}

// parseManifest reads a manifest; its problems are told with line and column.
func (s *Server) parseManifest(text []byte) (*manifest.Manifest, error) {
	m, err := manifest.Parse(text, s.opts.Table)
	if err != nil {
		return nil, manifestProblem(err)
	}
	return m, nil
}

func manifestProblem(err error) *wire.Problem {
	var lines []string
	for _, e := range manifest.Errors(err) {
		lines = append(lines, e.Error())
	}
	if len(lines) == 0 {
		lines = []string{err.Error()}
	}
	return newProblem(http.StatusUnprocessableEntity, "manifest-invalid", "Manifest is not valid", "%s", strings.Join(lines, "\n"))
}

// upload is what a multipart deploy carries. module is read while it is deployed.
type upload struct {
	manifest *manifest.Manifest // nil: none was sent
	module   io.Reader          // nil: none was sent
}

// readUpload reads a multipart body up to the module's first byte.
func (s *Server) readUpload(r *http.Request, b *body) (upload, error) {
	var u upload
	mediatype, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediatype != "multipart/form-data" || params["boundary"] == "" {
		return u, newProblem(http.StatusUnsupportedMediaType, "not-multipart", "Not a multipart body",
			"send multipart/form-data with the parts manifest and module (curl -X PUT -F manifest=@ripstop.yaml -F module=@hello.wasm), or the bytes alone to %s/module", r.URL.Path)
	}
	parts := multipart.NewReader(b, params["boundary"])
	malformed := func(err error) error {
		return b.failure(newProblem(http.StatusBadRequest, "bad-multipart", "Multipart body is malformed", "%s", err))
	}
	for {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return u, malformed(err)
		}
		switch part.FormName() {
		case "manifest":
			if u.manifest != nil {
				return u, newProblem(http.StatusBadRequest, "bad-multipart", "Multipart body is malformed", "there are two parts named manifest")
			}
			text, err := io.ReadAll(io.LimitReader(part, maxManifest+1))
			if err != nil {
				return u, malformed(err)
			}
			if len(text) > maxManifest {
				return u, newProblem(http.StatusRequestEntityTooLarge, "too-large", "Too large", "the manifest is larger than %s", manifest.Size(maxManifest))
			}
			if u.manifest, err = s.parseManifest(text); err != nil {
				return u, err
			}
		case "module":
			u.module = &lastPart{part: part, parts: parts, body: b, malformed: malformed}
			return u, nil
		default:
			return u, newProblem(http.StatusBadRequest, "bad-multipart", "Multipart body is malformed",
				"unknown part %q; there are manifest and module, in this order", shorten(part.FormName()))
		}
	}
	if u.manifest == nil {
		return u, newProblem(http.StatusBadRequest, "nothing-to-deploy", "Nothing to deploy", "send a part named manifest, one named module, or both")
	}
	return u, nil
}

// lastPart is the module. It ends well only if the multipart body does, too: a body that was cut off between the last
// byte and the closing boundary was not sent whole.
type lastPart struct {
	part      io.Reader
	parts     *multipart.Reader
	body      *body
	malformed func(error) error
	err       error
}

func (l *lastPart) Read(p []byte) (int, error) {
	if l.err != nil {
		return 0, l.err
	}
	n, err := l.part.Read(p)
	if err == nil {
		return n, nil
	}
	if !errors.Is(err, io.EOF) {
		l.err = l.malformed(err)
		return n, l.err
	}
	l.err = io.EOF
	next, err := l.parts.NextRawPart()
	switch {
	case err == nil:
		l.err = newProblem(http.StatusBadRequest, "bad-multipart", "Multipart body is malformed",
			"part %q follows the module; the manifest comes before the module", shorten(next.FormName()))
	case !errors.Is(err, io.EOF):
		l.err = l.malformed(fmt.Errorf("after the module: %w", err))
	default:
		if _, err := io.Copy(io.Discard, l.body); err != nil {
			l.err = l.body.failure(err)
		}
	}
	return n, l.err
}
