package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/ripstop-vm/ripstop/runtime/hostcall"
)

// Bounds of Capabilities. They keep a manifest from making every check slow.
const (
	MaxFiles    = 64       // entries of Files; each with at most MaxExcept exceptions
	MaxExcept   = 64       // entries of File.Except
	MaxEnv      = 256      // variables
	MaxEnvBytes = 64 << 10 // names and values together
	MaxFetch    = 256      // entries of Fetch
	MaxNames    = 256      // entries of KV, Invoke, Enqueue and Secrets, each
	maxPath     = 4096     // bytes of a guest path, as WASI's own bound
)

// An Error is one problem with Capabilities or a rule.
type Error struct {
	Rule   int    // index of the rule; -1 for capabilities
	Field  string // which field: "files[0].guest", "when", "set.path"; empty for the rule as a whole
	Offset int    // byte in the field's text, -1 if the whole of it is meant
	Msg    string // what is wrong, and what to write instead
}

func (e *Error) Error() string {
	at := "capabilities"
	if e.Rule >= 0 {
		at = ruleName(e.Rule)
	}
	if e.Field != "" {
		at += "." + e.Field
	}
	if e.Offset >= 0 {
		at += fmt.Sprintf(" at byte %d", e.Offset)
	}
	return at + ": " + e.Msg
}

// ruleName is what a rule is called wherever people read of one: as its place in a manifest.
func ruleName(index int) string { return "policy[" + strconv.Itoa(index) + "]" }

// A RefusedError reports that something is not granted. To a guest it is ENOTCAPABLE (errors.Is knows it).
type RefusedError struct {
	What string // "fetch", "kv", "invoke", "enqueue", "secret", "address"
	Name string // what was asked for
	Why  string // may be empty
}

func (e *RefusedError) Error() string {
	s := fmt.Sprintf("%s of %s is not granted", e.What, strconv.Quote(e.Name))
	if e.Why != "" {
		s += ": " + e.Why
	}
	return s
}

// Unwrap makes the error the errno that guests see.
func (e *RefusedError) Unwrap() error { return hostcall.ENOTCAPABLE }

// Grants are checked Capabilities, in the form that is asked at run time. They never change; the fields must not be
// written to.
type Grants struct {
	Files  []File            // in the manifest's order; paths are clean, Access is "ro" or "rw"
	Env    map[string]string // the guest's whole environment; Environ has it as a list
	Clock  Clock
	Random Random

	fetch   []fetchEntry
	kv      map[string]bool
	invoke  map[string]bool
	enqueue map[string]bool
	secrets map[string]bool
}

type fetchEntry struct {
	scheme  string
	host    string     // normalized; a suffix with its leading dot if suffix
	addr    netip.Addr // valid if the host is an address
	suffix  bool
	port    int
	private bool
}

// Grant checks c and makes Grants of it. The error joins an *Error for every problem. c is not kept.
func Grant(c Capabilities) (*Grants, error) {
	p := problems{rule: -1}
	g := &Grants{
		Env: maps.Clone(c.Env), Clock: c.Clock, Random: c.Random,
		kv: map[string]bool{}, invoke: map[string]bool{}, enqueue: map[string]bool{}, secrets: map[string]bool{},
	}
	if c.Random.Seed != nil {
		seed := *c.Random.Seed
		g.Random.Seed = &seed
	}
	g.files(&p, c.Files)
	checkEnv(&p, c.Env)
	p.count("fetch", len(c.Fetch), MaxFetch)
	for i, f := range c.Fetch {
		if e, ok := checkFetch(&p, fmt.Sprintf("fetch[%d]", i), f); ok {
			g.fetch = append(g.fetch, e)
		}
	}
	p.names("kv", c.KV, g.kv, CheckBucket)
	p.names("invoke", c.Invoke, g.invoke, CheckLabel)
	p.names("enqueue", c.Enqueue, g.enqueue, CheckLabel)
	p.names("secrets", c.Secrets, g.secrets, CheckSecret)
	if c.Clock.Offset != 0 && !c.Clock.Frozen.IsZero() {
		p.add("clock", "offset and frozen exclude each other: write one of them")
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *Grants) files(p *problems, files []File) {
	p.count("files", len(files), MaxFiles)
	seen := map[string]int{}
	for i, f := range files {
		at := fmt.Sprintf("files[%d]", i)
		ok := p.path(at+".guest", f.Guest)
		if f.Source == "" {
			p.add(at+".source", "is missing: name what the guest sees at %s", strconv.Quote(f.Guest))
		} else if strings.ContainsRune(f.Source, 0) || !utf8.ValidString(f.Source) || len(f.Source) > maxPath {
			p.add(at+".source", "is no path")
		}
		switch f.Access {
		case "":
			f.Access = "ro"
		case "ro", "rw":
		default:
			p.add(at+".access", "%s is neither ro nor rw", strconv.Quote(f.Access))
		}
		if first, dup := seen[f.Guest]; dup {
			p.add(at+".guest", "%s is granted by files[%d] already", strconv.Quote(f.Guest), first)
		}
		seen[f.Guest] = i
		p.count(at+".except", len(f.Except), MaxExcept)
		for j, e := range f.Except {
			if at := fmt.Sprintf("%s.except[%d]", at, j); p.path(at, e) && ok && !below(f.Guest, e) {
				p.add(at, "%s is not below %s", strconv.Quote(e), strconv.Quote(f.Guest))
			}
		}
		f.Except = slices.Clone(f.Except)
		g.Files = append(g.Files, f)
	}
}

// below reports whether the clean path p is strictly below the clean path dir.
func below(dir, p string) bool {
	if dir == "/" {
		return p != "/"
	}
	return strings.HasPrefix(p, dir+"/")
}

func checkEnv(p *problems, env map[string]string) {
	p.count("env", len(env), MaxEnv)
	total := 0
	for _, k := range slices.Sorted(maps.Keys(env)) {
		v := env[k]
		total += len(k) + len(v)
		switch {
		case k == "":
			p.add("env", "a variable needs a name")
		case strings.ContainsAny(k, "=\x00") || !utf8.ValidString(k):
			p.add("env."+k, "%s is no variable's name: '=' and NUL cannot be in it", strconv.Quote(k))
		case strings.ContainsRune(v, 0):
			p.add("env."+k, "the value holds a NUL, which ends it for the guest")
		}
	}
	if total > MaxEnvBytes {
		p.add("env", "%d bytes of names and values, at most %d are allowed", total, MaxEnvBytes)
	}
}

func checkFetch(p *problems, at string, f Fetch) (fetchEntry, bool) {
	e := fetchEntry{scheme: f.Scheme, port: f.Port, private: f.Private}
	before := len(p.errs)
	switch f.Scheme {
	case "http", "https":
		if f.Port == 0 {
			e.port = defaultPort(f.Scheme)
		}
	case "":
		p.add(at+".scheme", "is missing: write http or https")
	default:
		p.add(at+".scheme", "%s is neither http nor https", strconv.Quote(f.Scheme))
	}
	if f.Port < 0 || f.Port > 65535 {
		p.add(at+".port", "%d is no port (1 to 65535)", f.Port)
	}
	host := f.Host
	if rest, ok := strings.CutPrefix(host, "*."); ok {
		e.suffix, host = true, rest
	}
	name, addr, err := normalizeHost(host)
	switch {
	case f.Host == "":
		p.add(at+".host", "is missing: write a host name, an IP address or *.suffix")
	case err != nil:
		p.add(at+".host", "%s %s", strconv.Quote(f.Host), err)
	case e.suffix && addr.IsValid():
		p.add(at+".host", "%s: an address has no subdomains", strconv.Quote(f.Host))
	case e.suffix:
		e.host = "." + name
	default:
		e.host, e.addr = name, addr
	}
	return e, len(p.errs) == before
}

func defaultPort(scheme string) int {
	if scheme == "https" {
		return 443
	}
	return 80
}

// normalizeHost makes host names comparable: lower-case ASCII without a final dot. A literal address is answered, too,
// with IPv4-mapped ones unmapped.
func normalizeHost(host string) (string, netip.Addr, error) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")); err == nil {
		if a.Zone() != "" {
			return "", netip.Addr{}, errors.New("has a zone, which is not supported")
		}
		a = a.Unmap()
		return a.String(), a, nil
	}
	name := strings.TrimSuffix(host, ".")
	if !utf8.ValidString(name) {
		return "", netip.Addr{}, errors.New("is no host name")
	}
	for i := range len(name) {
		if name[i] >= utf8.RuneSelf {
			ascii, err := idna.Lookup.ToASCII(name)
			if err != nil {
				return "", netip.Addr{}, errors.New("is no host name")
			}
			name = ascii
			break
		}
	}
	name = strings.ToLower(name)
	if name == "" || len(name) > 253 {
		return "", netip.Addr{}, errors.New("is no host name")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return "", netip.Addr{}, errors.New("is no host name")
		}
		for _, r := range label {
			// '_' is no host name by RFC 952, but is served in practice.
			if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
				return "", netip.Addr{}, errors.New("is no host name")
			}
		}
	}
	return name, netip.Addr{}, nil
}

// Environ is the environment as K=V, sorted.
func (g *Grants) Environ() []string {
	var env []string
	for _, k := range slices.Sorted(maps.Keys(g.Env)) {
		env = append(env, k+"="+g.Env[k])
	}
	return env
}

// Fetch reports whether u may be fetched, as far as its text says. What its host resolves to is checked when dialling,
// by the FetchGrant. The error is a *RefusedError.
func (g *Grants) Fetch(u *url.URL) error {
	_, err := g.FetchGrant(u)
	return err
}

// A FetchGrant says which addresses may be dialled for one URL.
type FetchGrant struct {
	private bool
	addr    netip.Addr // named by the entry itself
}

// FetchGrant finds the entries that cover u and answers what they allow together. The error is a *RefusedError.
func (g *Grants) FetchGrant(u *url.URL) (FetchGrant, error) {
	t, err := target(u)
	if err != nil {
		return FetchGrant{}, &RefusedError{What: "fetch", Name: u.Redacted(), Why: err.Error()}
	}
	var fg FetchGrant
	found := false
	for i := range g.fetch {
		e := &g.fetch[i]
		if e.scheme != t.scheme || e.port != t.port {
			continue
		}
		if e.suffix {
			if t.addr.IsValid() || !strings.HasSuffix(t.host, e.host) || len(t.host) == len(e.host) {
				continue
			}
		} else if e.host != t.host {
			continue
		}
		found = true
		fg.private = fg.private || e.private
		if e.addr.IsValid() {
			fg.addr = e.addr
		}
	}
	if !found {
		return FetchGrant{}, &RefusedError{What: "fetch", Name: u.Redacted()}
	}
	if t.addr.IsValid() {
		if err := fg.Address(t.addr); err != nil {
			return FetchGrant{}, err
		}
	}
	return fg, nil
}

// fetchTarget is what of a URL decides where a request goes.
type fetchTarget struct {
	scheme, host string
	addr         netip.Addr // valid if the host is an address
	port         int
}

func target(u *url.URL) (fetchTarget, error) {
	t := fetchTarget{scheme: strings.ToLower(u.Scheme)}
	if t.scheme != "http" && t.scheme != "https" {
		return t, errors.New("only http and https can be fetched")
	}
	if u.Opaque != "" || u.Host == "" {
		return t, errors.New("the URL names no host")
	}
	var err error
	if t.host, t.addr, err = normalizeHost(u.Hostname()); err != nil {
		return t, fmt.Errorf("host %s", err)
	}
	t.port = defaultPort(t.scheme)
	if p := u.Port(); p != "" {
		if t.port, err = strconv.Atoi(p); err != nil || t.port < 1 || t.port > 65535 {
			return t, errors.New("the URL's port is no port")
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return t, errors.New("the URL's port is empty")
	}
	return t, nil
}

// KV reports whether the guest may use a bucket. The error is a *RefusedError.
func (g *Grants) KV(bucket string) error { return granted(g.kv, "kv", bucket) }

// Invoke reports whether the guest may invoke a job. The error is a *RefusedError.
func (g *Grants) Invoke(job string) error { return granted(g.invoke, "invoke", job) }

// Enqueue reports whether the guest may enqueue invocations of a job. The error is a *RefusedError.
func (g *Grants) Enqueue(job string) error { return granted(g.enqueue, "enqueue", job) }

// Secret reports whether the guest may read a secret. The error is a *RefusedError.
func (g *Grants) Secret(name string) error { return granted(g.secrets, "secret", name) }

// Buckets, Invokes and Secrets list what is granted, sorted.
func (g *Grants) Buckets() []string { return slices.Sorted(maps.Keys(g.kv)) }

// Invokes lists the jobs that may be invoked, sorted.
func (g *Grants) Invokes() []string { return slices.Sorted(maps.Keys(g.invoke)) }

// Secrets lists the secrets that may be read, sorted.
func (g *Grants) Secrets() []string { return slices.Sorted(maps.Keys(g.secrets)) }

func granted(set map[string]bool, what, name string) error {
	if set[name] {
		return nil
	}
	return &RefusedError{What: what, Name: name}
}

// CheckLabel reports why s is no DNS label (RFC 1123, lower case): 1 to 63 of a-z, 0-9 and '-', with neither end a '-'.
func CheckLabel(s string) error {
	if s == "" || len(s) > 63 {
		return fmt.Errorf("%s is no DNS label: 1 to 63 characters are allowed", quoteShort(s))
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0 && i < len(s)-1 {
			continue
		}
		return fmt.Errorf("%s is no DNS label: only a-z, 0-9 and, inside, '-' are allowed", quoteShort(s))
	}
	return nil
}

// CheckBucket reports why s is no name of a bucket: 1 to 63 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit.
func CheckBucket(s string) error {
	if s == "" || len(s) > 63 {
		return fmt.Errorf("%s is no bucket name: 1 to 63 characters are allowed", quoteShort(s))
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || i > 0 && (c == '-' || c == '_' || c == '.') {
			continue
		}
		return fmt.Errorf("%s is no bucket name: only a-z, 0-9 and, after the first, '-', '_' and '.' are allowed", quoteShort(s))
	}
	return nil
}

// CheckSecret reports why s is no name of a secret: 1 to 128 of A-Z, a-z, 0-9, '-', '_' and '.', beginning with a letter.
func CheckSecret(s string) error {
	if s == "" || len(s) > 128 {
		return fmt.Errorf("%s is no secret's name: 1 to 128 characters are allowed", quoteShort(s))
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && (c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			continue
		}
		return fmt.Errorf("%s is no secret's name: only letters, digits, '-', '_' and '.', a letter first, are allowed", quoteShort(s))
	}
	return nil
}

func quoteShort(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return strconv.Quote(s)
}

// problems collects Errors.
type problems struct {
	rule int
	errs []error
}

func (p *problems) add(field, format string, args ...any) {
	p.addAt(field, -1, format, args...)
}

func (p *problems) addAt(field string, offset int, format string, args ...any) {
	p.errs = append(p.errs, &Error{Rule: p.rule, Field: field, Offset: offset, Msg: fmt.Sprintf(format, args...)})
}

func (p *problems) err() error { return errors.Join(p.errs...) }

func (p *problems) count(field string, n, most int) {
	if n > most {
		p.add(field, "%d entries, at most %d are allowed", n, most)
	}
}

// path checks a guest path: absolute and clean.
func (p *problems) path(field, s string) bool {
	switch {
	case s == "":
		p.add(field, "is missing: write an absolute path")
	case !strings.HasPrefix(s, "/"):
		p.add(field, "%s is not absolute: begin it with a /", quoteShort(s))
	case len(s) > maxPath || strings.ContainsRune(s, 0) || !utf8.ValidString(s):
		p.add(field, "%s is no path", quoteShort(s))
	case path.Clean(s) != s:
		p.add(field, "%s is not clean: write %s", quoteShort(s), quoteShort(path.Clean(s)))
	default:
		return true
	}
	return false
}

func (p *problems) names(field string, names []string, into map[string]bool, check func(string) error) {
	p.count(field, len(names), MaxNames)
	for i, n := range names {
		at := fmt.Sprintf("%s[%d]", field, i)
		if err := check(n); err != nil {
			p.add(at, "%s", err)
		} else if into[n] {
			p.add(at, "%s is there twice", strconv.Quote(n))
		}
		into[n] = true
	}
}
