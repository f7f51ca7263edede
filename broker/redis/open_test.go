package redis

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/internal/redistest"
)

func refuses(t *testing.T, url string, opts Options, want error, words ...string) {
	t.Helper()
	opts.URL = url
	s, err := Open(t.Context(), opts)
	if err == nil {
		_ = s.Close()
	}
	if !errors.Is(err, want) {
		t.Errorf("open answers %v, want %v", err, want)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("the error has more than one line: %q", err)
	}
}

func TestAServerWhoseSettingsDoNotDoIsRefused(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for _, policy := range []string{"allkeys-lru", "volatile-ttl", "allkeys-random"} {
		server.Must("CONFIG", "SET", "maxmemory-policy", policy)
		refuses(t, server.URL(), Options{}, ErrSettings, policy, "noeviction")
	}
	if n := server.Must("DBSIZE"); n != "0" {
		t.Errorf("the server has %s keys", n)
	}
	server.Must("CONFIG", "SET", "maxmemory-policy", "noeviction")
	mustOpen(t, server.URL(), Options{})
}

// about is a fake server that only tells about itself.
func about(t *testing.T, info string) string {
	return redistest.Fake(t, func(command []string) string {
		switch strings.ToUpper(command[0]) {
		case "INFO":
			return redistest.Bulk(info)
		case "HELLO", "CLIENT":
			return "-ERR unknown command\r\n"
		}
		return "+OK\r\n"
	})
}

func TestAServerThatIsTooOldLoadingOrAReplicaIsRefused(t *testing.T) {
	t.Parallel()
	refuses(t, about(t, "redis_version:6.2.14\r\nrole:master\r\n"), Options{}, ErrSettings, "6.2.14", "7.0")
	refuses(t, about(t, "role:master\r\n"), Options{}, ErrSettings, "7.0")
	refuses(t, about(t, "redis_version:7.0.0\r\nrole:master\r\nloading:1\r\nloading_eta_seconds:12\r\n"), Options{}, broker.ErrUnavailable, "12 s")
	group := redistest.StartReplicas(t, 1)
	refuses(t, group.Servers[1].URL(), Options{}, broker.ErrReadOnly, "replica", fmt.Sprint(group.Servers[0].Port))
}

func TestAServerThatIsNotThereOrNoRedisIsUnavailable(t *testing.T) {
	t.Parallel()
	refuses(t, "redis://127.0.0.1:1", Options{}, broker.ErrUnavailable, "127.0.0.1:1")
	refuses(t, "unix:///no/such/socket", Options{}, broker.ErrUnavailable, "/no/such/socket")
	begin := clock.System.Now()
	hangs := redistest.Fake(t, func([]string) string { <-t.Context().Done(); return "" })
	refuses(t, hangs, Options{Timeout: 100 * time.Millisecond}, broker.ErrUnavailable)
	if d := clock.System.Now().Sub(begin); d > 5*time.Second {
		t.Errorf("it took %s to notice that a server does not answer", d)
	}
}

func TestAUserWhoMayNotDoWhatIsNeededIsRefused(t *testing.T) {
	t.Parallel()
	server := redistest.StartTCP(t)
	url := func(user string) string { return fmt.Sprintf("redis://%s:secret@%s", user, server.Addr()) }
	server.Must("ACL", "SETUSER", "nobody", "on", ">other", "~*", "+@all")
	refuses(t, url("nobody"), Options{}, broker.ErrAccess, "password")
	server.Must("ACL", "SETUSER", "few", "on", ">secret", "~*", "+@all", "-xadd", "-zrem")
	refuses(t, url("few"), Options{}, broker.ErrAccess, `"few"`, "xadd, zrem", "+xadd +zrem")
	server.Must("ACL", "SETUSER", "elsewhere", "on", ">secret", "~other:*", "+@all")
	refuses(t, url("elsewhere"), Options{}, broker.ErrAccess, `"elsewhere"`, "~ripstop:* ~{ripstop:*")
	server.Must("ACL", "SETUSER", "blind", "on", ">secret", "~*", "+@all", "-info")
	refuses(t, url("blind"), Options{}, broker.ErrAccess, "ACL")
	if n := server.Must("DBSIZE"); n != "0" {
		t.Errorf("the server has %s keys", n)
	}
}

// user makes a user who may do what is asked for and nothing else.
func user(server *redistest.Server, prefix string) {
	server.Must(append([]string{"ACL", "SETUSER", "ripstop", "on", ">secret", "resetkeys"}, Rights(prefix)...)...)
}

func TestTheRightsThatAreAskedForAreEnough(t *testing.T) {
	t.Parallel()
	server := redistest.StartTCP(t)
	user(server, "ripstop")
	s := mustOpen(t, fmt.Sprintf("redis://ripstop:secret@%s", server.Addr()), Options{})
	everyContract(t, s)
	if d := s.Durability()[0]; d.Level != LevelNone {
		t.Errorf("the level is %s", d.Level)
	}
	server.Must("ACL", "SETUSER", "ripstop", "-config|get")
	server.Must("CONFIG", "SET", "appendonly", "yes")
	s = mustOpen(t, fmt.Sprintf("redis://ripstop:secret@%s", server.Addr()), Options{})
	if d := s.Durability()[0]; d.Level != LevelUnknown || !strings.Contains(d.String(), "+config|get") {
		t.Errorf("without CONFIG GET, the durability is %+v", d)
	}
}

// everyContract does something with each of the contracts.
func everyContract(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, at, err := s.Records().List(ctx, broker.Range{})
	must(err)
	_, err = s.Records().Commit(ctx, broker.Commit{Writes: []broker.Write{{Key: "k", Value: []byte("v")}}})
	must(err)
	for _, err := range s.Records().Watch(ctx, "", at) {
		must(err)
		break
	}
	_, err = s.Records().Commit(ctx, broker.Commit{Writes: []broker.Write{{Key: "k", Delete: true}}})
	must(err)
	blob, err := s.Blobs().Put(ctx, strings.NewReader("blob"))
	must(err)
	r, err := s.Blobs().Open(ctx, blob.Digest)
	must(err)
	must(r.Close())
	_, err = s.Blobs().Put(ctx, strings.NewReader("blob"))
	must(err)
	_, err = s.Blobs().Sweep(ctx, 0, func(broker.Digest) bool { return false })
	must(err)
	_, err = s.Buckets().Put(ctx, "b", "k", []byte("v"), broker.PutOptions{})
	must(err)
	_, err = s.Buckets().Names(ctx, "")
	must(err)
	_, err = s.Buckets().List(ctx, "b", "", "", 0)
	must(err)
	must(s.Buckets().Delete(ctx, "b", "k", nil))
	must(s.Buckets().Drop(ctx, "b"))
	hold, err := s.Leases().Acquire(ctx, "name", "holder", time.Minute)
	must(err)
	_, err = s.Leases().Renew(ctx, hold)
	must(err)
	must(s.Leases().Release(ctx, hold))
	job := broker.Job{Entitlement: "default", Name: "job"}
	want := broker.Want{Worker: "w", Jobs: []broker.Job{job}, Max: 1, TTL: time.Minute}
	_, err = s.Queue().Enqueue(ctx, broker.Batch{Job: job, Invocations: []broker.Invocation{{ID: "i", Key: "k", Order: "o", Payload: []byte("p"), Callback: &broker.Callback{}}}})
	must(err)
	must(s.Queue().Wait(ctx, want))
	ls, err := s.Queue().Lease(ctx, want)
	must(err)
	_, err = s.Queue().Extend(ctx, ls...)
	must(err)
	must(s.Queue().Complete(ctx, ls[0], broker.Result{Outcome: broker.OutcomeDead, Payload: []byte("r"), Reason: "because"}))
	_, err = s.Queue().Counts(ctx, job)
	must(err)
	_, err = s.Queue().Letters(ctx, job, "", 0)
	must(err)
	must(s.Queue().Requeue(ctx, job, "i"))
	must(s.Queue().Purge(ctx, job))
}

func TestContractsMayHaveServersOfTheirOwn(t *testing.T) {
	t.Parallel()
	a, b := redistest.Start(t, "appendonly yes", "appendfsync always"), redistest.Start(t)
	s := mustOpen(t, a.URL(), Options{Blobs: b.URL(), Buckets: b.URL()})
	everyContract(t, s)
	d := s.Durability()
	if len(d) != 2 || fmt.Sprint(d[0].Contracts, d[0].Level, d[1].Contracts, d[1].Level) != "[records leases queue]always[blobs buckets]none" {
		t.Errorf("durability is %+q", d)
	}
	refuses(t, b.URL(), Options{Incarnation: "another"}, broker.ErrIncarnation, s.Incarnation())
	// A server of another store is not taken for one of this.
	c := redistest.Start(t)
	mustOpen(t, c.URL(), Options{})
	refuses(t, a.URL(), Options{Buckets: c.URL()}, broker.ErrIncarnation)
}

func TestAStoreOfANewerVersionIsRefused(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := mustOpen(t, server.URL(), Options{})
	if _, err := s.Queue().Enqueue(t.Context(), broker.Batch{Job: broker.Job{Entitlement: "e", Name: "n"}, Invocations: []broker.Invocation{{ID: "i"}}}); err != nil {
		t.Fatal(err)
	}
	server.Must("EVAL", `redis.call('HSET', KEYS[1], 'i', cmsgpack.pack({2, 'w'}))`, "1", "{ripstop:queue:e/n}:items")
	want := broker.Want{Worker: "w", Jobs: []broker.Job{{Entitlement: "e", Name: "n"}}, Max: 1, TTL: time.Minute}
	if _, err := s.Queue().Lease(t.Context(), want); !errors.Is(err, broker.ErrNewer) {
		t.Errorf("leasing a document of a newer schema answers %v", err)
	}
	server.Must("SET", "ripstop:identity", "2-"+s.Incarnation())
	if _, err := s.Records().Get(t.Context(), "k"); !errors.Is(err, broker.ErrNewer) {
		t.Errorf("reading a store of a newer schema answers %v", err)
	}
	refuses(t, server.URL(), Options{}, broker.ErrNewer, "schema is \"2\"", "newer version")
}

func TestAServerThatPromisesLessThanIsAskedForIsRefused(t *testing.T) {
	t.Parallel()
	server := redistest.StartTCP(t)
	for _, c := range []struct {
		settings []string // name, value
		opts     Options
		words    []string // of the refusal; none: it does
	}{
		{nil, Options{Require: LevelNone}, nil},
		{nil, Options{Require: LevelSystem}, []string{"appendonly is no", "set appendonly to yes and appendfsync to no", "durability none"}},
		{nil, Options{Require: LevelAlways}, []string{"appendonly to yes and appendfsync to always"}},
		{[]string{"appendonly", "yes", "appendfsync", "everysec"}, Options{Require: LevelSecond}, nil},
		{nil, Options{Require: LevelAlways}, []string{"appendfsync is everysec", "set appendfsync to always", "durability second"}},
		{[]string{"appendfsync", "no"}, Options{Require: LevelSystem}, nil},
		{nil, Options{Require: LevelSecond}, []string{"appendfsync is no", "set appendfsync to everysec", "durability system"}},
		{[]string{"appendfsync", "always"}, Options{Require: LevelAlways}, nil},
		{nil, Options{Require: LevelAlways, Replicas: 2}, []string{"min-replicas-to-write is 0", "set it to 2"}},
	} {
		if len(c.settings) > 0 {
			server.Must(append([]string{"CONFIG", "SET"}, c.settings...)...)
		}
		if len(c.words) > 0 {
			refuses(t, server.URL(), c.opts, ErrSettings, append(c.words, "nothing was changed")...)
			continue
		}
		c.opts.Prefix = fmt.Sprintf("test%d", prefixes.Add(1))
		mustOpen(t, server.URL(), c.opts)
	}
	user(server, "ripstop")
	server.Must("ACL", "SETUSER", "ripstop", "-config|get")
	url := fmt.Sprintf("redis://ripstop:secret@%s", server.Addr())
	refuses(t, url, Options{Require: LevelSystem}, ErrSettings, "+config|get", "durability none")
	mustOpen(t, url, Options{Require: LevelNone})
}

func TestAServerIsWrittenToOnceAllDo(t *testing.T) {
	t.Parallel()
	good, bad := redistest.Start(t, "appendonly yes", "appendfsync always"), redistest.Start(t)
	refuses(t, good.URL(), Options{Buckets: bad.URL(), Require: LevelAlways}, ErrSettings, "appendonly is no")
	if n := good.Must("DBSIZE"); n != "0" {
		t.Errorf("the server that would do has %s keys", n)
	}
}

func TestPrefixesOfAURLKeepStoresApart(t *testing.T) {
	t.Parallel()
	server := redistest.StartTCP(t)
	a, b := mustOpen(t, server.URL()+"?prefix=a", Options{}), mustOpen(t, server.URL()+"?prefix=b", Options{})
	everyContract(t, a)
	if a.Incarnation() == b.Incarnation() {
		t.Error("two prefixes are one store")
	}
	if at, err := b.records.number(t.Context()); err != nil || at != 0 {
		t.Errorf("the other store is at %d, %v", at, err)
	}
}

func TestBadOptionsAreNamedTogether(t *testing.T) {
	t.Parallel()
	_, err := Open(t.Context(), Options{URL: "redis://localhost", Prefix: "a{b", Timeout: 1, Replicas: -1, Require: "most"})
	if !errors.Is(err, broker.ErrInvalid) {
		t.Fatalf("open answers %v", err)
	}
	for _, word := range []string{"a{b", "1ns", "-1 replicas", "most"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not name %s: %v", word, err)
		}
	}
	refuses(t, "rediss://localhost?ca=/no/such/file", Options{}, fs.ErrNotExist)
	refuses(t, "", Options{}, broker.ErrInvalid, "redis://")
}
