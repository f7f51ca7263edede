//go:build unix

package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// The cases here need a process of their own: one has a bound on the size of files, which fails writes as a full disk
// does, another gives up the rights of the superuser, for whom nothing is read-only.

const (
	diskCase   = "RIPSTOP_TEST_DISK"
	diskFolder = "RIPSTOP_TEST_DISK_FOLDER"
)

var diskCases = map[string]func(dir string) error{
	"a full disk fails writes, changes nothing, and is recovered from": fullDisk,
	"a first start on a full disk leaves nothing":                      fullFirstStart,
	"a read-only folder is refused":                                    readOnlyFolder,
}

func TestMain(m *testing.M) {
	if f := diskCases[os.Getenv(diskCase)]; f != nil {
		if err := f(os.Getenv(diskFolder)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(killFolder); dir != "" {
		fmt.Println(workUntilKilled(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestDisk(t *testing.T) {
	for name := range diskCases {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), diskCase+"="+name, diskFolder+"="+filepath.Join(t.TempDir(), "data"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// limitFiles bounds files to a size, as if the disk were full beyond it; 0 takes the bound away.
func limitFiles(size uint64) error {
	signal.Ignore(syscall.SIGXFSZ)
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &r); err != nil {
		return err
	}
	r.Cur = r.Max
	if size > 0 {
		setLimit(&r.Cur, size)
	}
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &r)
}

// setLimit bridges the two types that the field has on different systems.
func setLimit[T int64 | uint64](field *T, v uint64) { *field = T(v) }

func expect(err, want error, texts ...string) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("the error is %v, want %v", err, want)
	}
	for _, text := range append(texts, "nothing was changed") {
		if !strings.Contains(err.Error(), text) {
			return fmt.Errorf("the error %q has no %q", err, text)
		}
	}
	return nil
}

func fullDisk(dir string) error {
	ctx := context.Background()
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	records, buckets, blobs := s.Records(), s.Buckets(), s.Blobs()
	if _, err := records.Commit(ctx, broker.Commit{Writes: []broker.Write{{Key: "a", Value: []byte("1")}}}); err != nil {
		return err
	}
	if _, err := buckets.Put(ctx, "b", "k", []byte("1"), broker.PutOptions{}); err != nil {
		return err
	}
	if err := limitFiles(64 << 10); err != nil {
		return err
	}
	_, before, err := records.List(ctx, broker.Range{})
	if err != nil {
		return err
	}
	if err := fullQueue(s.Queue()); err != nil {
		return err
	}
	large := bytes.Repeat([]byte("x"), 1<<20)
	for range 3 {
		_, err = records.Commit(ctx, broker.Commit{Writes: []broker.Write{{Key: "a", Delete: true}, {Key: "b", Value: large}}})
		if err := expect(err, broker.ErrFull, "records.db", "free some space"); err != nil {
			return fmt.Errorf("commit: %w", err)
		}
		_, err = buckets.Put(ctx, "b", "k", large, broker.PutOptions{})
		if err := expect(err, broker.ErrFull, "buckets.db"); err != nil {
			return fmt.Errorf("put item: %w", err)
		}
		_, err = blobs.Put(ctx, bytes.NewReader(large))
		if err := expect(err, broker.ErrFull, "blobs"); err != nil {
			return fmt.Errorf("put blob: %w", err)
		}
	}
	check := func() error {
		list, at, err := records.List(ctx, broker.Range{})
		if err != nil || at != before || len(list) != 1 || string(list[0].Value) != "1" {
			return fmt.Errorf("the records are %+v at %s, %w", list, at, err)
		}
		if it, err := buckets.Get(ctx, "b", "k"); err != nil || string(it.Value) != "1" {
			return fmt.Errorf("the item is %+v, %w", it, err)
		}
		for blob, err := range blobs.List(ctx) {
			return fmt.Errorf("there is a blob %+v, %w", blob, err)
		}
		if left, err := os.ReadDir(blobs.temp); err != nil || len(left) > 0 {
			return fmt.Errorf("uploads left %v, %w", left, err)
		}
		return nil
	}
	if err := check(); err != nil {
		return err
	}
	// A start does not need room either.
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = Open(dir, Options{}); err != nil {
		return err
	}
	defer s.Close()
	records, buckets, blobs = s.Records(), s.Buckets(), s.Blobs()
	if err := check(); err != nil {
		return fmt.Errorf("opened again: %w", err)
	}
	if _, err = records.Commit(ctx, broker.Commit{Writes: []broker.Write{{Key: "b", Value: large}}}); !errors.Is(err, broker.ErrFull) {
		return fmt.Errorf("commit answers %w", err)
	}
	if err := limitFiles(0); err != nil {
		return err
	}
	if rev, err := records.Commit(ctx, broker.Commit{Writes: []broker.Write{{Key: "b", Value: large}}}); err != nil || rev.Number != before.Number+1 {
		return fmt.Errorf("with room again, commit answers %s, %w", rev, err)
	}
	if _, err := buckets.Put(ctx, "b", "k", large, broker.PutOptions{}); err != nil {
		return err
	}
	if _, err = blobs.Put(ctx, bytes.NewReader(large)); err != nil {
		return err
	}
	return fullRestore(s, filepath.Join(filepath.Dir(dir), "restored"))
}

// fullRestore restores a store where there is no room, and then where there is.
func fullRestore(s *Store, dir string) error {
	var archive bytes.Buffer
	if _, err := s.Backup(context.Background(), &archive); err != nil {
		return err
	}
	if err := limitFiles(64 << 10); err != nil {
		return err
	}
	_, err := Restore(context.Background(), dir, bytes.NewReader(archive.Bytes()))
	if err := expect(err, broker.ErrFull, dir, "free some space"); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if !missing(dir) {
		return fmt.Errorf("%s is left", dir)
	}
	if err := limitFiles(0); err != nil {
		return err
	}
	_, err = Restore(context.Background(), dir, &archive)
	return err
}

// fullQueue works on a queue that has no room, and then on the same one when it has.
func fullQueue(q *Queue) error {
	ctx := context.Background()
	large := make([]byte, broker.MaxPayload)
	if err := limitFiles(0); err != nil {
		return err
	}
	_, err := q.Enqueue(ctx, broker.Batch{Job: queued, Invocations: []broker.Invocation{{ID: "a", Payload: []byte("1")}}})
	if err != nil {
		return err
	}
	ls, err := q.Lease(ctx, broker.Want{Worker: "w", Jobs: []broker.Job{queued}, Max: 1, TTL: time.Hour})
	if err != nil || len(ls) != 1 {
		return fmt.Errorf("%d were leased, %w", len(ls), err)
	}
	if err := limitFiles(64 << 10); err != nil {
		return err
	}
	for range 3 {
		_, err = q.Enqueue(ctx, broker.Batch{Job: queued, Invocations: []broker.Invocation{{ID: "b", Payload: large}}})
		if err := expect(err, broker.ErrFull, "queue.db", "free some space"); err != nil {
			return fmt.Errorf("enqueue: %w", err)
		}
		err = q.Complete(ctx, ls[0], broker.Result{Outcome: broker.OutcomeDone, Payload: large})
		if err := expect(err, broker.ErrFull, "queue.db"); err != nil {
			return fmt.Errorf("complete: %w", err)
		}
	}
	counts, err := q.Counts(ctx, queued)
	if err != nil || counts[0] != (broker.Counts{Leased: 1}) {
		return fmt.Errorf("the counts are %+v, %w", counts, err)
	}
	if err := limitFiles(0); err != nil {
		return err
	}
	if err := q.Complete(ctx, ls[0], broker.Result{Outcome: broker.OutcomeDone, Payload: large}); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	return limitFiles(64 << 10)
}

func fullFirstStart(dir string) error {
	if err := limitFiles(4096); err != nil {
		return err
	}
	_, err := Open(dir, Options{})
	if err := expect(err, broker.ErrFull, filepath.Join(dir, "records.db"), "free some space"); err != nil {
		return err
	}
	left, err := os.ReadDir(dir)
	for _, e := range left {
		if e.Name() != "lock" {
			return fmt.Errorf("%s is left", e.Name())
		}
	}
	if err != nil {
		return err
	}
	if err := limitFiles(0); err != nil {
		return err
	}
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	return s.Close()
}

func readOnlyFolder(dir string) error {
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return os.Chmod(path, 0o444)
	})
	if err != nil {
		return err
	}
	// Folders after what is in them.
	for _, folder := range []string{filepath.Join(dir, "blobs", "tmp"), filepath.Join(dir, "blobs"), dir} {
		if err := os.Chmod(folder, 0o555); err != nil {
			return err
		}
	}
	defer func() { _ = os.Chmod(dir, 0o755) }()
	if os.Getuid() == 0 {
		// The test's own folders above are closed to others, which would be one more reason to be refused.
		for up := filepath.Dir(dir); up != filepath.Clean(os.TempDir()) && up != "/"; up = filepath.Dir(up) {
			if err := os.Chmod(up, 0o755); err != nil {
				return err
			}
		}
		const nobody = 65534
		if err := errors.Join(syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
			return err
		}
	}
	_, err = Open(dir, Options{})
	if err := expect(err, broker.ErrReadOnly, filepath.Join(dir, "lock"), "make it writable"); err != nil {
		return err
	}
	_, err = Open(filepath.Join(dir, "new"), Options{})
	return expect(err, broker.ErrReadOnly, filepath.Join(dir, "new"))
}
