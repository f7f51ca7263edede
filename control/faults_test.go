package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/wire"
)

// failing is records whose commits fail with an error, before or after they took effect.
type failing struct {
	broker.Records
	err   error
	after bool
}

func (f *failing) Commit(ctx context.Context, c broker.Commit) (broker.Revision, error) {
	if f.err == nil {
		return f.Records.Commit(ctx, c)
	}
	if f.after {
		_, _ = f.Records.Commit(ctx, c)
	}
	return broker.Revision{}, f.err
}

func TestAFullOrReadOnlyDiskIsAProblemThatSaysSo(t *testing.T) {
	for code, cause := range map[string]error{"storage-full": broker.ErrFull, "storage-read-only": broker.ErrReadOnly} {
		w := newWorld(t)
		w.deploy("a", "1", nil)
		w.records = &failing{Records: w.records, err: fmt.Errorf("write records.db: %w: do this", cause)}
		_, _, err := w.Deploy(t.Context(), "ann", "a", strings.NewReader("2"), nil)
		wantProblem(t, err, 507, code, "records.db", "do this")
		if !errors.Is(err, cause) {
			t.Errorf("%v is not %v", err, cause)
		}
		wantProblem(t, w.SetSecret(t.Context(), "ann", "a", "KEY", nil), 507, code)
		wantProblem(t, w.Remove(t.Context(), "ann", "a"), 507, code)
		if j, _, err := w.Job(t.Context(), "a"); err != nil || j.Current != 1 {
			t.Errorf("the job is %+v, %v", j, err)
		}
	}
}

func TestALostAnswerLeavesAWholeChange(t *testing.T) {
	w := newWorld(t)
	lost := errors.New("the connection broke")
	f := &failing{Records: w.records, err: lost, after: true}
	w.records = f
	if _, _, err := w.Deploy(t.Context(), "ann", "a", strings.NewReader("1"), nil); !errors.Is(err, lost) {
		t.Errorf("Deploy answers %v", err)
	}
	f.err = nil
	if j, v, err := w.Job(t.Context(), "a"); err != nil || j.Current != 1 || v.Number != 1 {
		t.Errorf("the job is %+v, %v", j, err)
	}
	if j, _ := w.deploy("a", "2", nil); j.Current != 2 {
		t.Errorf("the next deploy makes %+v", j)
	}
}

func TestAJobThatAnotherProcessChangedIsAConflict(t *testing.T) {
	w := newWorld(t)
	w.deploy("a", "1", nil)
	other, err := New(w.records, w.blobs, w.buckets, w.queue, &stand{}, w.opts)
	if err != nil {
		t.Fatal(err)
	}
	w.runner.preparing = func(wire.Assignment) {
		w.runner.mu.Lock()
		w.runner.preparing = nil
		w.runner.mu.Unlock()
		if _, _, err := other.Deploy(t.Context(), "bob", "a", strings.NewReader("2"), nil); err != nil {
			t.Error(err)
		}
	}
	_, _, err = w.Deploy(t.Context(), "ann", "a", strings.NewReader("3"), nil)
	wantProblem(t, err, 409, "job-changed", "a")
	if _, v, err := w.Job(t.Context(), "a"); err != nil || v.By != "bob" || v.Number != 2 {
		t.Errorf("the version is %+v, %v", v, err)
	}
}

func TestAnUploadThatBreaksOffLeavesNothing(t *testing.T) {
	w := newWorld(t)
	r, pipe := io.Pipe()
	go func() {
		_, _ = pipe.Write([]byte("half a module"))
		_ = pipe.CloseWithError(io.ErrUnexpectedEOF)
	}()
	if _, _, err := w.Deploy(t.Context(), "ann", "a", r, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Deploy answers %v", err)
	}
	if n := countBlobs(t, w); n != 0 {
		t.Errorf("%d blobs are left", n)
	}
}

func TestADocumentOfANewerProgramIsRefused(t *testing.T) {
	w := newWorld(t)
	_, err := w.records.Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: jobKey("a"), Value: []byte(`{"schema":2,"name":"a"}`)}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Job(t.Context(), "a"); !errors.Is(err, broker.ErrNewer) {
		t.Errorf("Job answers %v", err)
	}
	if _, err := w.Sweep(t.Context()); !errors.Is(err, broker.ErrNewer) {
		t.Errorf("Sweep answers %v", err)
	}
}
