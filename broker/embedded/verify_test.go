package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// files are the databases of a store.
var files = []string{"records.db", "buckets.db", "queue.db"}

// fullFiles answers a folder with some thousand pages in all files, free ones among them.
func fullFiles(t testing.TB) string {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		var c broker.Commit
		for j := range 30 {
			key := fmt.Sprintf("key/%02d/%02d", i%20, j)
			c.Writes = append(c.Writes, broker.Write{Key: key, Value: bytes.Repeat([]byte{byte(i)}, 40*j), Delete: i > 20 && j%3 == 0})
		}
		if _, err := s.Records().Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		for _, b := range []string{"large", "small"} {
			if _, err := s.Buckets().Put(t.Context(), b, fmt.Sprint(i%7), make([]byte, len(b)%5*9000), broker.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		fillQueue(t, s, i)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

var queued = broker.Job{Entitlement: broker.DefaultEntitlement, Name: "job"}

// fillQueue enqueues ten invocations and works on some.
func fillQueue(t testing.TB, s *Store, round int) {
	b := broker.Batch{Job: queued}
	for i := range 10 {
		v := broker.Invocation{ID: broker.InvocationID(fmt.Sprintf("%d-%d", round, i)), Payload: make([]byte, 700*i), Key: fmt.Sprint("key ", round, i)}
		v.Order, v.Priority, v.Callback = fmt.Sprint(i%3), i%4, &broker.Callback{Document: make([]byte, 10)}
		if i%5 == 0 {
			v.Delay = time.Hour
		}
		b.Invocations = append(b.Invocations, v)
	}
	if _, err := s.Queue().Enqueue(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := workOn(t, s.Queue()); err != nil {
		t.Fatal(err)
	}
}

// workOn leases three invocations, gives one back, gives one up and completes one.
func workOn(t testing.TB, q *Queue) error {
	ls, err := q.Lease(t.Context(), broker.Want{Worker: "worker", Jobs: []broker.Job{queued}, Max: 3, TTL: time.Hour})
	for i, l := range ls {
		switch {
		case err != nil:
		case i == 0:
			err = q.Release(t.Context(), l, broker.Return{Delay: time.Minute, Reason: "x"})
		case i == 1:
			err = q.Complete(t.Context(), l, broker.Result{Outcome: broker.OutcomeDead, Reason: "x"})
		default:
			err = q.Complete(t.Context(), l, broker.Result{Outcome: broker.OutcomeDone, Payload: make([]byte, 3000)})
		}
	}
	return err
}

// useAll opens a store and reads and changes everything in it. It fails the test for any end but an error of ErrCorrupt.
func useAll(t testing.TB, dir string) error {
	s, err := Open(dir, Options{})
	if err == nil {
		defer s.Close()
		_, _, err = s.Records().List(t.Context(), broker.Range{})
	}
	if err == nil {
		var names []string
		names, err = s.Buckets().Names(t.Context(), "")
		for _, b := range names {
			if err == nil {
				_, err = s.Buckets().List(t.Context(), b, "", "", 0)
			}
			if err == nil {
				_, err = s.Buckets().Put(t.Context(), b, "0", make([]byte, 20_000), broker.PutOptions{})
			}
		}
	}
	if err == nil {
		err = useQueue(t, s.Queue())
	}
	for i := 0; i < 10 && err == nil; i++ {
		_, err = s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: fmt.Sprintf("key/%02d/00", i), Value: make([]byte, 5000)}}})
	}
	if err != nil && !refusedAsDamaged(err) {
		t.Errorf("the error is %v", err)
	}
	return err
}

// useQueue reads and changes what fillQueue made.
func useQueue(t testing.TB, q *Queue) error {
	list, err := q.Letters(t.Context(), queued, "", 0)
	if err == nil {
		_, err = q.Counts(t.Context(), queued)
	}
	for i, st := range list {
		if err == nil {
			_, err = q.Result(t.Context(), queued, st.ID)
		}
		if err == nil {
			_, err = q.Letter(t.Context(), queued, st.ID)
		}
		if err == nil && i < 5 {
			err = q.Requeue(t.Context(), queued, st.ID)
		}
	}
	for range 5 {
		if err == nil {
			err = workOn(t, q)
		}
	}
	if err == nil {
		_, err = q.Enqueue(t.Context(), broker.Batch{Job: queued, Invocations: []broker.Invocation{{ID: "new", Payload: make([]byte, 20_000)}}})
	}
	return err
}

func copyFolder(t testing.TB, from string) string {
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestACorruptFileIsRefusedAndNotChanged(t *testing.T) {
	good := fullFiles(t)
	if err := useAll(t, copyFolder(t, good)); err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		whole := read(t, filepath.Join(good, name))
		for what, content := range map[string][]byte{
			"empty":                  {},
			"no database":            bytes.Repeat([]byte("not a database "), 5000),
			"zeroes":                 make([]byte, len(whole)),
			"shorter than a page":    whole[:1000],
			"meta pages only":        whole[:8192],
			"cut":                    whole[:5*4096],
			"cut inside a page":      whole[:5*4096+77],
			"both metas overwritten": append(bytes.Repeat([]byte{0xAA}, 8192), whole[8192:]...),
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				dir := copyFolder(t, good)
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, content, 0o600); err != nil {
					t.Fatal(err)
				}
				_, err := Open(dir, Options{})
				wantOneLine(t, err, broker.ErrCorrupt, path, "restore")
				if !bytes.Equal(read(t, path), content) {
					t.Error("the file was changed")
				}
			})
		}
	}
}

// TestRandomDamageNeverPanicsOrHangs overwrites a few bytes at a time all over the files, and uses what still opens.
func TestRandomDamageNeverPanicsOrHangs(t *testing.T) {
	good := fullFiles(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	refused := 0
	const rounds = 150
	for range rounds {
		dir := copyFolder(t, good)
		path := filepath.Join(dir, files[rng.IntN(len(files))])
		content := read(t, path)
		used := int(pagesInUse(t, content)) * os.Getpagesize()
		for range 1 + rng.IntN(4) {
			at := rng.IntN(used)
			if rng.IntN(2) == 0 {
				at = at &^ 4095 // heads of pages matter most
				at += rng.IntN(64)
			}
			content[min(at, used-1)] ^= byte(1 << rng.IntN(8))
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if useAll(t, dir) != nil {
			refused++
		}
	}
	t.Logf("%d of %d damaged files were refused", refused, rounds)
	if refused < rounds/4 {
		t.Errorf("only %d of %d damaged files were refused", refused, rounds)
	}
}

// sameRecords says what of a store's records is not as it was listed. That the number of the last commit is higher than it was cannot be seen:
// bbolt keeps it without a checksum. Numbers that were acknowledged do not come again then either.
func sameRecords(t testing.TB, s *Store, want []broker.Record, number uint64) error {
	list, at, err := s.Records().List(t.Context(), broker.Range{})
	if err != nil || at.Number < number || len(list) != len(want) {
		return fmt.Errorf("%d records at %d, %v; want %d at %d", len(list), at.Number, err, len(want), number)
	}
	for i, r := range want {
		got, err := s.Records().Get(t.Context(), r.Key)
		if err != nil || !bytes.Equal(got.Value, r.Value) || got.Revision != r.Revision || list[i].Key != r.Key || !bytes.Equal(list[i].Value, r.Value) {
			return fmt.Errorf("record %s reads %.20q at %d, %v", r.Key, got.Value, got.Revision, err)
		}
	}
	return nil
}

// refusedAsDamaged says that a store did not open because of damage: to the one digit of its format it looks like a newer program's.
func refusedAsDamaged(err error) bool {
	return errors.Is(err, broker.ErrCorrupt) || errors.Is(err, broker.ErrNewer)
}

// TestEveryBitThatIsDamagedIsNoticedOrHarmless changes each bit of each page in use but the two at the beginning, in a file whose records are inside
// the page above, in a page of their own, and in several. The numbers of records are powers of two: one bit makes their count 0.
func TestEveryBitThatIsDamagedIsNoticedOrHarmless(t *testing.T) {
	for _, records := range []int{2, 16, 64} {
		t.Run(fmt.Sprint(records), func(t *testing.T) {
			t.Parallel()
			dir, want, at := numbered(t, records)
			path := filepath.Join(dir, "records.db")
			content := read(t, path)
			size := os.Getpagesize()
			content = content[:int(pagesInUse(t, content))*size]
			opened, changed := 0, 0
			for _, page := range inUse(t, content, "records") {
				written := len(bytes.TrimRight(content[page*size:(page+1)*size], "\x00"))
				for i := range written * 8 {
					b := &content[page*size+i/8]
					*b ^= 1 << (i % 8)
					changed++
					if verify(bytes.NewReader(content), int64(len(content)), "records") == nil {
						if err := os.WriteFile(path, content, 0o600); err != nil {
							t.Fatal(err)
						}
						s, err := Open(dir, Options{})
						switch {
						case err == nil:
							if err := errors.Join(sameRecords(t, s, want, at), s.Close()); err != nil {
								t.Errorf("with bit %d of byte %d of page %d changed: %v", i%8, i/8, page, err)
							}
							opened++
						case !refusedAsDamaged(err):
							t.Errorf("with bit %d of byte %d of page %d changed: %v", i%8, i/8, page, err)
						}
					}
					*b ^= 1 << (i % 8)
				}
			}
			t.Logf("of %d files with one bit changed, %d open and have everything", changed, opened)
			if opened == 0 || opened > changed/5 {
				t.Error("that is not as it was")
			}
		})
	}
}

// A bucket whose root is one of its own leaves is a whole tree, of a part of what was written.
func TestATreeThatHasLostPagesIsRefused(t *testing.T) {
	dir, _, at := numbered(t, 64)
	path := filepath.Join(dir, "records.db")
	content := read(t, path)
	pages, size := inUse(t, content, "records"), os.Getpagesize()
	header := func(root int) []byte {
		return native.AppendUint64(native.AppendUint64(nil, uint64(root)), at)
	}
	root, leaves := 0, []int(nil)
	for _, p := range pages {
		switch {
		case native.Uint16(content[p*size+8:]) == flagBranch:
			root = p
		case !bytes.Contains(content[p*size:(p+1)*size], []byte("incarnation")): // that is the page of all buckets
			leaves = append(leaves, p)
		}
	}
	if bytes.Count(content, header(root)) == 0 || len(leaves) < 2 {
		t.Fatalf("the root is page %d of %d, with leaves %d", root, pages, leaves)
	}
	for _, leaf := range leaves {
		if err := os.WriteFile(path, bytes.ReplaceAll(content, header(root), header(leaf)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir, Options{})
		wantOneLine(t, err, broker.ErrCorrupt, path, "neither in use nor free")
	}
}

// numbered answers a folder with so many records, each of a commit of its own, and what they are.
func numbered(t testing.TB, n int) (dir string, list []broker.Record, last uint64) {
	t.Helper()
	dir = t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		put := broker.Commit{Writes: []broker.Write{{Key: fmt.Sprintf("k%02d", i), Value: bytes.Repeat([]byte{byte(i + 1)}, 60)}}}
		if _, err := s.Records().Commit(t.Context(), put); err != nil {
			t.Fatal(err)
		}
	}
	list, at, err := s.Records().List(t.Context(), broker.Range{})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	return dir, list, at.Number
}

// inUse is the numbers of the pages that a file's trees have.
func inUse(t testing.TB, content []byte, kind string) (pages []int) {
	t.Helper()
	best, _ := parseMeta(content)
	if m, ok := parseMeta(content[os.Getpagesize():]); ok && m.txid > best.txid {
		best = m
	}
	v := verifier{r: bytes.NewReader(content), kind: kind, meta: best, seen: make([]bool, best.high)}
	if err := v.tree(best.root, nil, 0, bounds{}); err != nil {
		t.Fatal(err)
	}
	for id, used := range v.seen {
		if used {
			pages = append(pages, id)
		}
	}
	return pages
}

// TestWhatOpensIsWhatWasWritten overwrites 27 bytes, or changes one bit, all over the records. A file that still opens has every record as it was
// acknowledged: what was hit is free. The two pages at the beginning say which commit was the last, in turns: one that is damaged is
// what a write of it that was cut off leaves, and the store is as before the last commit.
func TestWhatOpensIsWhatWasWritten(t *testing.T) {
	good := fullFiles(t)
	s, err := Open(good, Options{})
	if err != nil {
		t.Fatal(err)
	}
	before, was, err := s.Records().List(t.Context(), broker.Range{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "last"}}}); err != nil {
		t.Fatal(err)
	}
	want, at, err := s.Records().List(t.Context(), broker.Range{})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	content := read(t, filepath.Join(good, "records.db"))
	used := int(pagesInUse(t, content)) * os.Getpagesize()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	opened, refused, older := 0, 0, 0
	for i := range 300 {
		where := rng.IntN(used - 27)
		switch i % 3 {
		case 0: // the head of a page and its elements
			where = where&^4095 + rng.IntN(200)
		case 1:
			switch i % 5 {
			case 0: // a page that says which commit was the last
				where = rng.IntN(2)*4096 + rng.IntN(80)
			default: // counts and places of a page
				where = max(2*4096, where&^4095) + rng.IntN(32)
			}
		}
		bad := bytes.Clone(content)
		if i%3 == 1 { // one bit, which leaves the rest as it was
			bad[where] ^= 1 << rng.IntN(8)
		} else {
			for j := range 27 {
				bad[where+j] = byte(rng.Uint32())
			}
		}
		dir := copyFolder(t, good)
		if err := os.WriteFile(filepath.Join(dir, "records.db"), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, Options{})
		if err != nil {
			if !refusedAsDamaged(err) {
				t.Errorf("with damage at %d: %v", where, err)
			}
			refused++
			continue
		}
		err = sameRecords(t, s, want, at.Number)
		if err != nil && where < 2*os.Getpagesize() && sameRecords(t, s, before, was.Number) == nil {
			older++
			err = nil
		}
		if err != nil {
			t.Errorf("with damage at %d of %d, page %d: %v", where, used, where/os.Getpagesize(), err)
		}
		opened++
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d refused, %d opened, of which %d as before the last commit", refused, opened, older)
	if opened == 0 || refused == 0 {
		t.Error("the damage was of one kind only")
	}
}

func pagesInUse(t testing.TB, content []byte) uint64 {
	m, ok := parseMeta(content)
	if !ok {
		t.Fatal("the test's file has no meta page")
	}
	return m.high
}

// FuzzVerify checks that no file makes the verifier panic, hang or allocate more than the file is long.
func FuzzVerify(f *testing.F) {
	dir := fullFiles(f)
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			f.Fatal(err)
		}
		b = b[:pagesInUse(f, b)*uint64(os.Getpagesize())]
		f.Add(b, uint32(0), byte(0), uint32(0), byte(0))
		f.Add(b, uint32(4096*3+10), byte(1), uint32(4096*4), byte(7))
	}
	f.Add([]byte{}, uint32(0), byte(0), uint32(0), byte(0))
	f.Fuzz(func(t *testing.T, b []byte, at1 uint32, xor1 byte, at2 uint32, xor2 byte) {
		b = bytes.Clone(b)
		if len(b) > 0 {
			b[int(at1)%len(b)] ^= xor1
			b[int(at2)%len(b)] ^= xor2
		}
		for _, kind := range []string{"records", "buckets", "queue"} {
			err := verify(bytes.NewReader(b), int64(len(b)), kind)
			if v := (*pageError)(nil); err != nil && !errors.As(err, &v) {
				t.Errorf("verify answers %v", err)
			}
		}
	})
}
