package remote

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/remote/protocol"
)

var _ broker.Records = (*Records)(nil)

// Records are the broker's records.
type Records struct{ c *Client }

// Get implements broker.Records.
func (r *Records) Get(ctx context.Context, key string) (broker.Record, error) {
	rep, err := r.c.ask(ctx, protocol.RecordsGet, &protocol.Call{Key: key})
	if err != nil {
		return broker.Record{}, err
	}
	if len(rep.Records) != 1 {
		return broker.Record{}, short("get")
	}
	return rep.Records[0], nil
}

// short says that an answer lacks something that it has to have.
func short(what string) error {
	return fmt.Errorf("%s: the answer lacks what was asked for: %w", what, broker.ErrInvalid)
}

// List implements broker.Records.
func (r *Records) List(ctx context.Context, in broker.Range) (list []broker.Record, at broker.Revision, err error) {
	for range tries {
		list, at, err = r.list(ctx, in)
		if !errors.Is(err, broker.ErrUnavailable) {
			break
		}
	}
	return list, at, err
}

func (r *Records) list(ctx context.Context, in broker.Range) ([]broker.Record, broker.Revision, error) {
	s, err := r.c.open(ctx, protocol.RecordsList, &protocol.Call{Range: in}, nil)
	if err != nil {
		return nil, broker.Revision{}, err
	}
	defer s.close()
	var list []broker.Record
	for {
		rep, err := s.read()
		if err != nil {
			return nil, broker.Revision{}, err
		}
		list = append(list, rep.Records...)
		if rep.End {
			return list, rep.Revision, nil
		}
	}
}

// Commit implements broker.Records.
func (r *Records) Commit(ctx context.Context, c broker.Commit) (broker.Revision, error) {
	if err := c.Check(); err != nil { // what is too large is not sent
		return broker.Revision{}, fmt.Errorf("commit: %w", err)
	}
	rep, err := r.c.call(ctx, protocol.RecordsCommit, &protocol.Call{Commit: c})
	return rep.Revision, err
}

// Watch implements broker.Records. When the connection breaks it goes on from the last event, with this control process or another.
func (r *Records) Watch(ctx context.Context, prefix string, from broker.Revision) iter.Seq2[broker.Event, error] {
	return func(yield func(broker.Event, error) bool) {
		failures := 0
		for {
			err := r.follow(ctx, prefix, from, func(e broker.Event) bool {
				failures, from = 0, e.Revision
				return yield(e, nil)
			})
			if err == nil {
				return
			}
			if !errors.Is(err, broker.ErrUnavailable) {
				yield(broker.Event{}, err)
				return
			}
			failures++
			pause(ctx, failures)
			r.c.next()
		}
	}
}

// follow hands on events until handle answers false, and then answers nil.
func (r *Records) follow(ctx context.Context, prefix string, from broker.Revision, handle func(broker.Event) bool) error {
	s, err := r.c.open(ctx, protocol.RecordsWatch, &protocol.Call{Range: broker.Range{Prefix: prefix}, From: from}, nil)
	if err != nil {
		return err
	}
	defer s.close()
	for {
		rep, err := s.read()
		switch {
		case err != nil:
			return err
		case rep.End:
			return short("watch")
		case rep.Event != nil && !handle(*rep.Event):
			return nil
		}
	}
}
