package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/wire"
)

// Job answers a job and its current version.
func (s *Store) Job(ctx context.Context, name string) (Job, Version, error) {
	if err := checkName(name); err != nil {
		return Job{}, Version{}, err
	}
	now, err := s.load(ctx, name)
	if err == nil && !now.exists() {
		err = unknownJob(name)
	}
	return now.job, now.version, err
}

// Jobs answers all jobs in order of their names.
func (s *Store) Jobs(ctx context.Context) ([]JobVersion, error) {
	list, _, err := s.current(ctx)
	return list, err
}

// current answers all jobs with their versions, and the revision at which they were so.
func (s *Store) current(ctx context.Context) ([]JobVersion, broker.Revision, error) {
	// A version is immutable, so one that is found is the right one. One that is not was pruned since the list was made.
	for range 10 {
		records, at, err := s.records.List(ctx, broker.Range{Prefix: jobsPrefix})
		if err != nil {
			return nil, broker.Revision{}, err
		}
		jobs := make([]JobVersion, 0, len(records))
		for _, r := range records {
			job, err := decode[Job](r)
			if err != nil {
				return nil, broker.Revision{}, err
			}
			job.Revision = r.Revision
			v, err := s.version(ctx, job.Name, job.Current)
			if errors.Is(err, broker.ErrNotFound) {
				break
			}
			if err != nil {
				return nil, broker.Revision{}, err
			}
			jobs = append(jobs, JobVersion{job, v})
		}
		if len(jobs) == len(records) {
			s.mu.Lock()
			s.mark = at.Mark
			s.mu.Unlock()
			return jobs, at, nil
		}
	}
	return nil, broker.Revision{}, fmt.Errorf("list jobs: the current version of one is missing: %w", broker.ErrCorrupt)
}

// Versions answers the versions of a job that are kept, the newest first. There are none if there is no such job.
func (s *Store) Versions(ctx context.Context, job string) ([]Version, error) {
	if err := checkName(job); err != nil {
		return nil, err
	}
	records, _, err := s.records.List(ctx, broker.Range{Prefix: versionsOf(job)})
	if err != nil {
		return nil, err
	}
	versions := make([]Version, 0, len(records))
	for _, r := range slices.Backward(records) {
		v, err := decode[Version](r)
		if err != nil {
			return nil, err
		}
		versions = append(versions, v)
	}
	return versions, nil
}

// Module opens a module's bytes and answers their number. The caller closes the reader.
func (s *Store) Module(ctx context.Context, digest string) (io.ReadCloser, int64, error) {
	d, err := broker.ParseDigest(digest)
	if err != nil {
		return nil, 0, refuse(http.StatusBadRequest, "digest-invalid", "Invalid digest", "a module is named by 64 lower-case hexadecimal digits: %w", err)
	}
	b, err := s.blobs.Stat(ctx, d)
	var r io.ReadCloser
	if err == nil {
		r, err = s.blobs.Open(ctx, d)
	}
	switch {
	case errors.Is(err, broker.ErrNotFound):
		return nil, 0, refuse(http.StatusNotFound, "module-unknown", "Unknown module", "there is no module %s", d)
	case err != nil:
		return nil, 0, err
	}
	return r, b.Size, nil
}

// Assignments answers what is to be served, and the revision at which it was so.
func (s *Store) Assignments(ctx context.Context) ([]wire.Assignment, uint64, error) {
	jobs, at, err := s.current(ctx)
	if err != nil {
		return nil, 0, err
	}
	list := make([]wire.Assignment, 0, len(jobs))
	for _, j := range jobs {
		a, err := assignment(j.Job, j.Version)
		if err != nil {
			return nil, 0, err
		}
		list = append(list, a)
	}
	return list, at.Number, nil
}
