package redis

import (
	"context"
	"fmt"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// link is a server, or a Cluster, and how scripts get there. Calls that are made while others are under way go together in
// one pipeline.
type link struct {
	target target
	opts   Options
	keys   keys
	serves []string // names of the contracts

	single  *redis.Client        // nil in a Cluster
	cluster *redis.ClusterClient // nil outside

	identity atomic.Pointer[string] // what scripts expect to find
	found    durability

	mu      sync.Mutex
	lanes   map[string]*lane // by the node's address
	nodes   map[string]*redis.Client
	closed  bool
	senders sync.WaitGroup
}

// retryEvery is how long to wait before asking again a server that is in the middle of a change.
const retryEvery = 25 * time.Millisecond

// dialPatience is how long a call tries to reach a single server. After some failures the client dials once a second only, so that it
// may say that a server is not there which has been back for a while.
const dialPatience = 1250 * time.Millisecond

// options are those of a client. check runs on each new connection.
func (l *link) options(check func(context.Context, *redis.Conn) error) (*redis.UniversalOptions, error) {
	tls, err := l.target.tlsConfig(l.opts.TLS)
	if err != nil {
		return nil, err
	}
	return &redis.UniversalOptions{
		Addrs: l.target.addrs, DB: l.target.db, Username: l.target.user, Password: l.target.password,
		MasterName: l.target.master, SentinelUsername: l.target.sentinelUser, SentinelPassword: l.target.sentinelPassword,
		Protocol: 2, OnConnect: check, TLSConfig: tls,
		MaxRetries: -1, DialerRetries: 1, // what ran must not run twice; what did not is tried again here
		DialTimeout: l.opts.Timeout, ReadTimeout: l.opts.Timeout, WriteTimeout: l.opts.Timeout, PoolTimeout: l.opts.Timeout,
		PoolSize: l.opts.Connections + 1, MinIdleConns: 0,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}, nil
}

// quiet is a logger of the client that says nothing: each error comes back to who called.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

var beQuiet = sync.OnceFunc(func() { redis.SetLogger(quiet{}) })

// open makes the clients.
func (l *link) open(check func(context.Context, *redis.Conn) error) error {
	beQuiet()
	u, err := l.options(check)
	if err != nil {
		return err
	}
	l.lanes, l.nodes = map[string]*lane{}, map[string]*redis.Client{}
	switch l.target.kind {
	case cluster:
		o := u.Cluster()
		o.MaxRedirects = -1
		o.NewClient = l.node
		l.cluster = redis.NewClusterClient(o)
	case sentinel:
		l.single = redis.NewFailoverClient(u.Failover())
	default:
		o := u.Simple()
		o.Network = l.target.network
		l.single = redis.NewClient(o)
	}
	return nil
}

// node makes the client of a Cluster's node, and remembers it for redirections.
func (l *link) node(o *redis.Options) *redis.Client {
	c := redis.NewClient(o)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes[o.Addr] = c
	return c
}

// close ends what is under way and the connections.
func (l *link) close() error {
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		return nil
	}
	var err error
	if l.cluster != nil {
		err = l.cluster.Close()
	} else if l.single != nil {
		err = l.single.Close()
	}
	l.senders.Wait()
	return err
}

// client answers the client of the server that has a tag.
func (l *link) client(ctx context.Context, tag string) (*redis.Client, error) {
	if l.single != nil {
		return l.single, nil
	}
	return l.cluster.MasterForKey(ctx, tag)
}

// call is a script to run.
type call struct {
	script   *script
	group    group
	keys     func(group) []string // besides the identity's
	now      any                  // what time it is; "": the server knows
	identity string               // of the store
	args     []any                // besides the identity and the time
	parts    parts
	size     int // bytes of args and parts

	done  chan struct{} // closed when reply and err are there
	reply any
	err   error
}

// parts are what a script does one after the other. Calls that are the same but for their parts go to the server as one.
type parts struct {
	args  []any
	count int // each is one element of the reply; 0: the script has no parts
	work  int // how many things they are about, in all
}

// maxWork bounds what calls that go together are about: as much as one call may be about.
const maxWork = broker.MaxBatch

func size(args []any) (n int) {
	for _, a := range args {
		if text, ok := a.(string); ok {
			n += len(text)
		}
	}
	return n
}

// run runs a script on keys of a group. Each arg is a string or a number. The reply begins with a word that says how it went; what
// is the same for all scripts is an error already.
func (l *link) run(ctx context.Context, s *script, g group, keys []string, args ...any) (reply, error) {
	return l.do(ctx, &call{script: s, group: g, keys: func(group) []string { return keys }, args: args, size: size(args)})
}

func (l *link) do(ctx context.Context, c *call) (reply, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	c.now = ""
	if l.opts.Clock != nil {
		c.now = l.opts.Clock.Now().UnixMicro()
	}
	c.identity = *l.identity.Load()
	begin := clock.Elapsed()
	for {
		err := l.once(ctx, c)
		if err == nil {
			break
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		patient := unsent(err)
		switch {
		case undialled(err):
			patient = l.target.kind != single || clock.Elapsed()-begin < dialPatience
		case strings.HasPrefix(err.Error(), "READONLY"):
			patient = l.target.kind != single // another server is about to be the master
		}
		if !patient || clock.Elapsed()-begin > l.opts.Timeout {
			return nil, explain(l.target.String(), err)
		}
		pause := clock.System.NewTimer(retryEvery)
		select {
		case <-pause.C():
		case <-ctx.Done():
			pause.Stop()
			return nil, context.Cause(ctx)
		}
	}
	return l.read(c)
}

// read takes a reply apart.
func (l *link) read(c *call) (reply, error) {
	r, ok := c.reply.([]any)
	if !ok || len(r) == 0 {
		return nil, fmt.Errorf("%s: script %s answers %T", l.target, c.script.name, c.reply)
	}
	switch rep := reply(r); rep.text(0) {
	case "identity":
		return nil, l.stranger(rep.text(1))
	case "rewound":
		return nil, fmt.Errorf("%s: %w: it is at %d, and was further; nothing was changed; restore it, or run ripstop adopt to go on from there", l.target, broker.ErrRewound, rep.number(1))
	default:
		if n := c.parts.count; n > 0 && len(rep) != 1+n {
			return nil, fmt.Errorf("%s: script %s answers %d elements for %d parts", l.target, c.script.name, len(rep)-1, n)
		}
		return rep, nil
	}
}

// stranger says what it means that a server has another identity.
func (l *link) stranger(have string) error {
	schemaText, incarnation, _ := strings.Cut(have, "-")
	switch {
	case have == "":
		return fmt.Errorf("%s: %w: it has none; was it restarted without its data? nothing was changed; restore it, or run ripstop adopt to begin anew", l.target, broker.ErrIncarnation)
	case schemaText != schema:
		return fmt.Errorf("%s: %w: its schema is %.20q, this program's is %s; nothing was changed; use a newer version of ripstop", l.target, broker.ErrNewer, schemaText, schema)
	}
	return fmt.Errorf("%s: %w: it is %.40s; nothing was changed; is the URL right? to go on with it, run ripstop adopt", l.target, broker.ErrIncarnation, incarnation)
}

// once sends a call and waits for its end, or for that of ctx.
func (l *link) once(ctx context.Context, c *call) error {
	client, err := l.client(ctx, c.group.tag)
	if err != nil {
		return err
	}
	c.done, c.reply, c.err = make(chan struct{}), nil, nil
	if err := l.submit(client, c); err != nil {
		return err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if c.err == nil || l.cluster == nil {
		return c.err
	}
	code, rest, _ := strings.Cut(c.err.Error(), " ")
	_, addr, _ := strings.Cut(rest, " ")
	switch code {
	case "MOVED":
		l.cluster.ReloadState(ctx)
	case "ASK":
		return l.ask(addr, c)
	}
	return c.err
}

// ask runs a call on the node that a slot is moving to.
func (l *link) ask(addr string, c *call) error {
	l.mu.Lock()
	client := l.nodes[addr]
	l.mu.Unlock()
	if client == nil {
		return c.err // once the slot has moved, the node is known
	}
	(&lane{link: l, client: client}).pipeline([]*call{c}, true, true)
	return c.err
}

// submit hands a call to the lane of its server.
func (l *link) submit(client *redis.Client, c *call) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return redis.ErrClosed
	}
	addr := client.Options().Addr
	ln := l.lanes[addr]
	if ln == nil || ln.client != client {
		ln = &lane{link: l, client: client}
		l.lanes[addr] = ln
	}
	ln.queue = append(ln.queue, c)
	if ln.active < min(maxSenders, l.opts.Connections) {
		ln.active++
		l.senders.Go(ln.send)
	}
	return nil
}

// Bounds of a pipeline.
const (
	maxSenders       = 2       // pipelines under way at once to a server: while one is run, another one fills
	maxPipeline      = 128     // calls
	maxPipelineBytes = 1 << 20 // of arguments, unless one call has more
)

// lane is the calls that wait for one server. Its fields are guarded by the link's mutex.
type lane struct {
	link   *link
	client *redis.Client
	queue  []*call
	active int // senders
}

// take takes what goes into the next pipeline, or ends the sender.
func (ln *lane) take() []*call {
	ln.link.mu.Lock()
	defer ln.link.mu.Unlock()
	n, size := 0, 0
	for n < len(ln.queue) && n < maxPipeline && (n == 0 || size+ln.queue[n].size <= maxPipelineBytes) {
		size += ln.queue[n].size
		n++
	}
	if n == 0 {
		ln.active--
		ln.queue = nil
		return nil
	}
	batch := ln.queue[:n:n]
	ln.queue = ln.queue[n:]
	return batch
}

// send sends pipelines until there is nothing to send.
func (ln *lane) send() {
	for batch := ln.take(); batch != nil; batch = ln.take() {
		ln.pipeline(batch, false, false)
		var unknown []*call
		for _, c := range batch {
			if c.err != nil && strings.HasPrefix(c.err.Error(), "NOSCRIPT") {
				unknown = append(unknown, c)
			}
		}
		if len(unknown) > 0 {
			ln.pipeline(unknown, true, false) // a server that was started again knows no script
		}
		for _, c := range batch {
			close(c.done)
		}
		goruntime.Gosched() // who was answered may have something to go with the next
	}
}

// together does n things at once, so that their calls go in one pipeline, and answers their errors.
func together(n int, do func(i int) error) []error {
	errs := make([]error, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, maxPipeline) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				errs[i] = do(i)
			}
		})
	}
	wg.Wait()
	return errs
}

// evalArgs is the command that runs calls which are the same but for their parts.
func evalArgs(calls []*call, source bool) []any {
	c := calls[0]
	keys := c.keys(c.group)
	n := 6 + len(keys) + len(c.args)
	for _, c := range calls {
		n += len(c.parts.args)
	}
	args := make([]any, 0, n)
	if source {
		args = append(args, "EVAL", c.script.code().source)
	} else {
		args = append(args, "EVALSHA", c.script.code().sha)
	}
	args = append(args, 1+len(keys), c.group.identity)
	for _, k := range keys {
		args = append(args, k)
	}
	args = append(append(args, c.identity, c.now), c.args...)
	for _, c := range calls {
		args = append(args, c.parts.args...)
	}
	return args
}

// join puts calls together that can go as one. Their args besides the parts are the same if their scripts and groups are.
func join(batch []*call) [][]*call {
	type likeness struct {
		script   *script
		group    group
		identity string
		now      any
	}
	var joined [][]*call
	var work []int
	var at map[likeness]int
	for _, c := range batch {
		if c.parts.count == 0 || len(batch) == 1 {
			joined, work = append(joined, []*call{c}), append(work, 0)
			continue
		}
		like := likeness{c.script, c.group, c.identity, c.now}
		if i, ok := at[like]; ok && work[i]+c.parts.work <= maxWork {
			joined[i] = append(joined[i], c)
			work[i] += c.parts.work
			continue
		}
		if at == nil {
			at = map[likeness]int{}
		}
		at[like] = len(joined)
		joined, work = append(joined, []*call{c}), append(work, c.parts.work)
	}
	return joined
}

// share gives calls that went as one what is theirs of the reply.
func share(calls []*call, whole any, err error) {
	list, ok := whole.([]any)
	ok = ok && err == nil && len(list) > 0 && list[0] == "ok"
	next := 1
	for _, c := range calls {
		c.reply, c.err = whole, err
		if n := c.parts.count; n > 0 && ok {
			if next+n > len(list) {
				n = len(list) - next // read says so
			}
			c.reply = append([]any{"ok"}, list[next:next+n]...)
			next += n
		}
	}
}

// pipeline sends calls and sets their replies: with the scripts' source or their sum only, and with leave to touch slots that the
// server is about to get.
func (ln *lane) pipeline(batch []*call, source, asking bool) {
	ctx := context.Background() // each caller waits as long as it likes; the client's timeouts bound this
	pipe := ln.client.Pipeline()
	joined := join(batch)
	cmds := make([]*redis.Cmd, len(joined))
	writes := false
	for i, calls := range joined {
		if asking {
			pipe.Do(ctx, "ASKING")
		}
		cmds[i] = pipe.Do(ctx, evalArgs(calls, source)...)
		writes = writes || calls[0].script.code().writes
	}
	var wait *redis.Cmd
	if n := ln.link.opts.Replicas; writes && n > 0 {
		wait = pipe.Do(ctx, "WAIT", n, ln.link.opts.ReplicaWait.Milliseconds())
	}
	_, err := pipe.Exec(ctx)
	for i, calls := range joined {
		whole, cmdErr := cmds[i].Result()
		if cmdErr == nil && whole == nil && err != nil {
			cmdErr = err // the pipeline was not sent: a script answers something
		}
		share(calls, whole, cmdErr)
	}
	if wait == nil {
		return
	}
	got, err := wait.Int()
	for _, c := range batch {
		if c.err != nil || !c.script.code().writes || err == nil && got >= ln.link.opts.Replicas {
			continue
		}
		if err != nil {
			c.err = fmt.Errorf("wait for replicas: %w", err)
		} else {
			c.err = fmt.Errorf("%w: %d of %d after %s", ErrReplicas, got, ln.link.opts.Replicas, ln.link.opts.ReplicaWait)
		}
	}
}

// reply is a script's answer: a word that says how it went, then what the script's head lists.
type reply []any

// text answers an element as text; "" if it is not there.
func (r reply) text(i int) string {
	if i < len(r) {
		switch v := r[i].(type) {
		case string:
			return v
		case int64:
			return fmt.Sprint(v)
		}
	}
	return ""
}

// number answers an element as a whole number that is not negative; 0 if it is none.
func (r reply) number(i int) uint64 {
	if i >= len(r) {
		return 0
	}
	switch v := r[i].(type) {
	case int64:
		return uint64(max(v, 0))
	case string:
		n, _ := parseUint(v)
		return n
	}
	return 0
}

// part answers a part's own reply; an empty one if it is not there.
func (r reply) part(i int) reply {
	if i >= len(r) {
		return nil
	}
	list, _ := r[i].([]any)
	return list
}

// time answers an element that is in microseconds since 1970; the zero time for 0.
func (r reply) time(i int) time.Time { return fromMicros(r.number(i)) }

func fromMicros(n uint64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(n)).UTC()
}
