package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/embedded"
	"github.com/ripstop-vm/ripstop/broker/redis"
	"github.com/ripstop-vm/ripstop/broker/tenure"
	"github.com/ripstop-vm/ripstop/internal/ids"
)

// brokerFlags say where a server keeps its state.
type brokerFlags struct {
	urls              []string
	blobs, durability string
	replicas          int
}

func (f *brokerFlags) add(cmd *cobra.Command) {
	f.addURL(cmd)
	s := cmd.Flags()
	s.StringVar(&f.blobs, "blobs", "", "where modules are kept: broker, or file, in the data directory (default broker)")
	s.StringVar(&f.durability, "durability", string(redis.LevelAlways), "what a Redis has to promise at least: always, second, system or none")
	completeWith(cmd, "blobs", "broker", "file")
	completeWith(cmd, "durability", redis.Levels()...)
	s.IntVar(&f.replicas, "replicas", 0, "how many replicas of a Redis must have a change before it is acknowledged")
}

// addURL adds the flag that says where the state is, for who asks for nothing else.
func (f *brokerFlags) addURL(cmd *cobra.Command) {
	f.durability = string(redis.LevelNone)
	cmd.Flags().StringArrayVar(&f.urls, "broker", nil, "embedded, or the URL of a Redis: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://;\n"+
		"CONTRACT=URL keeps one of "+strings.Join(contracts, ", ")+" elsewhere (repeatable; default $RIPSTOP_BROKER, else embedded)")
}

// contracts are what a Redis may keep apart from the rest.
var contracts = []string{"records", "leases", "blobs", "queue", "buckets"}

// brokerConfig is where a server keeps its state.
type brokerConfig struct {
	redis *redis.Options // nil: embedded, in the data directory
	files bool           // blobs are files in the data directory, whatever the rest is
}

// blobs says where modules are kept.
func (c brokerConfig) blobs() string {
	if c.files {
		return "file"
	}
	return "broker"
}

// config reads the flags. Errors name the flag and show no password.
func (f *brokerFlags) config() (c brokerConfig, err error) {
	list, from := f.urls, "--broker"
	if len(list) == 0 {
		list, from = strings.Fields(os.Getenv("RIPSTOP_BROKER")), "RIPSTOP_BROKER"
	}
	c.redis, err = parseBroker(list)
	if err != nil {
		return c, fmt.Errorf("%s: %w", from, err)
	}
	switch f.blobs {
	case "", "broker":
	case "file":
		c.files = true
	default:
		return c, fmt.Errorf("--blobs %.80q: it is broker or file", f.blobs)
	}
	level, err := redis.ParseLevel(f.durability)
	if err != nil {
		return c, fmt.Errorf("--%w", err)
	}
	if f.replicas < 0 || f.replicas > 100 {
		return c, fmt.Errorf("--replicas %d: it is 0 to 100", f.replicas)
	}
	if c.redis == nil {
		if f.replicas > 0 {
			return c, errors.New("--replicas: the embedded broker has none; give a --broker")
		}
		return c, nil
	}
	c.redis.Require, c.redis.Replicas = level, f.replicas
	return c, nil
}

// parseBroker reads a list of URL and CONTRACT=URL. It answers nil for the embedded broker. Errors show no password.
func parseBroker(list []string) (*redis.Options, error) {
	if len(list) == 0 || len(list) == 1 && list[0] == "embedded" {
		return nil, nil
	}
	o := &redis.Options{}
	at := map[string]*string{"": &o.URL, "records": &o.Records, "leases": &o.Leases, "blobs": &o.Blobs, "queue": &o.Queue, "buckets": &o.Buckets}
	for _, one := range list {
		contract, url, ok := strings.Cut(one, "=")
		whole := !ok || strings.Contains(contract, "://")
		if whole {
			contract, url = "", one
		}
		field := at[contract]
		switch {
		case field == nil, contract == "" && !whole:
			return nil, fmt.Errorf("there is no contract %.40q; there are %s", contract, strings.Join(contracts, ", "))
		case url == "embedded":
			return nil, errors.New("embedded keeps everything, and stands alone")
		case *field != "" && contract == "":
			return nil, errors.New("there are two URLs; one contract is kept elsewhere with CONTRACT=URL")
		case *field != "":
			return nil, fmt.Errorf("%s is given twice", contract)
		}
		if err := redis.CheckURL(url); err != nil {
			return nil, err
		}
		*field = url
	}
	if o.URL == "" {
		missing := slices.DeleteFunc(slices.Clone(contracts), func(name string) bool { return *at[name] != "" })
		if len(missing) > 0 {
			return nil, fmt.Errorf("nothing says where to keep %s; give a URL without a contract, too", strings.Join(missing, ", "))
		}
	}
	return o, nil
}

// markFile is in the data directory of a server that keeps its state elsewhere.
const markFile = "broker.json"

// brokerMark says which store belongs to a data directory, and names the server that runs on it.
type brokerMark struct {
	Schema      int    `json:"schema"`
	Incarnation string `json:"incarnation"`
	Server      string `json:"server"`
}

// readMark reads the mark of a data directory; the zero mark if there is none.
func readMark(dir string) (m brokerMark, err error) {
	path := filepath.Join(dir, markFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil || m.Incarnation == "" || m.Server == "" {
		return m, fmt.Errorf("%s is damaged; restore it from a backup, or remove it to take the store that the broker has", path)
	}
	if m.Schema > 1 {
		return m, fmt.Errorf("%s: schema %d: %w; use the newer program", path, m.Schema, broker.ErrNewer)
	}
	return m, nil
}

func (m brokerMark) write(dir string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	f, err := createPending(filepath.Join(dir, markFile))
	if err != nil {
		return err
	}
	defer f.abandon()
	if _, err := f.Write(append(b, '\n')); err != nil {
		return err
	}
	return f.publish(true)
}

// backend is an open broker, embedded or in Redis.
type backend struct {
	records broker.Records
	leases  broker.Leases
	blobs   broker.Blobs
	queue   broker.Queue
	buckets broker.Buckets

	dir      string
	mark     brokerMark
	embedded *embedded.Store // nil if it is in Redis
	redis    *redis.Store    // nil if it is embedded
	tenure   *tenure.Tenure  // of the store in Redis
	lock     io.Closer       // of the data directory, which an embedded store holds itself
}

// openBackend opens the broker of a data directory. Its errors are one line, and nothing was changed then.
func openBackend(ctx context.Context, c brokerConfig, dir string, log *slog.Logger) (_ *backend, err error) {
	mark, err := readMark(dir)
	if err != nil {
		return nil, err
	}
	if c.redis == nil {
		if mark.Incarnation != "" {
			return nil, fmt.Errorf("%s belongs to a store in Redis; give its URL with --broker, or another --data", dir)
		}
		s, err := embedded.Open(dir, embedded.Options{})
		if err != nil {
			return nil, err
		}
		return &backend{records: s.Records(), leases: s.Leases(), blobs: s.Blobs(), queue: s.Queue(), buckets: s.Buckets(), dir: dir, embedded: s}, nil
	}
	if embedded.Has(dir) {
		return nil, fmt.Errorf("%s holds a store of its own; give the server another --data, or leave out --broker", dir)
	}
	b := &backend{dir: dir, mark: mark}
	defer func() {
		if err != nil {
			_ = b.close(ctx) // the first error is the one to show
		}
	}()
	if b.lock, err = embedded.Lock(dir); err != nil {
		return nil, err
	}
	opts := *c.redis
	opts.Incarnation = mark.Incarnation
	if b.redis, err = redis.Open(ctx, opts); err != nil {
		return nil, err
	}
	if mark.Incarnation == "" {
		b.mark = brokerMark{Schema: 1, Incarnation: b.redis.Incarnation(), Server: ids.New()}
		if err := b.mark.write(dir); err != nil {
			return nil, err
		}
	}
	b.tenure, err = tenure.Open(ctx, tenure.Options{Leases: b.redis.Leases(), Records: b.redis.Records(), Holder: b.holder(), Told: func(err error) {
		if err != nil {
			log.Error("the broker cannot be used; nothing is changed, and what is ready is served", "error", err)
		} else {
			log.Info("the broker can be used again")
		}
	}})
	if err != nil {
		return nil, err
	}
	b.records, b.leases, b.blobs, b.queue, b.buckets = b.tenure.Records(), b.redis.Leases(), b.redis.Blobs(), b.redis.Queue(), b.redis.Buckets()
	if c.files {
		if b.blobs, err = embedded.OpenBlobs(filepath.Join(dir, "blobs")); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// holder names this server among those that use a store.
func (b *backend) holder() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return fmt.Sprintf("%.64s:%.120s (%s)", host, b.dir, b.mark.Server)
}

// run keeps the store for this server until ctx ends.
func (b *backend) run(ctx context.Context) error {
	if b.tenure == nil {
		return nil
	}
	return b.tenure.Run(ctx)
}

// close lets go of the store. It may be called twice.
func (b *backend) close(ctx context.Context) error {
	if b.embedded != nil {
		return b.embedded.Close()
	}
	var errs []error
	if b.tenure != nil && b.tenure.State().Err == nil {
		_ = b.tenure.Close(ctx) // it lapses anyway
	}
	if b.redis != nil {
		errs = append(errs, b.redis.Close())
	}
	if b.lock != nil {
		if err := b.lock.Close(); !errors.Is(err, fs.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// adopt goes on with the store that the broker has now. It answers what happened.
func (b *backend) adopt(ctx context.Context) (what string, err error) {
	if b.redis == nil {
		return "", errors.New("the embedded broker is the one in the data directory; there is nothing to adopt")
	}
	before := b.mark.Incarnation
	state := b.tenure.State()
	next := b.mark
	if next.Incarnation, err = b.redis.Adopt(ctx); err != nil {
		return "", err
	}
	if err := next.write(b.dir); err != nil {
		return "", err
	}
	b.mark = next // not before: an attempt that fails leaves the store that this server had
	if err := b.tenure.Retake(ctx); err != nil {
		return "", err
	}
	what = fmt.Sprintf("the store %s is used in place of %s", b.mark.Incarnation, before)
	if b.mark.Incarnation == before {
		what = fmt.Sprintf("the store %s is used as it is now", before)
	}
	if state.Err != nil {
		what += fmt.Sprintf("; since %s: %s", state.Since.UTC().Format(time.RFC3339), state.Err)
	}
	return what, nil
}
