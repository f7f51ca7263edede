package api

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/ripstop-vm/ripstop/control"
)

// auditAPIDenied is the kind of audit entries for requests to the API that were refused.
const auditAPIDenied = "api.denied"

// operationVerbs says which verb each operation of openapi.yaml needs. "" needs a token of any scope, or none at all
// where openRoutes says so.
var operationVerbs = map[string]control.Verb{
	"listJobs":          control.VerbRead,
	"getJob":            control.VerbRead,
	"getModule":         control.VerbRead,
	"getManifest":       control.VerbRead,
	"listVersions":      control.VerbRead,
	"readLogs":          control.VerbRead,
	"followTrace":       control.VerbRead,
	"getMetrics":        control.VerbRead,
	"enqueueInvocation": control.VerbInvoke,
	"listInvocations":   control.VerbRead,
	"getInvocation":     control.VerbInvoke,
	"cancelInvocation":  control.VerbInvoke,
	"getResult":         control.VerbInvoke,
	"getQueue":          control.VerbRead,
	"listDeadLetters":   control.VerbRead,
	"getDeadLetter":     control.VerbInvoke,
	"discardDeadLetter": control.VerbInvoke,
	"requeueDeadLetter": control.VerbInvoke,
	"deployJob":         control.VerbDeploy,
	"deployModule":      control.VerbDeploy,
	"deployManifest":    control.VerbDeploy,
	"rollbackJob":       control.VerbDeploy,
	"removeJob":         control.VerbDeploy,
	"listSecrets":       control.VerbAdmin,
	"setSecret":         control.VerbAdmin,
	"removeSecret":      control.VerbAdmin,
	"listTokens":        control.VerbAdmin,
	"createToken":       control.VerbAdmin,
	"revokeToken":       control.VerbAdmin,
	"readAudit":         control.VerbAdmin,
	"getBroker":         control.VerbAdmin,
	"adoptBroker":       control.VerbAdmin,
	"readBackup":        control.VerbBackup,
	"getVersion":        "",
	"getManifestSchema": "",
	"getDescription":    "",
	"getHealth":         "",
	"getReadiness":      "",
}

// openRoutes are the only ones that need no token: probes, and what is the same for every server of this version, which tools fetch
// by URL. /metrics does need one: its labels name jobs.
var openRoutes = map[string]bool{"/healthz": true, "/readyz": true, "/v1/openapi.yaml": true, "/v1/manifest.schema.json": true}

// queryParameters are those of the operations that have any. Of all others a query is refused: a misspelled parameter would be left
// out without a word. Probes and scrapers add what they like to theirs.
var (
	queryParameters = map[string][]string{"readLogs": {"follow", "tail"}, "readAudit": {"job", "limit", "since"}, "listDeadLetters": {"after", "limit"}, "listInvocations": {"after", "limit"},
		"enqueueInvocation": {"attempts", "callback", "deadline", "delay", "method", "order", "path", "priority", "ttl"}}
	anyQuery = map[string]bool{"getHealth": true, "getReadiness": true, "getMetrics": true}
)

// checkQuery refuses query parameters that are not among known.
func checkQuery(known []string) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			// What does not parse would be left out without a word, too.
			if _, err := url.ParseQuery(c.Request().URL.RawQuery); err != nil {
				return newProblem(http.StatusBadRequest, "bad-query", "Bad query", "the query cannot be read: %s", shorten(err.Error()))
			}
			for _, name := range slices.Sorted(maps.Keys(c.QueryParams())) {
				if slices.Contains(known, name) {
					continue
				}
				there := "it takes none"
				if len(known) > 0 {
					there = "there are " + strings.Join(known, ", ")
				}
				return newProblem(http.StatusBadRequest, "unknown-parameter", "Unknown parameter", "%s %s has no query parameter %q; %s",
					c.Request().Method, c.Path(), shorten(name), there)
			}
			return next(c)
		}
	}
}

// tokenKey is where authenticate leaves the caller's token in the echo context.
const tokenKey = "ripstop.token"

func caller(c echo.Context) control.Token {
	t, _ := c.Get(tokenKey).(control.Token)
	return t
}

// checkHost refuses requests that name another host. A page from elsewhere can point its own name at this address (DNS
// rebinding) and would then be of the same origin; it cannot choose what the browser sends as Host.
func (s *Server) checkHost(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		if !s.knownHost(r) {
			s.denied(c, "", fmt.Sprintf("%s %s: host %q is not this server's", r.Method, c.Path(), shorten(r.Host)))
			return newProblem(http.StatusMisdirectedRequest, "wrong-host", "Not this server",
				"this server does not answer for host %q; use its address, or start it with that name allowed", shorten(r.Host))
		}
		return next(c)
	}
}

func (s *Server) knownHost(r *http.Request) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if host == "localhost" || s.hosts[host] {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if ip.Unmap().IsLoopback() {
		return true
	}
	// The address that the connection came in on, which covers a listener on all addresses.
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	at, err := netip.ParseAddrPort(local.String())
	return err == nil && at.Addr().Unmap().WithZone("") == ip.Unmap().WithZone("")
}

// authenticate finds the caller's token. Comparing it in constant time is Control's part.
func (s *Server) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		if openRoutes[c.Path()] {
			return next(c)
		}
		secret := bearer(r)
		if secret == "" {
			s.denied(c, "", r.Method+" "+c.Path()+": no token")
			return newProblem(http.StatusUnauthorized, "no-token", "No token",
				`send "Authorization: Bearer TOKEN"; on the server's machine, "ripstop token" prints one`)
		}
		t, err := s.opts.Control.Authenticate(r.Context(), secret)
		if err != nil {
			s.denied(c, "", r.Method+" "+c.Path()+": "+err.Error())
			return err
		}
		c.Set(tokenKey, t)
		return next(c)
	}
}

// bearer is the secret that a request carries; empty for none.
func bearer(r *http.Request) string {
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(secret)
}

// stillAllowed reports whether the caller's token would be taken again: what is followed has no end of its own.
func (s *Server) stillAllowed(c echo.Context) bool {
	_, err := s.opts.Control.Authenticate(c.Request().Context(), bearer(c.Request()))
	return err == nil
}

// require refuses callers whose scope lacks verb.
func (s *Server) require(verb control.Verb) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			t := caller(c)
			if !t.Scope.Allows(verb) {
				s.denied(c, t.Name, fmt.Sprintf("%s %s: scope lacks %q", c.Request().Method, c.Path(), verb))
				return newProblem(http.StatusForbidden, "scope", "Not allowed",
					"token %q does not allow %q; ask for one that does (ripstop token create NAME --allow %s)", t.Name, verb, verb)
			}
			return next(c)
		}
	}
}

// refusals bounds how many refused requests reach the audit log, so that strangers cannot fill it: 20 at once, then one
// every 3 s. What is left out is counted and said with the next.
type refusals struct {
	mu      sync.Mutex
	tokens  float64
	last    time.Time
	omitted uint64
}

const (
	refusalBurst = 20
	refusalEvery = 3 * time.Second
)

// take says whether an entry may be written now, and how many were left out before it.
func (r *refusals) take(now time.Time) (omitted uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last.IsZero() {
		r.tokens = refusalBurst
	} else {
		r.tokens = min(refusalBurst, r.tokens+float64(now.Sub(r.last))/float64(refusalEvery))
	}
	r.last = now
	if r.tokens < 1 {
		r.omitted++
		return 0, false
	}
	r.tokens--
	omitted, r.omitted = r.omitted, 0
	return omitted, true
}

// denied writes a refused request to the audit log.
func (s *Server) denied(c echo.Context, by, what string) {
	omitted, ok := s.refused.take(s.opts.Clock.Now())
	if !ok {
		return
	}
	entry := control.AuditEntry{Kind: auditAPIDenied, By: by, Job: shorten(c.Param("name")), Detail: what + " (from " + c.Request().RemoteAddr + ")", Omitted: omitted}
	if err := s.opts.Control.Audit(c.Request().Context(), entry); err != nil {
		s.opts.Log.Warn("refused request is not in the audit log", "error", err)
	}
}

// shorten bounds text of a client that goes into logs and answers.
func shorten(s string) string {
	const most = 100
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
