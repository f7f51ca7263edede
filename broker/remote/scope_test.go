package remote_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote"
	"github.com/ripstop-vm/ripstop/broker/remote/remotetest"
	"github.com/ripstop-vm/ripstop/broker/remote/server"
	"github.com/ripstop-vm/ripstop/control/keys"
	"github.com/ripstop-vm/ripstop/control/scope"
	"github.com/ripstop-vm/ripstop/internal/identity"
)

// scoped is a cluster with two hosts, each with a job of its own, and a client of each. What belongs to a job says so.
type scoped struct {
	server.Parts
	cluster *remotetest.Cluster
	policy  *scope.Policy
	clients map[string]*remote.Client
	modules map[string]broker.Digest
}

func jobOf(host string) broker.Job {
	return broker.Job{Entitlement: broker.DefaultEntitlement, Name: "job-" + host}
}

func newScoped(t *testing.T) *scoped {
	s := &scoped{Parts: modelParts(nil), clients: map[string]*remote.Client{}, modules: map[string]broker.Digest{}}
	s.policy = scope.New(s.Records, 1000, remotetest.Quiet)
	s.cluster = remotetest.Start(t, s.Parts, server.Options{Policy: s.policy})
	put := func(key, value string) {
		if _, err := s.Records.Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: key, Value: []byte(value)}}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range []string{"a", "ab"} {
		blob, err := s.Blobs.Put(t.Context(), strings.NewReader("module of "+h))
		if err != nil {
			t.Fatal(err)
		}
		s.modules[h] = blob.Digest
		s.assign(t, h, h)
		put(keys.SecretsOf(jobOf(h))+"s", "of "+h)
		put(keys.Status(h), "of "+h)
		put(keys.Jobs("default")+"job-"+h, "of "+h)
		if _, err := s.Queue.Enqueue(t.Context(), broker.Batch{Job: jobOf(h), Invocations: []broker.Invocation{{ID: "i", Payload: []byte("of " + h)}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Buckets.Put(t.Context(), keys.Bucket("default", "id-"+h, "kv"), "k", []byte("of "+h), broker.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Leases.Acquire(t.Context(), keys.HostLease(h), "of "+h, time.Hour); err != nil {
			t.Fatal(err)
		}
		s.clients[h] = s.cluster.Client(identity.Identity{Role: identity.Host, ID: h})
	}
	put(keys.Routes+"x", "of gateways")
	put(keys.Authority, "of control")
	return s
}

func (s *scoped) assign(t *testing.T, host, job string) {
	value, err := json.Marshal(scope.Assignment{Schema: 1, Entitlement: "default", Job: jobOf(job).Name, ID: "id-" + job, Module: s.modules[job]})
	if err == nil {
		_, err = s.Records.Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: keys.Assignment(host, jobOf(job)), Value: value}}})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestAHostDoesItsWork(t *testing.T) {
	s := newScoped(t)
	c, ctx := s.clients["a"], t.Context()
	list, from, err := c.Records().List(ctx, broker.Range{Prefix: keys.AssignmentsOf("a")})
	if err != nil || len(list) != 1 {
		t.Fatalf("its assignments are %+v, %v", list, err)
	}
	if rec, err := c.Records().Get(ctx, keys.SecretsOf(jobOf("a"))+"s"); err != nil || string(rec.Value) != "of a" {
		t.Errorf("its job's secret is %+v, %v", rec, err)
	}
	r, err := c.Blobs().Open(ctx, s.modules["a"])
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(r); err != nil || string(b) != "module of a" {
		t.Errorf("its module is %q, %v", b, err)
	}
	rec, err := c.Records().Get(ctx, keys.Status("a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Records().Commit(ctx, broker.Commit{Conditions: []broker.Condition{{Key: rec.Key, Revision: rec.Revision}}, Writes: []broker.Write{{Key: rec.Key, Value: []byte("ready")}}}); err != nil {
		t.Errorf("its status: %v", err)
	}
	if err := c.Queue().Wait(ctx, broker.Want{Worker: "a/1", Jobs: []broker.Job{jobOf("a")}, Max: 1, TTL: time.Minute}); err != nil {
		t.Error(err)
	}
	ls, err := c.Queue().Lease(ctx, broker.Want{Worker: "somebody", Jobs: []broker.Job{jobOf("a")}, Max: 1, TTL: time.Minute})
	if err != nil || len(ls) != 1 || string(ls[0].Payload) != "of a" {
		t.Fatalf("its work is %+v, %v", ls, err)
	}
	if st, err := s.Queue.Status(ctx, jobOf("a"), "i"); err != nil || st.Worker != "a/somebody" {
		t.Errorf("the worker is %+v, %v", st, err)
	}
	// A lease is good for who got it only, even for a host that has the same job.
	s.assign(t, "ab", "a")
	if err := s.clients["ab"].Queue().Complete(ctx, ls[0], broker.Result{Outcome: broker.OutcomeDone}); !errors.Is(err, broker.ErrLeaseLost) {
		t.Errorf("another host's lease: %v", err)
	}
	raw := ls[0]
	raw.Token, _, _ = strings.Cut(raw.Token, ".")
	if err := s.clients["ab"].Queue().Complete(ctx, raw, broker.Result{Outcome: broker.OutcomeDone}); !errors.Is(err, broker.ErrLeaseLost) {
		t.Errorf("a token that is not bound: %v", err)
	}
	if ls, err = c.Queue().Extend(ctx, ls...); err != nil || len(ls) != 1 || string(ls[0].Payload) != "of a" {
		t.Fatalf("extended, it is %+v, %v", ls, err)
	}
	if err := c.Queue().Complete(ctx, ls[0], broker.Result{Outcome: broker.OutcomeDone}); err != nil {
		t.Error(err)
	}
	bucket := keys.Bucket("default", "id-a", "kv")
	if it, err := c.Buckets().Get(ctx, bucket, "k"); err != nil || string(it.Value) != "of a" {
		t.Errorf("its bucket: %+v, %v", it, err)
	}
	if _, err := c.Buckets().Put(ctx, bucket, "big", make([]byte, 1000), broker.PutOptions{Quota: 1 << 40}); !errors.Is(err, broker.ErrQuota) {
		t.Errorf("a quota of its own choice: %v", err)
	}
	if _, err := c.Leases().Acquire(ctx, keys.HostLeases("a")+"x", "a", time.Minute); err != nil {
		t.Error(err)
	}
	s.assign(t, "a", "ab")
	for e, err := range c.Records().Watch(ctx, keys.AssignmentsOf("a"), from) {
		if err != nil || e.Changes[0].Key != keys.Assignment("a", jobOf("ab")) {
			t.Errorf("it is told of %+v, %v", e, err)
		}
		break
	}
	if rec, err := c.Records().Get(ctx, keys.SecretsOf(jobOf("ab"))+"s"); err != nil || string(rec.Value) != "of ab" {
		t.Errorf("assigned another job, it gets %+v, %v", rec, err)
	}
}

// Whatever a host asks for by a name that is, or might be, somebody else's is answered alike: that it has no access.
func TestAHostLearnsNothingOfWhatIsNotItsOwn(t *testing.T) {
	s := newScoped(t)
	c, ctx := s.clients["a"], t.Context()
	theirs := jobOf("ab")
	unknown := broker.Job{Entitlement: "default", Name: "nothing"}
	nowhere := broker.Digest(strings.Repeat("0", 64))
	lease := broker.Lease{Job: theirs, Lane: broker.LaneRun, Invocation: broker.Invocation{ID: "i"}, Token: "1", TTL: time.Minute}
	ls, err := s.clients["ab"].Queue().Lease(ctx, broker.Want{Worker: "w", Jobs: []broker.Job{theirs}, Max: 1, TTL: time.Minute})
	if err != nil || len(ls) != 1 {
		t.Fatal(ls, err)
	}
	first := func(prefix string) error {
		_, from, _ := s.Records.List(ctx, broker.Range{})
		for _, err := range c.Records().Watch(ctx, prefix, from) {
			return err
		}
		return nil
	}
	own := broker.Write{Key: keys.Status("a"), Value: []byte("x")}
	list := func(r broker.Range) error { _, _, err := c.Records().List(ctx, r); return err }
	record := func(key string) error { _, err := c.Records().Get(ctx, key); return err }
	commit := func(q []broker.Condition, ws ...broker.Write) error {
		_, err := c.Records().Commit(ctx, broker.Commit{Conditions: q, Writes: ws})
		return err
	}
	for name, call := range map[string]func() error{
		"a secret":                       func() error { return record(keys.SecretsOf(theirs) + "s") },
		"a secret that is not there":     func() error { return record(keys.SecretsOf(theirs) + "none") },
		"the authority":                  func() error { return record(keys.Authority) },
		"all":                            func() error { return list(broker.Range{}) },
		"all after its own":              func() error { return list(broker.Range{After: keys.AssignmentsOf("a")}) },
		"a prefix of two hosts":          func() error { return list(broker.Range{Prefix: keys.Assignments + "a"}) },
		"a watch of all":                 func() error { return first("") },
		"a watch of another's":           func() error { return first(keys.AssignmentsOf("ab")) },
		"a condition that holds":         func() error { return commit([]broker.Condition{{Key: keys.SecretsOf(theirs) + "none"}}, own) },
		"a condition that does not hold": func() error { return commit([]broker.Condition{{Key: keys.SecretsOf(theirs) + "s"}}, own) },
		"another's status":               func() error { return commit(nil, own, broker.Write{Key: keys.Status("ab")}) },
		"an assignment of its own making": func() error {
			return commit(nil, broker.Write{Key: keys.Assignment("a", theirs), Value: []byte("{}")})
		},
		"another's name":    func() error { _, err := c.Leases().Holders(ctx, keys.HostLease("ab")); return err },
		"the leader's name": func() error { _, err := c.Leases().Acquire(ctx, "leader", "a", time.Minute); return err },
		"another's hold": func() error {
			_, err := c.Leases().Renew(ctx, broker.Hold{Name: keys.HostLease("ab"), Holder: "a", Epoch: 1, TTL: time.Minute})
			return err
		},
		"releasing another's": func() error { return c.Leases().Release(ctx, broker.Hold{Name: keys.HostLease("ab"), Epoch: 1}) },
		"a module":            func() error { _, err := c.Blobs().Stat(ctx, s.modules["ab"]); return err },
		"a module to read":    func() error { _, err := c.Blobs().Open(ctx, s.modules["ab"]); return err },
		"no module":           func() error { _, err := c.Blobs().Stat(ctx, nowhere); return err },
		"all modules": func() error {
			for _, err := range c.Blobs().List(ctx) {
				return err
			}
			return nil
		},
		"storing":  func() error { _, err := c.Blobs().Put(ctx, strings.NewReader("x")); return err },
		"sweeping": func() error { _, err := c.Blobs().Sweep(ctx, 0, func(broker.Digest) bool { return false }); return err },
		"another's work": func() error {
			w := want()
			w.Jobs = []broker.Job{jobOf("a"), theirs}
			_, err := c.Queue().Lease(ctx, w)
			return err
		},
		"no job's work": func() error {
			w := want()
			w.Jobs = []broker.Job{unknown}
			_, err := c.Queue().Lease(ctx, w)
			return err
		},
		"waiting":         func() error { w := want(); w.Jobs = []broker.Job{theirs}; return c.Queue().Wait(ctx, w) },
		"another's lease": func() error { return c.Queue().Complete(ctx, ls[0], broker.Result{Outcome: broker.OutcomeDone}) },
		"a guessed lease": func() error { _, err := c.Queue().Extend(ctx, lease); return err },
		"giving back":     func() error { return c.Queue().Release(ctx, ls[0], broker.Return{}) },
		"enqueuing":       func() error { _, err := c.Queue().Enqueue(ctx, broker.Batch{Job: jobOf("a")}); return err },
		"a status":        func() error { _, err := c.Queue().Status(ctx, theirs, "i"); return err },
		"a result":        func() error { _, err := c.Queue().Result(ctx, theirs, "i"); return err },
		"counts":          func() error { _, err := c.Queue().Counts(ctx, theirs); return err },
		"a list":          func() error { _, _, err := c.Queue().List(ctx, theirs, "", 0); return err },
		"cancelling":      func() error { return c.Queue().Cancel(ctx, theirs, "i", "") },
		"letters":         func() error { _, err := c.Queue().Letters(ctx, theirs, "", 0); return err },
		"a letter":        func() error { _, err := c.Queue().Letter(ctx, theirs, "i"); return err },
		"requeuing":       func() error { return c.Queue().Requeue(ctx, theirs, "i") },
		"discarding":      func() error { return c.Queue().Discard(ctx, theirs, "i") },
		"purging":         func() error { return c.Queue().Purge(ctx, theirs) },
		"an item":         func() error { _, err := c.Buckets().Get(ctx, keys.Bucket("default", "id-ab", "kv"), "k"); return err },
		"items": func() error {
			_, err := c.Buckets().List(ctx, keys.Bucket("default", "id-ab", "kv"), "", "", 0)
			return err
		},
		"putting": func() error {
			_, err := c.Buckets().Put(ctx, keys.Bucket("default", "id-ab", "kv"), "k", nil, broker.PutOptions{})
			return err
		},
		"deleting":     func() error { return c.Buckets().Delete(ctx, keys.Bucket("default", "id-ab", "kv"), "k", nil) },
		"usage":        func() error { _, err := c.Buckets().Usage(ctx, keys.Bucket("default", "id-ab", "kv")); return err },
		"bucket names": func() error { _, err := c.Buckets().Names(ctx, ""); return err },
		"dropping":     func() error { return c.Buckets().Drop(ctx, keys.Bucket("default", "id-a", "kv")) },
	} {
		err := call()
		if !errors.Is(err, broker.ErrAccess) || errors.Is(err, broker.ErrNotFound) || errors.Is(err, broker.ErrConflict) || strings.Contains(fmt.Sprint(err), "of ab") {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
	if rec, err := s.Records.Get(ctx, keys.Status("a")); err != nil || string(rec.Value) != "of a" {
		t.Errorf("a commit that was refused left %+v, %v", rec, err)
	}
	g := s.cluster.Client(identity.Identity{Role: identity.Gateway, ID: "g"})
	if l, _, err := g.Records().List(ctx, broker.Range{Prefix: keys.Routes}); err != nil || len(l) != 1 {
		t.Errorf("a gateway's routes are %+v, %v", l, err)
	}
	if _, _, err := g.Records().List(ctx, broker.Range{Prefix: keys.AssignmentsOf("a")}); !errors.Is(err, broker.ErrAccess) {
		t.Errorf("a gateway that asks for assignments: %v", err)
	}
}

// Random reads by cut and mixed names never answer anything of another's.
func TestRandomReadsAnswerNothingOfAnothers(t *testing.T) {
	s := newScoped(t)
	all, _, err := s.Records.List(t.Context(), broker.Range{})
	if err != nil {
		t.Fatal(err)
	}
	c := s.clients["a"]
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		name := rapid.SampledFrom(all).Draw(t, "record").Key
		prefix := name[:rapid.IntRange(0, len(name)).Draw(t, "cut")]
		var got []broker.Record
		if rapid.Bool().Draw(t, "list") {
			got, _, err = c.Records().List(ctx, broker.Range{Prefix: prefix, After: rapid.SampledFrom([]string{"", "a", "status/"}).Draw(t, "after")})
		} else if rec, err := c.Records().Get(ctx, name); err == nil {
			got = append(got, rec)
		}
		for _, r := range got {
			if strings.HasSuffix(string(r.Value), "of ab") || strings.Contains(string(r.Value), "id-ab") || strings.Contains(string(r.Value), "of control") || strings.HasPrefix(r.Key, keys.Routes) {
				t.Fatalf("it is answered %s=%s", r.Key, r.Value)
			}
		}
	})
}

func TestAnAssignmentThatIsTakenAwayEndsWhatItAllowed(t *testing.T) {
	s := newScoped(t)
	ctx := t.Context()
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.policy.Run(run) }()
	defer func() { cancel(); <-done }()
	secrets := keys.SecretsOf(jobOf("a"))
	_, from, err := s.clients["a"].Records().List(ctx, broker.Range{Prefix: secrets})
	if err != nil {
		t.Fatal(err)
	}
	watch := make(chan error, 16)
	go func() {
		for _, err := range s.clients["a"].Records().Watch(ctx, secrets, from) {
			watch <- err
		}
	}()
	put := func(w broker.Write) {
		if _, err := s.Records.Commit(ctx, broker.Commit{Writes: []broker.Write{w}}); err != nil {
			t.Fatal(err)
		}
	}
	put(broker.Write{Key: secrets + "s", Value: []byte("2")})
	if err := <-watch; err != nil {
		t.Fatal(err)
	}
	put(broker.Write{Key: keys.Assignment("a", jobOf("a")), Delete: true})
	for { // until the policy has heard of it
		if _, err = s.clients["a"].Records().Get(ctx, secrets+"s"); err != nil {
			break
		}
	}
	if !errors.Is(err, broker.ErrAccess) {
		t.Errorf("get answers %v", err)
	}
	put(broker.Write{Key: secrets + "s", Value: []byte("3")})
	if err := <-watch; !errors.Is(err, broker.ErrAccess) {
		t.Errorf("the watch goes on with %v", err)
	}
}
