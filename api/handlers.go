package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/ripstop-vm/ripstop/api/model"
	"github.com/ripstop-vm/ripstop/control"
	"github.com/ripstop-vm/ripstop/manifest"
)

// Bounds of a token's life. defaultTTL is for a request that names none.
const defaultTTL = 90 * 24 * time.Hour

// ListJobs implements ServerInterface.
func (s *Server) ListJobs(c echo.Context) error {
	all, err := s.opts.Control.Jobs(c.Request().Context())
	if err != nil {
		return err
	}
	list := model.JobList{Jobs: []model.Job{}}
	for _, one := range all {
		j, err := s.job(one.Job, one.Version)
		if err != nil {
			return err
		}
		list.Jobs = append(list.Jobs, j)
	}
	return s.answer(c, http.StatusOK, list)
}

// GetJob implements ServerInterface.
func (s *Server) GetJob(c echo.Context, name model.JobName) error {
	j, v, err := s.opts.Control.Job(c.Request().Context(), name)
	if err != nil {
		return err
	}
	return s.answerJob(c, http.StatusOK, j, v)
}

func (s *Server) answerJob(c echo.Context, status int, j control.Job, v control.Version) error {
	out, err := s.job(j, v)
	if err != nil {
		return err
	}
	if status == http.StatusCreated {
		c.Response().Header().Set(echo.HeaderLocation, "/v1/jobs/"+j.Name)
	}
	return s.answer(c, status, out)
}

// job is how a job and its current version look from outside.
func (s *Server) job(j control.Job, v control.Version) (model.Job, error) {
	text, err := v.Manifest.JSON()
	if err != nil {
		return model.Job{}, err
	}
	out := model.Job{Name: j.Name, Version: j.Current, Latest: j.Latest, Kind: v.Kind, Module: v.Module, Size: v.Size,
		Routes: []model.Route{}, Url: s.url(j.Name, &v.Manifest), Status: "ready", Created: j.Created, Updated: j.Updated, By: v.By, Manifest: text}
	for _, r := range v.Manifest.Routes {
		route := model.Route{Path: r.Path}
		if r.Host != "" {
			route.Host = &r.Host
		}
		out.Routes = append(out.Routes, route)
	}
	if s.opts.Status != nil {
		status := s.opts.Status(j.Name, j.Current)
		if status.State != "" {
			out.Status = status.State
		}
		if status.Reason != "" {
			out.Reason = &status.Reason
		}
	}
	return out, nil
}

// url is where a job's first route answers.
func (s *Server) url(name string, m *manifest.Manifest) string {
	u := *s.ingress
	u.Path = "/" + name + "/"
	if len(m.Routes) > 0 {
		u.Path = m.Routes[0].Path
		if h := m.Routes[0].Host; h != "" {
			if port := s.ingress.Port(); port != "" {
				h = net.JoinHostPort(h, port)
			}
			u.Host = h
		}
	}
	return u.String()
}

// DeployModule implements ServerInterface.
func (s *Server) DeployModule(c echo.Context, name model.JobName) error {
	b, err := s.open(c, "module", s.opts.MaxUpload, 0)
	if err != nil {
		return err
	}
	return s.deploy(c, name, b, b, nil)
}

// DeployManifest implements ServerInterface.
func (s *Server) DeployManifest(c echo.Context, name model.JobName) error {
	b, err := s.open(c, "manifest", maxManifest, 0)
	if err != nil {
		return err
	}
	text, err := b.all()
	if err != nil {
		return err
	}
	m, err := s.parseManifest(text)
	if err != nil {
		return err
	}
	return s.deploy(c, name, b, nil, m)
}

// DeployJob implements ServerInterface.
func (s *Server) DeployJob(c echo.Context, name model.JobName) error {
	// Boundaries and the headers of parts are small; what they may add is within one more manifest.
	b, err := s.open(c, "module", s.opts.MaxUpload, 2*maxManifest)
	if err != nil {
		return err
	}
	u, err := s.readUpload(c.Request(), b)
	if err != nil {
		return err
	}
	if u.module == nil {
		return s.deploy(c, name, b, nil, u.manifest)
	}
	module := &body{r: u.module, left: s.opts.MaxUpload, limit: s.opts.MaxUpload, what: "module", ctl: b.ctl, clock: b.clock, started: b.started}
	return s.deploy(c, name, module, module, u.manifest)
}

func (s *Server) deploy(c echo.Context, name string, read *body, module io.Reader, m *manifest.Manifest) error {
	j, v, err := s.opts.Control.Deploy(c.Request().Context(), caller(c).Name, name, module, m)
	if err != nil && !errors.Is(err, control.ErrUnconfirmed) {
		return read.failure(err)
	}
	return s.answerChange(c, http.StatusCreated, j, v, err)
}

// RemoveJob implements ServerInterface.
func (s *Server) RemoveJob(c echo.Context, name model.JobName) error {
	err := s.opts.Control.Remove(c.Request().Context(), caller(c).Name, name)
	if err != nil && !errors.Is(err, control.ErrUnconfirmed) {
		return err
	}
	status := http.StatusNoContent
	if err != nil {
		s.opts.Log.Warn("job is removed, but served until a worker knows", "job", name, "error", err)
		status = http.StatusAccepted
	}
	s.limitWriting(c)
	return c.NoContent(status)
}

// RollbackJob implements ServerInterface.
func (s *Server) RollbackJob(c echo.Context, name model.JobName) error {
	var to model.Rollback
	if err := s.readJSON(c, &to, true); err != nil {
		return err
	}
	j, v, err := s.opts.Control.Rollback(c.Request().Context(), caller(c).Name, name, to.Version)
	if err != nil && !errors.Is(err, control.ErrUnconfirmed) {
		return err
	}
	return s.answerChange(c, http.StatusOK, j, v, err)
}

// answerChange answers a change that was committed. unconfirmed is not nil when no worker has said yet that it serves it:
// the change stands, so this is no failure, but the caller is told to wait.
func (s *Server) answerChange(c echo.Context, status int, j control.Job, v control.Version, unconfirmed error) error {
	if unconfirmed == nil {
		return s.answerJob(c, status, j, v)
	}
	s.opts.Log.Warn("change is stored, but not served yet", "job", j.Name, "version", v.Number, "error", unconfirmed)
	out, err := s.job(j, v)
	if err != nil {
		return err
	}
	if out.Status == "ready" {
		out.Status = "starting"
	}
	return s.answer(c, http.StatusAccepted, out)
}

// ListVersions implements ServerInterface.
func (s *Server) ListVersions(c echo.Context, name model.JobName) error {
	j, _, err := s.opts.Control.Job(c.Request().Context(), name)
	if err != nil {
		return err
	}
	all, err := s.opts.Control.Versions(c.Request().Context(), name)
	if err != nil {
		return err
	}
	list := model.VersionList{Versions: []model.Version{}}
	for _, v := range all {
		text, err := v.Manifest.JSON()
		if err != nil {
			return err
		}
		list.Versions = append(list.Versions, model.Version{Version: v.Number, Current: v.Number == j.Current, Kind: v.Kind,
			Module: v.Module, Size: v.Size, Created: v.Created, By: v.By, Manifest: text})
	}
	slices.SortFunc(list.Versions, func(a, b model.Version) int { return cmp.Compare(b.Version, a.Version) })
	return s.answer(c, http.StatusOK, list)
}

// GetManifest implements ServerInterface.
func (s *Server) GetManifest(c echo.Context, name model.JobName) error {
	_, v, err := s.opts.Control.Job(c.Request().Context(), name)
	if err != nil {
		return err
	}
	text, err := v.Manifest.JSON()
	if err != nil {
		return err
	}
	return s.answer(c, http.StatusOK, json.RawMessage(text))
}

// GetModule implements ServerInterface.
func (s *Server) GetModule(c echo.Context, name model.JobName) error {
	_, v, err := s.opts.Control.Job(c.Request().Context(), name)
	if err != nil {
		return err
	}
	r, size, err := s.opts.Control.Module(c.Request().Context(), v.Module)
	if err != nil {
		return err
	}
	defer r.Close()
	h := c.Response().Header()
	h.Set(echo.HeaderContentLength, strconv.FormatInt(size, 10))
	h.Set("ETag", `"`+v.Module+`"`)
	h.Set(echo.HeaderContentType, "application/wasm")
	c.Response().WriteHeader(http.StatusOK)
	p := make([]byte, 64<<10)
	for {
		n, err := r.Read(p)
		if n > 0 {
			s.limitWriting(c)
			if _, err := c.Response().Write(p[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			// Too few bytes under a Content-Length: net/http cuts the connection, so the client sees it.
			return err
		}
	}
}

// ListSecrets implements ServerInterface.
func (s *Server) ListSecrets(c echo.Context, name model.JobName) error {
	names, err := s.opts.Control.Secrets(c.Request().Context(), name)
	if err != nil {
		return err
	}
	list := model.SecretList{Secrets: []model.Secret{}}
	for _, n := range names {
		list.Secrets = append(list.Secrets, model.Secret{Name: n})
	}
	return s.answer(c, http.StatusOK, list)
}

// SetSecret implements ServerInterface.
func (s *Server) SetSecret(c echo.Context, name model.JobName, secret model.SecretName) error {
	b, err := s.open(c, "secret", maxSecret, 0)
	if err != nil {
		return err
	}
	value, err := b.all()
	if err != nil {
		return err
	}
	if len(value) == 0 {
		return newProblem(http.StatusBadRequest, "empty-secret", "Secret is empty", "the body is the secret's value; it is empty")
	}
	if err := s.opts.Control.SetSecret(c.Request().Context(), caller(c).Name, name, secret, value); err != nil {
		return err
	}
	s.limitWriting(c)
	return c.NoContent(http.StatusNoContent)
}

// RemoveSecret implements ServerInterface.
func (s *Server) RemoveSecret(c echo.Context, name model.JobName, secret model.SecretName) error {
	if err := s.opts.Control.RemoveSecret(c.Request().Context(), caller(c).Name, name, secret); err != nil {
		return err
	}
	s.limitWriting(c)
	return c.NoContent(http.StatusNoContent)
}

// ListTokens implements ServerInterface.
func (s *Server) ListTokens(c echo.Context) error {
	all, err := s.opts.Control.Tokens(c.Request().Context())
	if err != nil {
		return err
	}
	list := model.TokenList{Tokens: []model.Token{}}
	for _, t := range all {
		list.Tokens = append(list.Tokens, token(t))
	}
	return s.answer(c, http.StatusOK, list)
}

func token(t control.Token) model.Token {
	out := model.Token{Id: t.ID, Name: t.Name, Created: t.Created, Scope: model.Scope{Entitlement: t.Scope.Entitlement, Verbs: []string{}}}
	for _, v := range t.Scope.Verbs {
		out.Scope.Verbs = append(out.Scope.Verbs, string(v))
	}
	if !t.Expires.IsZero() {
		out.Expires = &t.Expires
	}
	return out
}

// CreateToken implements ServerInterface.
func (s *Server) CreateToken(c echo.Context) error {
	var n model.NewToken
	if err := s.readJSON(c, &n, false); err != nil {
		return err
	}
	if strings.TrimSpace(n.Name) == "" {
		return newProblem(http.StatusUnprocessableEntity, "bad-token", "Token cannot be made", "name is missing: say who or what will hold the token")
	}
	ttl := defaultTTL
	if n.Ttl != "" {
		d, err := manifest.ParseDuration(n.Ttl)
		if ttl = time.Duration(d); err != nil || ttl < 0 {
			return newProblem(http.StatusUnprocessableEntity, "bad-token", "Token cannot be made", "ttl %q is no duration; write 720h or 30d, or 0 for a token that lives until it is revoked", shorten(n.Ttl))
		}
	}
	scope := control.Scope{Entitlement: n.Entitlement}
	if scope.Entitlement == "" {
		scope.Entitlement = caller(c).Scope.Entitlement
	}
	known := []control.Verb{control.VerbRead, control.VerbDeploy, control.VerbInvoke, control.VerbBackup, control.VerbAdmin}
	for _, v := range n.Verbs {
		if !slices.Contains(known, control.Verb(v)) {
			return newProblem(http.StatusUnprocessableEntity, "bad-token", "Token cannot be made", "unknown verb %q; there are read, deploy, invoke, backup and admin", shorten(v))
		}
		scope.Verbs = append(scope.Verbs, control.Verb(v))
	}
	if len(scope.Verbs) == 0 {
		scope.Verbs = []control.Verb{control.VerbRead, control.VerbDeploy, control.VerbInvoke}
	}
	t, secret, err := s.opts.Control.CreateToken(c.Request().Context(), caller(c).Name, n.Name, ttl, scope)
	if err != nil {
		return err
	}
	return s.answer(c, http.StatusCreated, model.CreatedToken{Token: token(t), Secret: secret})
}

// RevokeToken implements ServerInterface.
func (s *Server) RevokeToken(c echo.Context, id model.TokenID) error {
	if err := s.opts.Control.RevokeToken(c.Request().Context(), caller(c).Name, id); err != nil {
		return err
	}
	s.limitWriting(c)
	return c.NoContent(http.StatusNoContent)
}

// ReadAudit implements ServerInterface.
func (s *Server) ReadAudit(c echo.Context, params model.ReadAuditParams) error {
	f := control.AuditFilter{Limit: 100}
	if params.Job != nil {
		f.Job = *params.Job
	}
	if params.Since != nil {
		f.Since = *params.Since
	}
	if params.Limit != nil {
		f.Limit = *params.Limit
	}
	if f.Limit < 1 || f.Limit > 10_000 {
		return newProblem(http.StatusBadRequest, "bad-parameter", "Bad parameter", "limit is %d; it may be 1 to 10000", f.Limit)
	}
	entries, err := s.opts.Control.AuditLog(c.Request().Context(), f)
	if err != nil {
		return err
	}
	list := model.AuditList{Entries: []model.AuditEntry{}}
	for _, e := range entries {
		list.Entries = append(list.Entries, model.AuditEntry{Id: e.ID, Time: e.Time, Kind: e.Kind, By: e.By, Job: e.Job,
			Version: e.Version, Invocation: e.Invocation, Detail: e.Detail, Omitted: e.Omitted})
	}
	return s.answer(c, http.StatusOK, list)
}

// readJSON reads a small JSON body strictly. With optional, an empty one leaves v as it is.
func (s *Server) readJSON(c echo.Context, v any, optional bool) error {
	b, err := s.open(c, "body", maxJSON, 0)
	if err != nil {
		return err
	}
	text, err := b.all()
	if err != nil {
		return err
	}
	if len(strings.TrimSpace(string(text))) == 0 && optional {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	err = d.Decode(v)
	if err == nil && d.More() {
		err = errors.New("something follows the object")
	}
	if err != nil {
		return newProblem(http.StatusBadRequest, "bad-json", "Body is not the JSON that was expected", "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// GetVersion implements ServerInterface.
func (s *Server) GetVersion(c echo.Context) error {
	return s.answer(c, http.StatusOK, model.ServerInfo{Version: s.opts.Version, Ingress: s.opts.IngressURL, MaxUpload: s.opts.MaxUpload})
}

// GetManifestSchema implements ServerInterface.
func (s *Server) GetManifestSchema(c echo.Context) error {
	if s.opts.ManifestSchema == nil {
		return echo.ErrNotFound
	}
	s.limitWriting(c)
	return c.Blob(http.StatusOK, "application/schema+json", s.opts.ManifestSchema)
}

// GetDescription implements ServerInterface.
func (s *Server) GetDescription(c echo.Context) error {
	s.limitWriting(c)
	return c.Blob(http.StatusOK, "application/yaml", description)
}

// GetHealth implements ServerInterface.
func (s *Server) GetHealth(c echo.Context) error {
	s.limitWriting(c)
	return c.String(http.StatusOK, "ok\n")
}

// GetReadiness implements ServerInterface.
func (s *Server) GetReadiness(c echo.Context) error {
	if s.opts.Ready != nil {
		if err := s.opts.Ready(); err != nil {
			return newProblem(http.StatusServiceUnavailable, "not-ready", "Not ready", "%s", err)
		}
	}
	s.limitWriting(c)
	return c.String(http.StatusOK, "ready\n")
}

// GetMetrics implements ServerInterface.
func (s *Server) GetMetrics(c echo.Context) error {
	if s.opts.Metrics == nil {
		return echo.ErrNotFound
	}
	s.limitWriting(c)
	s.opts.Metrics.ServeHTTP(c.Response(), c.Request())
	return nil
}
