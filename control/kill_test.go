package control

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/broker/embedded"
	"github.com/ripstop-vm/ripstop/internal/clock"
	"github.com/ripstop-vm/ripstop/manifest"
)

// This test kills a process that changes a store, again and again, and looks each time at what is left. The process says
// on its standard output what it begins and what was acknowledged; each job has one change under way at a time.

const (
	childVar    = "RIPSTOP_TEST_STORE" // names the data folder, and makes the test binary the process to be killed
	childSeed   = "RIPSTOP_TEST_SEED"
	killKeep    = 4 // versions kept, so that pruning is a part of it
	killRuns    = 200
	killFolders = 10 // a new folder after so many kills, so that the first start is hit, too
)

var killJobs = []string{"ant", "bee", "cat", "dog"}

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVar); dir != "" {
		if err := changeForEver(dir); err != nil {
			fmt.Println("fail", err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// openKilled opens the store of a folder as both processes do.
func openKilled(dir string, c clock.Clock) (*Store, *embedded.Store, error) {
	b, err := embedded.Open(dir, embedded.Options{Clock: c})
	if err != nil {
		return nil, nil, err
	}
	s, err := New(b.Records(), b.Blobs(), b.Buckets(), b.Queue(), &stand{}, Options{DataDir: dir, KeepVersions: killKeep, KeepAudit: 1 << 30, Clock: c})
	return s, b, err
}

// moduleOf makes a module's bytes of a word: some are large enough that their upload can be cut off.
func moduleOf(word string, seed uint64) []byte {
	return bytes.Repeat([]byte(word+" "), 1+int(seed%97)*400)
}

// manifestOf makes the manifest of a deploy.
func manifestOf(job, word string, seed uint64) *manifest.Manifest {
	m := &manifest.Manifest{Config: map[string]string{"word": word}}
	for i := range 1 + seed%3 {
		m.Routes = append(m.Routes, manifest.Route{Path: fmt.Sprintf("/%s/%d/", job, i)})
	}
	return m
}

// changeForEver changes all jobs at random until it is killed.
func changeForEver(dir string) error {
	seed, err := strconv.ParseUint(os.Getenv(childSeed), 10, 64)
	if err != nil {
		return err
	}
	s, _, err := openKilled(dir, clock.System)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if err := s.Bootstrap(ctx, dir); err != nil {
		return err
	}
	fmt.Println("ready")
	var wg sync.WaitGroup
	for i, job := range killJobs {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			for n := 0; ; n++ {
				if err := changeOnce(ctx, s, rng, job, fmt.Sprintf("%d-%d", seed, n)); err != nil {
					fmt.Println("fail", job, err)
					os.Exit(1)
				}
			}
		})
	}
	wg.Wait()
	return nil
}

func changeOnce(ctx context.Context, s *Store, rng *rand.Rand, job, word string) error {
	versions, err := s.Versions(ctx, job)
	if err != nil {
		return err
	}
	size := rng.Uint64()
	switch n := rng.IntN(12); {
	case n == 0 && len(versions) > 0:
		fmt.Println("begin", job, "remove")
		err = s.Remove(ctx, "ann", job)
	case n <= 3 && len(versions) > 1:
		j, _, err := s.Job(ctx, job)
		if err != nil {
			return err
		}
		to := versions[rng.IntN(len(versions))].Number
		if to == j.Current {
			return nil
		}
		fmt.Println("begin", job, "rollback", to)
		_, _, err = s.Rollback(ctx, "ann", job, to)
		if err != nil {
			return err
		}
	case n == 4:
		fmt.Println("begin", job, "secret", word)
		err = s.SetSecret(ctx, "ann", job, "WORD", []byte(word))
	default:
		fmt.Println("begin", job, "deploy", word, size)
		_, _, err = s.Deploy(ctx, "ann", job, bytes.NewReader(moduleOf(word, size)), manifestOf(job, word, size))
	}
	if err == nil {
		fmt.Println("ack", job)
	}
	return err
}

// left is what the store should have of a job.
type left struct {
	current, latest uint64
	versions        map[uint64]string // number: deploy
	secret          string
	audited         int
}

func (l left) clone() left {
	l.versions = maps.Clone(l.versions)
	return l
}

// apply answers what a change makes of it.
func (l left) apply(change []string) left {
	l = l.clone()
	switch change[0] {
	case "deploy":
		kept := slices.Sorted(maps.Keys(l.versions))
		for len(kept) > killKeep {
			delete(l.versions, kept[0])
			kept = kept[1:]
		}
		if l.versions == nil {
			l.versions = map[uint64]string{}
		}
		l.latest++
		l.current = l.latest
		l.versions[l.latest] = strings.Join(change[1:], " ")
	case "rollback":
		l.current, _ = strconv.ParseUint(change[1], 10, 64)
	case "remove":
		l = left{audited: l.audited}
	case "secret":
		l.secret = change[1]
	}
	l.audited++
	return l
}

// look reads what the store has of a job, and checks that it fits together.
func look(ctx context.Context, s *Store, job string) (left, error) {
	l := left{versions: map[uint64]string{}}
	versions, err := s.Versions(ctx, job)
	if err != nil {
		return l, err
	}
	for _, v := range versions {
		r, size, err := s.Module(ctx, v.Module)
		if err != nil {
			return l, fmt.Errorf("version %d of %s: %w", v.Number, job, err)
		}
		b, err := io.ReadAll(r)
		_ = r.Close()
		if err != nil || int64(len(b)) != size || v.Size != size || fmt.Sprintf("%x", sha256.Sum256(b)) != v.Module {
			return l, fmt.Errorf("version %d of %s: the module has %d bytes of %d: %w", v.Number, job, len(b), v.Size, err)
		}
		// The size seed is not stored: it follows from the bytes and the routes, which are compared instead.
		l.versions[v.Number] = fmt.Sprintf("%s %d %d", v.Manifest.Config["word"], size, len(v.Manifest.Routes))
	}
	j, v, err := s.Job(ctx, job)
	switch {
	case errors.Is(err, ErrNotFound) && len(versions) == 0:
	case err != nil:
		return l, fmt.Errorf("job %s, which has %d versions: %w", job, len(versions), err)
	default:
		l.current, l.latest = j.Current, j.Latest
		for _, r := range v.Manifest.Routes {
			rec, err := s.records.Get(ctx, routeKey(r))
			if err != nil {
				return l, fmt.Errorf("route %s of %s: %w", r.Path, job, err)
			}
			if c, err := decode[claim](rec); err != nil || c.Job != job {
				return l, fmt.Errorf("route %s of %s belongs to %q: %w", r.Path, job, c.Job, err)
			}
		}
	}
	routes, _, err := s.records.List(ctx, broker.Range{Prefix: routesPrefix + "/" + job + "/"})
	if err != nil || len(routes) != len(v.Manifest.Routes) {
		return l, fmt.Errorf("%s has %d routes, want %d: %w", job, len(routes), len(v.Manifest.Routes), err)
	}
	switch b, err := s.Secret(ctx, job, "WORD"); {
	case err == nil:
		l.secret = string(b)
	case !errors.Is(err, ErrNotFound):
		return l, err
	}
	entries, err := s.AuditLog(ctx, AuditFilter{Job: job, Limit: 1 << 30})
	l.audited = len(entries)
	return l, err
}

// seen turns an expected deploy ("word seed") into what look sees of it.
func (l left) seen(job string) left {
	l = l.clone()
	for n, text := range l.versions {
		word, number, _ := strings.Cut(text, " ")
		seed, _ := strconv.ParseUint(number, 10, 64)
		l.versions[n] = fmt.Sprintf("%s %d %d", word, len(moduleOf(word, seed)), len(manifestOf(job, word, seed).Routes))
	}
	return l
}

func (l left) equal(o left) bool {
	return l.current == o.current && l.latest == o.latest && l.secret == o.secret && l.audited == o.audited && maps.Equal(l.versions, o.versions)
}

func TestAKillAtAnyMomentLosesNothingAcknowledgedAndHalvesNothing(t *testing.T) {
	runs := killRuns
	if testing.Short() {
		runs = 20
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	base := t.TempDir()
	var dir string
	var want map[string]left
	acked, halfway, early := 0, 0, 0
	for run := range runs {
		if run%killFolders == 0 || run < killFolders/2 {
			dir, want = filepath.Join(base, fmt.Sprint(run)), map[string]left{}
		}
		ready, changes := runAndKill(t, dir, rng)
		if !ready {
			early++
		}
		under := map[string][]string{} // changes that were begun and not acknowledged
		for _, words := range changes {
			job := words[1]
			if words[0] == "begin" {
				under[job] = words[2:]
				continue
			}
			want[job] = want[job].apply(under[job])
			delete(under, job)
			acked++
		}
		// Two hours on: what nothing refers to is past its grace.
		s, b, err := openKilled(dir, clock.NewManual(clock.System.Now().Add(2*time.Hour)))
		if err != nil {
			t.Fatalf("run %d: the store does not open: %v", run, err)
		}
		modules := map[string]bool{}
		for _, job := range killJobs {
			got, err := look(t.Context(), s, job)
			if err != nil {
				t.Fatalf("run %d: %v", run, err)
			}
			switch old := want[job]; {
			case got.equal(old.seen(job)):
			case under[job] != nil && got.equal(old.apply(under[job]).seen(job)):
				want[job] = old.apply(under[job])
				halfway++
			default:
				t.Fatalf("run %d: job %s is %+v; want %+v, or that with %v", run, job, got, old.seen(job), under[job])
			}
			versions, _ := s.Versions(t.Context(), job)
			for _, v := range versions {
				modules[v.Module] = true
			}
		}
		if left, err := os.ReadDir(filepath.Join(dir, "blobs", "tmp")); err != nil || len(left) != 0 {
			t.Fatalf("run %d: uploads left %v, %v", run, left, err)
		}
		if _, err := s.Sweep(t.Context()); err != nil {
			t.Fatalf("run %d: %v", run, err)
		}
		for blob, err := range b.Blobs().List(t.Context()) {
			if err != nil || !modules[string(blob.Digest)] {
				t.Fatalf("run %d: blob %s is left after the sweep, %v", run, blob.Digest, err)
			}
			delete(modules, string(blob.Digest))
		}
		if len(modules) != 0 {
			t.Fatalf("run %d: the sweep took %v", run, modules)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, %d of them during the start; %d changes were acknowledged, %d took effect without", runs, early, acked, halfway)
	if acked < runs/2 {
		t.Errorf("only %d changes were acknowledged", acked)
	}
}

// runAndKill starts the process on a folder, kills it after a while, and answers what it said.
func runAndKill(t *testing.T, dir string, rng *rand.Rand) (ready bool, changes [][]string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVar+"="+dir, childSeed+"="+fmt.Sprint(rng.Uint64()))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() { _ = cmd.Process.Kill() }
	// A sixth are killed at some moment from the beginning, the others once they change something.
	timer := clock.System.AfterFunc(30*time.Second, kill)
	after := time.Duration(rng.IntN(100_000)) * time.Microsecond
	fromStart := rng.IntN(6) == 0
	if fromStart {
		timer.Reset(after)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		words := strings.Fields(lines.Text())
		switch words[0] {
		case "ready":
			if ready = true; !fromStart {
				timer.Reset(after)
			}
		case "fail":
			t.Errorf("the process says: %s", lines.Text())
		default:
			changes = append(changes, words)
		}
	}
	_ = cmd.Wait() // killed
	timer.Stop()
	if t.Failed() {
		t.FailNow()
	}
	return ready, changes
}
