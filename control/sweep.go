package control

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// Run sweeps what nothing refers to, and writes down what the audit log left out, now and then, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	// 10 minutes: space comes back well within a working day, and a sweep reads every job.
	sweep := s.opts.Clock.NewTicker(10 * time.Minute)
	defer sweep.Stop()
	summary := s.opts.Clock.NewTicker(deniedWindow)
	defer summary.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C():
			if _, err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
				s.opts.Log.Error("sweep failed", "err", err)
			}
		case <-summary.C():
			if err := s.writeOmitted(ctx); err != nil && ctx.Err() == nil {
				s.opts.Log.Error("writing the audit log failed", "err", err)
			}
		}
	}
}

// Sweep deletes blobs that no version refers to and that are older than the grace period, and the buckets and queues of
// removed jobs. It answers how many blobs went.
func (s *Store) Sweep(ctx context.Context) (int, error) {
	records, _, err := s.records.List(ctx, broker.Range{Prefix: versionsPrefix})
	if err != nil {
		return 0, fmt.Errorf("sweep: %w", err)
	}
	modules := make(map[broker.Digest]bool)
	for _, r := range records {
		v, err := decode[Version](r)
		if err != nil {
			return 0, fmt.Errorf("sweep: %w", err)
		}
		modules[broker.Digest(v.Module)] = true
	}
	// A version committed after that list names a blob that was put within the grace period, or one that a version in
	// the list names, too.
	swept, err := s.blobs.Sweep(ctx, s.opts.Grace, func(d broker.Digest) bool { return modules[d] })
	if err != nil {
		return len(swept), fmt.Errorf("sweep: %w", err)
	}
	if err := s.sweepQueues(ctx); err != nil {
		return len(swept), fmt.Errorf("sweep: %w", err)
	}
	return len(swept), s.sweepBuckets(ctx)
}

func (s *Store) sweepBuckets(ctx context.Context) error {
	// The buckets first: a bucket is made after its job.
	names, err := s.buckets.Names(ctx, entitlement+"/")
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	jobs, _, err := s.records.List(ctx, broker.Range{Prefix: jobsPrefix})
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	alive := make(map[string]bool)
	for _, r := range jobs {
		j, err := decode[Job](r)
		if err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
		alive[j.ID] = true
	}
	for _, name := range names {
		id, _, _ := strings.Cut(strings.TrimPrefix(name, entitlement+"/"), "/")
		if !alive[id] {
			if err := s.buckets.Drop(ctx, name); err != nil {
				return fmt.Errorf("sweep: %w", err)
			}
		}
	}
	return nil
}
