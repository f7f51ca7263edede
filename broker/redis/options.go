package redis

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// Options configures a Store.
type Options struct {
	// URL says where the server is:
	//
	//	redis://user:password@host:6379/0             one server; rediss:// for TLS
	//	unix:///path/to/socket?db=0                   one server on this machine
	//	redis+sentinel://user:password@s1:26379,s2:26379/mymaster?db=0
	//	redis+cluster://user:password@h1:6379,h2:6379
	//
	// rediss+sentinel and rediss+cluster are these over TLS. Parameters: db; prefix, in place of Prefix; ca, cert and key (files in
	// PEM); server_name; sentinel_user and sentinel_password.
	URL string
	// Where a contract is kept, if elsewhere; empty means URL.
	Records, Leases, Blobs, Queue, Buckets string

	Prefix      string // of all keys; letters, digits, '-', '_', '.' and ':'; empty means "ripstop"
	Incarnation string // the store that must be met; empty: any, and a new one is made if there is none
	Require     Level  // what the servers' settings have to promise at least; empty: nothing

	Replicas     int           // how many replicas must have a change before it is acknowledged (WAIT); 0: none
	ReplicaWait  time.Duration // for how long to wait for them, less than Timeout; 0 means one second, or half of Timeout if that is less
	Timeout      time.Duration // for an answer of the server; 0 means five seconds
	Connections  int           // at once to each server, besides one for watching; 0 means 8
	History      int           // commits that a watcher may be behind; 0 means 4096
	HistoryBytes int           // and their keys and values; 0 means 16 MiB
	MaxBlob      int64         // bytes of a blob; 0 means 128 MiB
	TempDir      string        // where blobs wait until their digest is known; empty means the system's
	TLS          *tls.Config   // for URLs with TLS; nil means the system's roots. Parameters of a URL come on top

	// Clock replaces the server's clock. It is for tests: a clock of this machine would be another one than that of the
	// next machine.
	Clock clock.Clock
}

// filled checks the options and puts defaults in place of zero values.
func (o Options) filled() (Options, error) {
	o.Prefix = cmp.Or(o.Prefix, "ripstop")
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	o.ReplicaWait = cmp.Or(o.ReplicaWait, min(time.Second, o.Timeout/2))
	o.Connections = cmp.Or(o.Connections, 8)
	o.History = cmp.Or(o.History, 4096)
	o.HistoryBytes = cmp.Or(o.HistoryBytes, 16<<20)
	o.MaxBlob = cmp.Or(o.MaxBlob, 128<<20)
	for _, url := range []*string{&o.Records, &o.Leases, &o.Blobs, &o.Queue, &o.Buckets} {
		*url = cmp.Or(*url, o.URL)
	}
	var errs []error
	check := func(ok bool, what string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(what+": %w", append(args, broker.ErrInvalid)...))
		}
	}
	check(validPrefix(o.Prefix), "prefix %.80q: "+prefixForm, o.Prefix)
	check(o.Replicas >= 0, "%d replicas", o.Replicas)
	check(o.ReplicaWait >= time.Millisecond && o.ReplicaWait < o.Timeout, "a wait of %s for replicas (1 ms to less than the timeout of %s)", o.ReplicaWait, o.Timeout)
	check(o.Timeout >= 10*time.Millisecond, "a timeout of %s (at least 10 ms)", o.Timeout)
	check(o.Connections > 0, "%d connections", o.Connections)
	check(o.History > 0 && o.HistoryBytes > 0, "a history of %d commits and %d bytes", o.History, o.HistoryBytes)
	check(o.MaxBlob > 0, "blobs of at most %d bytes", o.MaxBlob)
	check(!strings.Contains(o.Incarnation, "-"), "incarnation %.80q", o.Incarnation)
	check(o.Require == "" || slices.Contains(levels, o.Require), "durability %.80q", o.Require)
	return o, errors.Join(errs...)
}

const prefixForm = "up to 64 letters, digits, '-', '_', '.' and ':'"

func validPrefix(p string) bool {
	return p != "" && len(p) <= 64 && strings.Trim(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:") == ""
}

// kind is how servers are found.
type kind string

const (
	single   kind = "single"
	sentinel kind = "sentinel"
	cluster  kind = "cluster"
)

// target is a URL taken apart.
type target struct {
	kind                           kind
	network                        string // "tcp" or "unix"
	addrs                          []string
	master                         string // its name, for Sentinel
	db                             int
	user, password                 string
	sentinelUser, sentinelPassword string
	prefix                         string // of keys; empty means that of the options
	tls                            bool
	ca, cert, key, serverName      string
}

// String names the target for people. It has no password.
func (t target) String() string {
	name := "redis " + strings.Join(t.addrs, ",")
	if t.kind == sentinel {
		name += " (master " + t.master + ")"
	}
	return name
}

// CheckURL says what is wrong with a URL, as Open would. The error shows no password.
func CheckURL(raw string) error {
	_, err := parseURL(raw)
	return err
}

// schemes ends an error about a URL's scheme.
const schemes = "it begins with redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"

// parseURL reads a URL. Its errors match broker.ErrInvalid and show no password.
func parseURL(raw string) (target, error) {
	bad := func(what string, args ...any) (target, error) {
		return target{}, fmt.Errorf("redis URL: %w: "+what, append([]any{broker.ErrInvalid}, args...)...)
	}
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return bad("no scheme; %s", schemes)
	}
	t := target{network: "tcp", kind: single, tls: strings.HasPrefix(scheme, "rediss")}
	port := "6379"
	switch scheme {
	case "redis", "rediss":
	case "unix":
		t.network = "unix"
	case "redis+sentinel", "rediss+sentinel":
		t.kind, port = sentinel, "26379"
	case "redis+cluster", "rediss+cluster":
		t.kind = cluster
	default:
		return bad("unknown scheme %.40q; %s", scheme, schemes)
	}
	rest, query, _ := strings.Cut(rest, "?")
	params, err := url.ParseQuery(query)
	if err != nil {
		return bad("its parameters are malformed")
	}
	hosts, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(hosts, '@'); i >= 0 {
		user, password, _ := strings.Cut(hosts[:i], ":")
		hosts = hosts[i+1:]
		if t.user, err = url.PathUnescape(user); err != nil {
			return bad("the user is malformed")
		}
		if t.password, err = url.PathUnescape(password); err != nil {
			return bad("the password is malformed; write its special characters as %%XX")
		}
	}
	db := params.Get("db")
	switch {
	case t.network == "unix":
		if hosts != "" || path == "" {
			return bad("unix:// is followed by an absolute path")
		}
		if path, err = url.PathUnescape(path); err != nil {
			return bad("the path is malformed")
		}
		t.addrs = []string{"/" + path}
	default:
		for _, h := range strings.Split(hosts, ",") {
			addr, err := withPort(h, port)
			if err != nil {
				return bad("host %.100q: %v", h, err)
			}
			t.addrs = append(t.addrs, addr)
		}
		if t.kind == single && len(t.addrs) > 1 {
			return bad("%d hosts; several need redis+sentinel:// or redis+cluster://", len(t.addrs))
		}
		if t.kind == sentinel {
			if t.master = path; path == "" || strings.Contains(path, "/") {
				return bad("the path of redis+sentinel:// is the master's name")
			}
		} else if path != "" {
			if t.kind == cluster {
				return bad("a cluster has one database only")
			}
			db = path
		}
	}
	if db != "" {
		if t.db, err = strconv.Atoi(db); err != nil || t.db < 0 {
			return bad("database %.40q is not a number", db)
		}
	}
	if t.db != 0 && t.kind == cluster {
		return bad("a cluster has one database only")
	}
	for name := range params {
		switch name {
		case "db":
		case "prefix":
			if t.prefix = params.Get("prefix"); !validPrefix(t.prefix) {
				return bad("prefix %.80q: "+prefixForm, t.prefix)
			}
		case "ca", "cert", "key", "server_name":
			if !t.tls {
				return bad("%s needs TLS: rediss", name)
			}
		case "sentinel_user", "sentinel_password":
			if t.kind != sentinel {
				return bad("%s needs Sentinel", name)
			}
		default:
			return bad("unknown parameter %.40q", name)
		}
	}
	t.ca, t.cert, t.key, t.serverName = params.Get("ca"), params.Get("cert"), params.Get("key"), params.Get("server_name")
	if (t.cert == "") != (t.key == "") {
		return bad("cert and key go together")
	}
	t.sentinelUser, t.sentinelPassword = params.Get("sentinel_user"), params.Get("sentinel_password")
	return t, nil
}

// withPort completes "host", "host:port", "[v6]" or "[v6]:port".
func withPort(h, port string) (string, error) {
	if !strings.HasSuffix(h, "]") && strings.Contains(h, ":") {
		host, p, err := net.SplitHostPort(h)
		if err != nil {
			return "", errors.New("neither host nor host:port")
		}
		h, port = host, p
	}
	h = strings.TrimSuffix(strings.TrimPrefix(h, "["), "]")
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("port %.20q", port)
	}
	if h == "" || strings.ContainsAny(h, "[]/@ \t\r\n") {
		return "", errors.New("not a host")
	}
	return net.JoinHostPort(h, port), nil
}

// tlsConfig is how to speak TLS; nil without.
func (t target) tlsConfig(base *tls.Config) (*tls.Config, error) {
	if !t.tls {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if base != nil {
		c = base.Clone()
	}
	if t.ca != "" {
		pem, err := os.ReadFile(t.ca)
		if err != nil {
			return nil, fmt.Errorf("redis URL: ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("redis URL: ca: %s has no certificate in PEM: %w", t.ca, broker.ErrInvalid)
		}
	}
	if t.cert != "" {
		pair, err := tls.LoadX509KeyPair(t.cert, t.key)
		if err != nil {
			return nil, fmt.Errorf("redis URL: cert: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if t.serverName != "" {
		c.ServerName = t.serverName
	}
	return c, nil
}
