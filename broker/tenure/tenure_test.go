package tenure

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/model"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

var epoch = time.Unix(1e9, 0)

// stage is a store that servers share, whose server can be away.
type stage struct {
	*model.Broker
	t     *testing.T
	clock *clock.Manual

	mu   sync.Mutex
	away bool
}

func newStage(t *testing.T) *stage {
	c := clock.NewManual(epoch)
	return &stage{Broker: model.New(model.Options{Clock: c}), t: t, clock: c}
}

func (s *stage) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *stage) gone() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return broker.ErrUnavailable
	}
	return nil
}

type leases struct {
	broker.Leases
	stage *stage
}

func (l leases) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (broker.Hold, error) {
	if err := l.stage.gone(); err != nil {
		return broker.Hold{}, err
	}
	return l.Leases.Acquire(ctx, name, holder, ttl)
}

func (l leases) Renew(ctx context.Context, holds ...broker.Hold) ([]broker.Hold, error) {
	if err := l.stage.gone(); err != nil {
		return nil, err
	}
	return l.Leases.Renew(ctx, holds...)
}

func (s *stage) open(holder string) *Tenure {
	s.t.Helper()
	t, err := Open(s.t.Context(), Options{Leases: leases{s.Leases(), s}, Records: s.Broker.Records(), Holder: holder, Clock: s.clock})
	if err != nil {
		s.t.Fatal(err)
	}
	return t
}

func write(t *testing.T, tenure *Tenure) error {
	t.Helper()
	_, err := tenure.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "k"}}})
	return err
}

func TestASecondServerIsRefusedAndOneThatCameBackIsNot(t *testing.T) {
	s := newStage(t)
	a := s.open("a")
	refused := make(chan error, 1)
	go func() {
		_, err := Open(t.Context(), Options{Leases: s.Leases(), Records: s.Broker.Records(), Holder: "b", Clock: s.clock})
		refused <- err
	}()
	for len(refused) == 0 { // it looks again and again, and sees that the other one lives
		s.clock.Advance(time.Second)
		a.renew(t.Context())
	}
	if err := <-refused; !errors.Is(err, broker.ErrInUse) || !strings.Contains(err.Error(), "server a has it; stop that one first") {
		t.Errorf("the second server is told %v", err)
	}
	again := s.open("a") // killed and started: the place is its own
	if err := write(t, again); err != nil {
		t.Error(err)
	}
	if err := write(t, a); !errors.Is(err, ErrTaken) {
		t.Errorf("the process before writes: %v", err)
	}
}

func TestAPlaceThatNobodyRenewsIsTaken(t *testing.T) {
	s := newStage(t)
	a := s.open("a")
	done := make(chan *Tenure, 1)
	go func() { done <- s.open("b") }()
	for len(done) == 0 {
		s.clock.Advance(time.Second)
	}
	b := <-done
	b.renew(t.Context()) // the clock may have gone on
	if err := write(t, b); err != nil {
		t.Error(err)
	}
	if err := write(t, a); !errors.Is(err, ErrTaken) {
		t.Errorf("a server that was replaced and does not know it writes: %v", err)
	}
	a.renew(t.Context())
	if err := a.State().Err; !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "b; stop one of the two") {
		t.Errorf("its state is %v", err)
	}
	if err := write(t, a); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("a server that was replaced writes: %v", err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.Retake(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := write(t, a); err != nil {
		t.Errorf("once it is alone again: %v", err)
	}
	if err := write(t, b); !errors.Is(err, ErrTaken) {
		t.Errorf("the one that has ended writes: %v", err)
	}
}

func TestAServerThatWasAwayGoesOn(t *testing.T) {
	s := newStage(t)
	a := s.open("a")
	var told []error
	a.opts.Told = func(err error) { told = append(told, err) }
	s.setAway(true)
	for range 6 { // longer than the tenure lasts
		s.clock.Advance(5 * time.Second)
		a.renew(t.Context())
	}
	if st := a.State(); !errors.Is(st.Err, broker.ErrUnavailable) || !st.Since.Equal(epoch.Add(5*time.Second)) {
		t.Errorf("the state is %+v", st)
	}
	s.setAway(false)
	a.renew(t.Context())
	if st := a.State(); st.Err != nil || !st.Since.Equal(epoch.Add(30*time.Second)) {
		t.Errorf("the state is %+v", st)
	}
	if err := write(t, a); err != nil {
		t.Error(err)
	}
	if len(told) != 2 || !errors.Is(told[0], broker.ErrUnavailable) || told[1] != nil {
		t.Errorf("it told %v", told)
	}
}

func TestAFenceOfANewerProgramOrNoneAtAllIsRefused(t *testing.T) {
	for value, want := range map[string]error{`{"schema":2}`: broker.ErrNewer, `x`: broker.ErrCorrupt} {
		s := newStage(t)
		if _, err := s.Broker.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: fenceKey, Value: []byte(value)}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), Options{Leases: s.Leases(), Records: s.Broker.Records(), Holder: "a", Clock: s.clock}); !errors.Is(err, want) {
			t.Errorf("%s: %v", value, err)
		}
	}
}
