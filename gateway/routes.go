package gateway

import (
	"fmt"
	"net"
	"sort"
	"strings"
)

// Route leads requests to a job.
type Route struct {
	Host string // exact host name, lower case, without a port; empty: any
	Path string // "/a/": everything below it, and "/a" itself; "/a": that path alone
	Job  string
}

// Bounds of a Route.
const (
	MaxHost = 253  // bytes
	MaxPath = 1024 // bytes
)

// Check reports what is wrong with a route.
func (r Route) Check() error {
	switch {
	case r.Job == "":
		return fmt.Errorf("route %q leads to no job", r.Path)
	case !strings.HasPrefix(r.Path, "/"):
		return fmt.Errorf("route %q does not begin with a slash", r.Path)
	case len(r.Path) > MaxPath:
		return fmt.Errorf("route of %d bytes is longer than %d", len(r.Path), MaxPath)
	case strings.Contains(r.Path, "//") || strings.Contains(r.Path, "/./") || strings.Contains(r.Path, "/../") ||
		strings.HasSuffix(r.Path, "/.") || strings.HasSuffix(r.Path, "/.."):
		return fmt.Errorf("route %q is no clean path", r.Path)
	case len(r.Host) > MaxHost || r.Host != strings.ToLower(r.Host) || strings.ContainsAny(r.Host, "/:@ \x00"):
		return fmt.Errorf("route host %.80q is no lower-case host name", r.Host)
	}
	for i := range len(r.Path) {
		if c := r.Path[i]; c < 0x21 || c == 0x7f || c == '?' || c == '#' {
			return fmt.Errorf("route %q holds a byte that no path has", r.Path)
		}
	}
	return nil
}

// Routes is a set of routes that requests are matched against. It never changes.
type Routes struct {
	hosts map[string]*paths // by host; "" for any
}

type paths struct {
	exact   map[string]string // path → job
	subtree map[string]string // path without its final slash → job
	depths  []int             // lengths of the keys of subtree, longest first
}

// Match is where a request leads.
type Match struct {
	Job    string
	Prefix string // the part of the path that led there, without a slash at its end
}

// NewRoutes makes a set. Two routes with the same host and path are an error, whatever job they lead to.
func NewRoutes(routes []Route) (*Routes, error) {
	t, refused := Fit(routes)
	if len(refused) > 0 {
		return nil, refused[0]
	}
	return t, nil
}

// Fit makes a set of the routes that are valid and not taken by one before them, and answers what is wrong with the others.
func Fit(routes []Route) (t *Routes, refused []error) {
	t = &Routes{hosts: map[string]*paths{}}
	for _, r := range routes {
		if err := r.Check(); err != nil {
			refused = append(refused, err)
			continue
		}
		p := t.hosts[r.Host]
		if p == nil {
			p = &paths{exact: map[string]string{}, subtree: map[string]string{}}
			t.hosts[r.Host] = p
		}
		set, key := p.exact, r.Path
		if strings.HasSuffix(r.Path, "/") {
			set, key = p.subtree, strings.TrimSuffix(r.Path, "/")
		}
		if other, taken := set[key]; taken {
			refused = append(refused, fmt.Errorf("route %s%s of job %s is taken by job %s", r.Host, r.Path, r.Job, other))
			continue
		}
		set[key] = r.Job
	}
	for _, p := range t.hosts {
		seen := map[int]bool{}
		for key := range p.subtree {
			if !seen[len(key)] {
				seen[len(key)] = true
				p.depths = append(p.depths, len(key))
			}
		}
		sort.Sort(sort.Reverse(sort.IntSlice(p.depths)))
	}
	return t, refused
}

// Match finds the job for a request: routes that name its host go before those for any host; among them an exact path
// goes before a subtree, and a longer prefix before a shorter one. hostport may have a port. path is the decoded path.
func (t *Routes) Match(hostport, path string) (Match, bool) {
	if host := hostName(hostport); host != "" {
		if p := t.hosts[host]; p != nil {
			if m, ok := p.match(path); ok {
				return m, true
			}
		}
	}
	if p := t.hosts[""]; p != nil {
		return p.match(path)
	}
	return Match{}, false
}

func (p *paths) match(path string) (Match, bool) {
	if !strings.HasPrefix(path, "/") {
		return Match{}, false
	}
	if job, ok := p.exact[path]; ok {
		return Match{job, strings.TrimSuffix(path, "/")}, true
	}
	for _, n := range p.depths {
		// A prefix ends where a segment does.
		if n > len(path) || (n < len(path) && path[n] != '/') {
			continue
		}
		if job, ok := p.subtree[path[:n]]; ok {
			return Match{job, path[:n]}, true
		}
	}
	return Match{}, false
}

// hostName is a Host header's name: lower case, without port, brackets and final dot.
func hostName(hostport string) string {
	if len(hostport) > MaxHost+8 {
		return ""
	}
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
