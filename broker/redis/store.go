package redis

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/ripstop-vm/ripstop/broker"
)

// schema is the version of what is kept in Redis: keys, scripts' data, documents. It is a part of the identity.
const schema = "1"

// Store is a broker in Redis. Close ends it.
type Store struct {
	opts    Options
	links   []*link // one for each URL; the first has the records
	records *Records
	blobs   *Blobs
	buckets *Buckets
	leases  *Leases
	queue   *Queue

	mu          sync.Mutex // held while the incarnation is adopted
	incarnation string
	close       func() error
}

// Open connects, checks that the servers do, and makes the store if there is none. Its errors say in one line which server is
// concerned and what to do: they match ErrSettings, broker.ErrInvalid, ErrAccess, ErrReadOnly, ErrUnavailable, ErrIncarnation and
// ErrNewer. Nothing has changed then.
func Open(ctx context.Context, opts Options) (_ *Store, err error) {
	opts, err = opts.filled()
	if err != nil {
		return nil, fmt.Errorf("open redis: %w", err)
	}
	s := &Store{opts: opts}
	s.close = sync.OnceValue(func() error {
		if s.records != nil {
			s.records.feed.close()
		}
		if s.queue != nil {
			s.queue.bell.close()
		}
		var errs []error
		for _, l := range s.links {
			errs = append(errs, l.close())
		}
		if s.records != nil {
			s.records.feed.wait()
		}
		return errors.Join(errs...)
	})
	defer func() {
		if err != nil {
			_ = s.close() // the first error is the one to show
		}
	}()
	at, err := s.connect()
	if err != nil {
		return nil, err
	}
	want, err := s.meet(ctx, opts.Incarnation)
	if err != nil {
		return nil, err
	}
	s.incarnation = want
	s.records = newRecords(at["records"])
	for _, l := range s.links {
		l.identity.Store(identityOf(want))
		greet := func(context.Context, *redis.Conn) error { return nil }
		if l == at["records"] {
			greet = s.records.greet
		}
		if err := l.open(greet); err != nil {
			return nil, err
		}
	}
	s.blobs, s.buckets = &Blobs{link: at["blobs"]}, &Buckets{link: at["buckets"]}
	s.leases, s.queue = &Leases{link: at["leases"]}, newQueue(at["queue"])
	_, err = s.records.number(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// connect makes a link for each URL, which connects to nothing yet, and answers them by contract.
func (s *Store) connect() (map[string]*link, error) {
	opts := s.opts
	urls, by := map[string]*link{}, map[string]*link{}
	at := func(contract, url string) {
		l := urls[url]
		if l == nil {
			l = &link{opts: opts}
			urls[url] = l
			s.links = append(s.links, l)
		}
		l.serves = append(l.serves, contract)
		by[contract] = l
	}
	at("records", opts.Records)
	at("leases", opts.Leases)
	at("blobs", opts.Blobs)
	at("queue", opts.Queue)
	at("buckets", opts.Buckets)
	for url, l := range urls {
		var err error
		if l.target, err = parseURL(url); err != nil {
			return nil, fmt.Errorf("open %s: %w", strings.Join(l.serves, ", "), err)
		}
		l.keys = keys{prefix: cmp.Or(l.target.prefix, opts.Prefix), cluster: l.target.kind == cluster}
	}
	return by, nil
}

func identityOf(incarnation string) *string {
	text := schema + "-" + incarnation
	return &text
}

// Incarnation is random and stays with the store: another one on the same server has another.
func (s *Store) Incarnation() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.incarnation
}

// Records are the store's records.
func (s *Store) Records() *Records { return s.records }

// Blobs are the store's blobs.
func (s *Store) Blobs() *Blobs { return s.blobs }

// Buckets are the store's buckets.
func (s *Store) Buckets() *Buckets { return s.buckets }

// Leases are the store's leases.
func (s *Store) Leases() *Leases { return s.leases }

// Queue is the store's queue.
func (s *Store) Queue() *Queue { return s.queue }

// Durability answers for each server what an acknowledgement of it survives, as its settings were when it was opened.
func (s *Store) Durability() []Durability {
	var list []Durability
	for _, l := range s.links {
		list = append(list, l.found.durability(l))
	}
	return list
}

// Adopt goes on with what the servers hold now, after ErrIncarnation or ErrRewound: the incarnation that is there (a new one if there
// is none) and its revision become those of this store. Watchers are told to list again. It answers the incarnation.
func (s *Store) Adopt(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	want, err := s.meet(ctx, "")
	if err != nil {
		return "", fmt.Errorf("adopt: %w", err)
	}
	for _, l := range s.links {
		l.identity.Store(identityOf(want))
	}
	s.incarnation = want
	if err := s.records.adopt(ctx); err != nil {
		return "", fmt.Errorf("adopt: %w", err)
	}
	return want, nil
}

// Close ends watches with broker.ErrClosed, waits for what is under way and closes the connections. Later calls fail with
// broker.ErrClosed. It may be called twice.
func (s *Store) Close() error { return s.close() }

// meet looks at all servers, with connections of its own, and only then reads or writes their identity. It answers the incarnation.
func (s *Store) meet(ctx context.Context, want string) (string, error) {
	probes := make([]*link, len(s.links))
	for i, l := range s.links {
		probes[i] = &link{target: l.target, opts: l.opts, keys: l.keys}
		defer probes[i].close()
		if err := probes[i].check(ctx); err != nil {
			return "", err
		}
		l.found = probes[i].found
	}
	for _, p := range probes {
		var err error
		if want, err = p.identify(ctx, want); err != nil {
			return "", err
		}
	}
	return want, nil
}

// Look says which incarnation the servers hold and what they promise, and writes nothing. The incarnation is empty if there is no store. It
// fails as Open does, but for what Options.Incarnation and Options.Require ask for, which it leaves to the caller.
func Look(ctx context.Context, opts Options) (incarnation string, list []Durability, err error) {
	opts.Require, opts.Incarnation = "", ""
	if opts, err = opts.filled(); err != nil {
		return "", nil, err
	}
	s := &Store{opts: opts}
	if _, err := s.connect(); err != nil {
		return "", nil, err
	}
	for _, l := range s.links {
		defer l.close()
		if err := l.check(ctx); err != nil {
			return "", nil, err
		}
		have, err := l.readIdentity(ctx)
		if err != nil {
			return "", nil, explain(l.target.String(), err)
		}
		schemaText, now, ok := strings.Cut(have, "-")
		if have != "" && (!ok || schemaText != schema || incarnation != "" && now != incarnation) {
			return "", nil, l.stranger(have)
		}
		incarnation = cmp.Or(now, incarnation)
		list = append(list, l.found.durability(l))
	}
	return incarnation, list, nil
}

// check opens the link and finds out whether the server does.
func (l *link) check(ctx context.Context) error {
	if err := l.open(nil); err != nil {
		return err
	}
	where := l.target.String()
	masters, err := l.masters(ctx)
	if err != nil {
		return explain(where, err)
	}
	for i, c := range masters {
		d, err := inspect(ctx, c, where)
		if err != nil {
			return err
		}
		if i == 0 || d.weaker(l.found) {
			l.found = d
		}
	}
	if err := l.found.satisfies(l.opts, where); err != nil {
		return err
	}
	return l.checkAccess(ctx, masters[0], where)
}

// masters answers a client for each server that takes writes.
func (l *link) masters(ctx context.Context) ([]*redis.Client, error) {
	if l.single != nil {
		return []*redis.Client{l.single}, nil
	}
	var mu sync.Mutex
	var list []*redis.Client
	err := l.cluster.ForEachMaster(ctx, func(_ context.Context, c *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		list = append(list, c)
		return nil
	})
	if err == nil && len(list) == 0 {
		err = errors.New("CLUSTERDOWN the cluster has no masters")
	}
	slices.SortFunc(list, func(a, b *redis.Client) int { return cmp.Compare(a.Options().Addr, b.Options().Addr) })
	return list, err
}

// oldest is the oldest version that does.
const oldest = "7.0"

// inspect refuses a server whose version, role or settings do not do.
func inspect(ctx context.Context, c *redis.Client, where string) (durability, error) {
	text, err := c.Info(ctx).Result()
	if err != nil {
		return durability{}, explain(where, err)
	}
	info := parseInfo(text)
	bad := func(sentinel error, what string, args ...any) (durability, error) {
		return durability{}, fmt.Errorf("%s: %w: "+what, append([]any{where, sentinel}, args...)...)
	}
	major, _, _ := strings.Cut(info["redis_version"], ".")
	if n, err := strconv.Atoi(major); err != nil || n < 7 {
		return bad(ErrSettings, "its version is %.20q; ripstop needs Redis %s or later", info["redis_version"], oldest)
	}
	switch {
	case info["loading"] == "1" || info["async_loading"] == "1":
		return bad(broker.ErrUnavailable, "it is loading its data; try again in %.10s s", cmp.Or(info["loading_eta_seconds"], "a few"))
	case info["role"] != "master":
		return bad(broker.ErrReadOnly, "it is a replica of %.100s:%.10s; use the master's address, or Sentinel", info["master_host"], info["master_port"])
	case info["maxmemory_policy"] != "" && info["maxmemory_policy"] != "noeviction":
		return bad(ErrSettings, "maxmemory-policy is %.40s, so that it would throw keys away when memory is short; set it to noeviction", info["maxmemory_policy"])
	}
	return readDurability(ctx, c, info), nil
}

// parseInfo reads what INFO answers.
func parseInfo(text string) map[string]string {
	info := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && !strings.HasPrefix(k, "#") {
			info[k] = v
		}
	}
	return info
}

// commands are those that scripts and this package use on keys, and others those without a key.
var (
	commands = strings.Fields(`del exists get hdel hexists hget hgetall hincrby hlen hmget hscan hset hstrlen lindex llen lpop lpush lrange
		lrem persist pexpire pttl rpush sadd scard set smembers srem strlen unlink xadd xlen xrange xread xtrim zadd zcard zcount zrange
		zrangebylex zrangebyscore zrem zscore`)
	others = strings.Fields(`eval evalsha info time`)
)

// Rights are what a user has to be granted with ACL SETUSER for keys of a prefix ("ripstop" by default), besides a password: keys, the
// channel on which those who wait for a queue are woken, and commands.
func Rights(prefix string) []string {
	rights := []string{"~" + prefix + ":*", "~{" + prefix + ":*", "&" + prefix + ":*"}
	for _, name := range slices.Concat(commands, others, []string{"hello", "ping", "publish", "subscribe", "unsubscribe", "wait", "config|get"}) {
		rights = append(rights, "+"+name)
	}
	return rights
}

// checkAccess asks whether the user may use the commands and the keys.
func (l *link) checkAccess(ctx context.Context, c *redis.Client, where string) error {
	args := []any{"EVAL", accessScript, 0, l.keys.records().key("meta")}
	for _, name := range slices.Concat(commands, others) {
		args = append(args, name)
	}
	missing, err := c.Do(ctx, args...).StringSlice()
	if err != nil {
		return explain(where, err)
	}
	switch {
	case len(missing) == 0:
		return nil
	case !slices.ContainsFunc(commands, func(name string) bool { return !slices.Contains(missing, name) }):
		return fmt.Errorf("%s: %w: user %.80q may not use keys that begin with %s: or {%s:; allow them: ACL SETUSER %.80s ~%s:* ~{%s:*; nothing was changed",
			where, broker.ErrAccess, l.user(), l.keys.prefix, l.keys.prefix, l.user(), l.keys.prefix, l.keys.prefix)
	}
	return fmt.Errorf("%s: %w: user %.80q may not run %s; allow it: ACL SETUSER %.80s +%s; nothing was changed",
		where, broker.ErrAccess, l.user(), strings.Join(missing, ", "), l.user(), strings.Join(missing, " +"))
}

func (l *link) user() string { return cmp.Or(l.target.user, "default") }

// accessScript answers which of the commands ARGV[2]… a user may not run on the key ARGV[1]. It touches no key.
const accessScript = `
	local key, missing = ARGV[1], {}
	local arguments = {time = {}, info = {}, eval = {'', '0'}, evalsha = {'', '0'}, xread = {'STREAMS', key, '0'}}
	for i = 2, #ARGV do
		if not redis.acl_check_cmd(ARGV[i], unpack(arguments[ARGV[i]] or {key, key, key, key})) then
			missing[#missing + 1] = ARGV[i]
		end
	end
	return missing
`

// readIdentity answers the identity; empty if there is none.
func (l *link) readIdentity(ctx context.Context) (string, error) {
	key := l.keys.records().identity
	client, err := l.client(ctx, key)
	if err != nil {
		return "", err
	}
	have, err := client.Get(ctx, key).Result()
	if errors.Is(err, redis.Nil) {
		return "", nil
	}
	return have, err
}

// identify reads the identity, and writes one if there is none and none is wanted. It answers the incarnation.
func (l *link) identify(ctx context.Context, want string) (string, error) {
	where := l.target.String()
	have, err := l.readIdentity(ctx)
	if err != nil {
		return "", explain(where, err)
	}
	if have == "" {
		key := l.keys.records().identity
		client, err := l.client(ctx, key)
		if err != nil {
			return "", explain(where, err)
		}
		if l.opts.Incarnation != "" && want == l.opts.Incarnation {
			return "", l.stranger("")
		}
		text := *identityOf(cmp.Or(want, rand.Text()))
		if _, err := client.SetNX(ctx, key, text, 0).Result(); err != nil {
			return "", explain(where, err)
		}
		if have, err = client.Get(ctx, key).Result(); err != nil { // another process may have been first
			return "", explain(where, err)
		}
		if err := l.spread(ctx, have); err != nil {
			return "", explain(where, err)
		}
	}
	schemaText, incarnation, ok := strings.Cut(have, "-")
	if !ok || schemaText != schema || want != "" && incarnation != want {
		return "", l.stranger(have)
	}
	return incarnation, nil
}

// spread writes the identity into all slots of a Cluster.
func (l *link) spread(ctx context.Context, identity string) error {
	if l.cluster == nil {
		return nil
	}
	pipe := l.cluster.Pipeline()
	for slot := range uint16(slots) {
		pipe.SetNX(ctx, l.keys.identityOf(slot), identity, 0)
		if slot%1024 == 1023 {
			if _, err := pipe.Exec(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func parseUint(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }
