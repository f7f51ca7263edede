package control

import (
	"context"
	"errors"
	"iter"
	"sync"
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
)

// awayRecords fail with an error while there is one.
type awayRecords struct {
	broker.Records
	mu    sync.Mutex
	err   error
	asked chan struct{} // gets a value when a call has failed
}

func (r *awayRecords) set(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *awayRecords) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		select {
		case r.asked <- struct{}{}:
		default:
		}
	}
	return r.err
}

func (r *awayRecords) Get(ctx context.Context, key string) (broker.Record, error) {
	if err := r.failed(); err != nil {
		return broker.Record{}, err
	}
	return r.Records.Get(ctx, key)
}

func (r *awayRecords) List(ctx context.Context, in broker.Range) ([]broker.Record, broker.Revision, error) {
	if err := r.failed(); err != nil {
		return nil, broker.Revision{}, err
	}
	return r.Records.List(ctx, in)
}

func (r *awayRecords) Commit(ctx context.Context, c broker.Commit) (broker.Revision, error) {
	if err := r.failed(); err != nil {
		return broker.Revision{}, err
	}
	return r.Records.Commit(ctx, c)
}

func (r *awayRecords) Watch(ctx context.Context, prefix string, from broker.Revision) iter.Seq2[broker.Event, error] {
	if err := r.failed(); err != nil {
		return func(yield func(broker.Event, error) bool) { yield(broker.Event{}, err) }
	}
	return r.Records.Watch(ctx, prefix, from)
}

// awayWorld is a store whose records can be away.
func awayWorld(t *testing.T) (*world, *awayRecords) {
	w := newWorld(t)
	r := &awayRecords{Records: w.broker.Records(), asked: make(chan struct{}, 1)}
	s, err := New(r, w.broker.Blobs(), w.broker.Buckets(), w.broker.Queue(), w.runner, w.opts)
	if err != nil {
		t.Fatal(err)
	}
	w.Store = s
	return w, r
}

func TestWhatIsServedGoesOnWhileTheStoreCannotBeRead(t *testing.T) {
	for _, away := range []error{broker.ErrUnavailable, broker.ErrIncarnation, broker.ErrCorrupt} {
		w, r := awayWorld(t)
		w.deploy("a", "1", nil)
		first := w.WatchAssignments(t.Context(), 0)
		if c := <-first; !c.Reset || len(c.All) != 1 {
			t.Fatalf("the first change is %+v", c)
		}
		w.deploy("b", "1", nil)
		<-first
		if err := w.Remove(t.Context(), "ann", "a"); err != nil {
			t.Fatal(err)
		}
		<-first
		r.set(away)
		if _, _, err := w.Deploy(t.Context(), "ann", "c", nil, nil); !errors.Is(err, away) {
			t.Errorf("a deploy answers %v", err)
		}
		second := w.WatchAssignments(t.Context(), 0) // as of a worker that was started anew
		if c := <-second; !c.Reset || len(c.All) != 1 || c.All[0].Job != "b" {
			t.Errorf("%v: a new worker is told %+v", away, c)
		}
		<-r.asked
		r.set(nil)
		done := make(chan struct{})
		go func() { // until the watcher has asked again
			defer close(done)
			if c := <-second; !c.Reset || len(c.All) != 1 || c.All[0].Job != "b" {
				t.Errorf("%v: once the store is back comes %+v", away, c)
			}
		}()
		for back := false; !back; {
			select {
			case <-done:
				back = true
			default:
				w.clock.Advance(watchRetry)
			}
		}
		w.deploy("d", "1", nil)
		if c := <-second; c.Job != "d" || c.Assignment == nil {
			t.Errorf("%v: after a deploy comes %+v", away, c)
		}
	}
}

func TestATokenIsKnownWhileTheStoreIsAway(t *testing.T) {
	w, r := awayWorld(t)
	all := Scope{Verbs: []Verb{VerbAdmin}}
	_, kept, err := w.CreateToken(t.Context(), "ann", "kept", 0, all)
	if err != nil {
		t.Fatal(err)
	}
	_, revoked, err := w.CreateToken(t.Context(), "ann", "revoked", 0, all)
	if err != nil {
		t.Fatal(err)
	}
	_, short, err := w.CreateToken(t.Context(), "ann", "short", watchRetry, all)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.RevokeToken(t.Context(), "ann", "revoked"); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(watchRetry)
	r.set(broker.ErrIncarnation)
	if got, err := w.Authenticate(t.Context(), kept); err != nil || got.Name != "kept" {
		t.Errorf("a token that there was answers %+v, %v", got, err)
	}
	for name, secret := range map[string]string{"revoked": revoked, "expired": short} {
		if _, err := w.Authenticate(t.Context(), secret); err == nil {
			t.Errorf("the %s token is taken", name)
		}
	}
	r.set(broker.ErrCorrupt)
	if _, err := w.Authenticate(t.Context(), kept); !errors.Is(err, broker.ErrCorrupt) {
		t.Errorf("another failure answers %v", err)
	}
}

func TestAProblemSaysWhatIsWrongWithTheStorage(t *testing.T) {
	w, r := awayWorld(t)
	for cause, want := range map[error]string{broker.ErrUnavailable: "storage-unavailable", broker.ErrIncarnation: "storage-replaced", broker.ErrRewound: "storage-rewound", broker.ErrAccess: "storage-denied"} {
		r.set(cause)
		_, err := w.Jobs(t.Context())
		if p := StorageProblem(err); p == nil || p.Code != want || p.Status != 503 || p.Detail != err.Error() {
			t.Errorf("%v is %+v", cause, p)
		}
	}
	if p := StorageProblem(errors.New("x")); p != nil {
		t.Errorf("any error is %+v", p)
	}
}
