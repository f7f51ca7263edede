package embedded

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// backedUp answers a filled store and a backup of it.
func backedUp(t testing.TB) (*Store, []byte) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	for i := range 3 {
		if _, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: fmt.Sprint(i), Value: []byte("record")}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Buckets().Put(t.Context(), "b", fmt.Sprint(i), []byte("item"), broker.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Blobs().Put(t.Context(), strings.NewReader(fmt.Sprint("blob ", i))); err != nil {
			t.Fatal(err)
		}
		fillQueue(t, s, i)
	}
	if _, err := s.Leases().Acquire(t.Context(), "leader", "me", time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret.key"), []byte("a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "cache", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	b, err := s.Backup(t.Context(), &buf)
	if err != nil {
		t.Fatal(err)
	}
	if b.Format != 1 || b.Incarnation != s.Incarnation() || b.Revision != 3 || b.Files != 3+3+1 || b.Bytes == 0 || b.Taken.IsZero() {
		t.Errorf("the backup is %+v", b)
	}
	return s, buf.Bytes()
}

func TestARestoredStoreHasWhatWasBackedUp(t *testing.T) {
	s, archive := backedUp(t)
	for name, dir := range map[string]string{"a folder that is not there": filepath.Join(t.TempDir(), "a", "b"), "an empty folder": t.TempDir()} {
		b, err := Restore(t.Context(), dir, bytes.NewReader(archive))
		if err != nil || b.Incarnation != s.Incarnation() || b.Files != 7 {
			t.Fatalf("into %s, restore answers %+v, %v", name, b, err)
		}
		r := mustOpen(t, dir, Options{})
		want, at, _ := s.Records().List(t.Context(), broker.Range{})
		got, now, err := r.Records().List(t.Context(), broker.Range{})
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) || now.Number <= at.Number || now.Mark == at.Mark {
			t.Errorf("the records are %v at %s, want %v after %s; %v", got, now, want, at, err)
		}
		for blob := range s.Blobs().List(t.Context()) {
			have, err := r.Blobs().Stat(t.Context(), blob.Digest)
			if err != nil || have.Size != blob.Size || !have.Put.Equal(blob.Put) {
				t.Errorf("blob %+v is %+v, %v", blob, have, err)
			}
		}
		wantItems, _ := s.Buckets().List(t.Context(), "b", "", "", 0)
		items, err := r.Buckets().List(t.Context(), "b", "", "", 0)
		if err != nil || fmt.Sprint(items) != fmt.Sprint(wantItems) {
			t.Errorf("the bucket has %v, %v", items, err)
		}
		wantCounts, _ := s.Queue().Counts(t.Context(), queued)
		counts, err := r.Queue().Counts(t.Context(), queued)
		if err != nil || counts[0] != wantCounts[0] {
			t.Errorf("the queue has %+v, %v; want %+v", counts, err, wantCounts)
		}
		if key, err := os.ReadFile(filepath.Join(dir, "secret.key")); err != nil || string(key) != "a key" {
			t.Errorf("the key is %q, %v", key, err)
		}
		for _, gone := range []string{"cache", stagingName} {
			if !missing(filepath.Join(dir, gone)) {
				t.Errorf("there is %s", gone)
			}
		}
	}
}

// What was numbered after the backup is lost, and its numbers must not come again.
func TestNoNumberComesTwiceAfterARestore(t *testing.T) {
	s, archive := backedUp(t)
	take := func(s *Store) (revision, version, epoch uint64, token string) {
		rev, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "a"}}})
		if err != nil {
			t.Fatal(err)
		}
		if version, err = s.Buckets().Put(t.Context(), "b", "k", nil, broker.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		h, err := s.Leases().Acquire(t.Context(), "another", "me", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Queue().Enqueue(t.Context(), broker.Batch{Job: queued, Invocations: []broker.Invocation{{ID: "fresh"}}}); err != nil {
			t.Fatal(err)
		}
		ls, err := s.Queue().Lease(t.Context(), broker.Want{Worker: "w", Jobs: []broker.Job{queued}, Max: 1, TTL: time.Hour})
		if err != nil || len(ls) != 1 {
			t.Fatalf("%+v were leased, %v", ls, err)
		}
		return rev.Number, version, h.Epoch, ls[0].Token
	}
	_, from, _ := s.Records().List(t.Context(), broker.Range{})
	rev, version, epoch, token := take(s)
	dir := t.TempDir()
	if _, err := Restore(t.Context(), dir, bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	r := mustOpen(t, dir, Options{})
	rev2, version2, epoch2, token2 := take(r)
	if rev2 <= rev || version2 <= version || epoch2 <= epoch || token2 == token {
		t.Errorf("revision %d after %d, version %d after %d, epoch %d after %d, token %s after %s", rev2, rev, version2, version, epoch2, epoch, token2, token)
	}
	for _, err := range r.Records().Watch(t.Context(), "", from) {
		if !errors.Is(err, broker.ErrCompacted) {
			t.Errorf("a watch from before yields %v", err)
		}
		break
	}
}

func TestABackupBesideWritersIsOfOneMoment(t *testing.T) {
	s := mustOpen(t, t.TempDir(), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			v := []byte(fmt.Sprint(i))
			if _, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "a", Value: v}, {Key: "z", Value: v}, {Key: fmt.Sprint(i), Value: make([]byte, 5000)}}}); err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	for range 3 {
		var buf bytes.Buffer
		if _, err := s.Backup(t.Context(), &buf); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if _, err := Restore(t.Context(), dir, &buf); err != nil {
			t.Fatal(err)
		}
		r := mustOpen(t, dir, Options{})
		list, _, err := r.Records().List(t.Context(), broker.Range{})
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]string{}
		for _, rec := range list {
			values[rec.Key] = string(rec.Value)
		}
		if values["a"] != values["z"] {
			t.Errorf("a backup has %s and %s", values["a"], values["z"])
		}
		_ = r.Close()
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// slowWriter does something before its first write.
type slowWriter struct {
	io.Writer
	before func()
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if w.before != nil {
		w.before()
		w.before = nil
	}
	return w.Writer.Write(p)
}

func TestNoBlobIsSweptWhileABackupIsTaken(t *testing.T) {
	c := clock.NewManual(time.Unix(1e9, 0))
	s := mustOpen(t, t.TempDir(), Options{Clock: c})
	blob, err := s.Blobs().Put(t.Context(), strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	c.Advance(time.Hour)
	sweep := func() int {
		swept, err := s.Blobs().Sweep(t.Context(), time.Minute, func(broker.Digest) bool { return false })
		if err != nil {
			t.Error(err)
		}
		return len(swept)
	}
	var buf bytes.Buffer
	if _, err := s.Backup(t.Context(), &slowWriter{&buf, func() {
		if n := sweep(); n != 0 {
			t.Errorf("%d blobs were swept", n)
		}
	}}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(buf.Bytes(), []byte(blobName(blob.Digest))) {
		t.Error("the blob is not in the backup")
	}
	if n := sweep(); n != 1 {
		t.Errorf("after the backup, %d blobs were swept", n)
	}
}

func TestABackupThatCannotBeWrittenFails(t *testing.T) {
	s, archive := backedUp(t)
	for _, limit := range []int{0, 100, len(archive) / 2, len(archive) - 1} {
		if _, err := s.Backup(t.Context(), &fullWriter{limit}); !errors.Is(err, errWriterFull) {
			t.Errorf("with room for %d bytes, backup answers %v", limit, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Backup(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("backup answers %v", err)
	}
	if _, err := s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: "a"}}}); err != nil {
		t.Errorf("afterwards, commit answers %v", err)
	}
}

var errWriterFull = errors.New("no more room")

type fullWriter struct{ room int }

func (w *fullWriter) Write(p []byte) (int, error) {
	if w.room -= len(p); w.room < 0 {
		return 0, errWriterFull
	}
	return len(p), nil
}

// refused wants a restore to fail and leave nothing.
func refused(t *testing.T, name string, archive []byte, want error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := Restore(t.Context(), dir, bytes.NewReader(archive)); !errors.Is(err, want) || !strings.Contains(err.Error(), dir) {
		t.Errorf("%s: restore answers %v", name, err)
	}
	if !missing(dir) {
		t.Errorf("%s: something is left", name)
	}
}

func TestABackupThatWasChangedIsRefused(t *testing.T) {
	_, archive := backedUp(t)
	for _, n := range []int{0, 1, 511, 512, 1024, 1500, 5000, len(archive) / 2, len(archive) - 3000} {
		refused(t, fmt.Sprint("cut after ", n), archive[:n], broker.ErrCorrupt)
	}
	for name, text := range map[string]string{"a blob": "blob 1", "a key": "a key", "the head": `"format":1`, "the foot": `"sha256":"`} {
		changed := bytes.Clone(archive)
		i := bytes.Index(changed, []byte(text))
		changed[i+len(text)] ^= 1
		changed[i] ^= 1
		refused(t, name, changed, broker.ErrCorrupt)
	}
	// a bit in the middle of a database
	changed := bytes.Clone(archive)
	changed[bytes.Index(changed, []byte("record"))+1] ^= 1
	refused(t, "a record", changed, broker.ErrCorrupt)
}

// entries reads an archive; pack writes one.
func entries(t testing.TB, archive []byte) (list []struct {
	h       tar.Header
	content []byte
}) {
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, struct {
			h       tar.Header
			content []byte
		}{*h, b})
	}
}

// repack changes the entries of an archive one by one; an entry that change answers false for is left out, and those in
// more follow the first.
func repack(t testing.TB, archive []byte, change func(*tar.Header, *[]byte) bool, more ...tar.Header) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i, e := range entries(t, archive) {
		if change(&e.h, &e.content) {
			e.h.Size = int64(len(e.content))
			if err := w.WriteHeader(&e.h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(e.content); err != nil {
				t.Fatal(err)
			}
		}
		if i == 0 {
			for _, h := range more {
				if err := w.WriteHeader(&h); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestABackupOfWrongFormIsRefused(t *testing.T) {
	_, archive := backedUp(t)
	keep := func(*tar.Header, *[]byte) bool { return true }
	for _, name := range []string{"../evil", "/etc/evil", "blobs/../../evil", "blobs/ab/x", "lock", "a/b", ".hidden", "restore.tmp", "blobs", "cache/x", "", "secret.key"} {
		refused(t, name, repack(t, archive, keep, tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600}), broker.ErrCorrupt)
	}
	for _, kind := range []byte{tar.TypeSymlink, tar.TypeLink, tar.TypeDir, tar.TypeChar, tar.TypeFifo} {
		refused(t, fmt.Sprintf("an entry of kind %c", kind), repack(t, archive, keep, tar.Header{Typeflag: kind, Name: "x", Linkname: "/etc/passwd"}), broker.ErrCorrupt)
	}
	without := func(name string) []byte {
		return repack(t, archive, func(h *tar.Header, _ *[]byte) bool { return h.Name != name })
	}
	for _, name := range []string{backupHead, backupFoot, "records.db", "queue.db", "secret.key"} {
		refused(t, "without "+name, without(name), broker.ErrCorrupt)
	}
	refused(t, "nothing in the foot", repack(t, archive, func(h *tar.Header, b *[]byte) bool {
		if h.Name == backupFoot {
			*b = []byte("null")
		}
		return true
	}), broker.ErrCorrupt)
	refused(t, "a newer format", repack(t, archive, func(h *tar.Header, b *[]byte) bool {
		*b = bytes.Replace(*b, []byte(`"format":1`), []byte(`"format":2`), 1)
		return true
	}), broker.ErrNewer)
	refused(t, "no backup", bytes.Repeat([]byte("not a backup "), 1000), broker.ErrCorrupt)
	// A database of another store, with its right digest.
	_, other := backedUp(t)
	var queue []byte
	for _, e := range entries(t, other) {
		if e.h.Name == "queue.db" {
			queue = e.content
		}
	}
	refused(t, "parts of two stores", func() []byte {
		var was, is string
		for _, e := range entries(t, archive) {
			if e.h.Name == "queue.db" {
				was = fmt.Sprintf(`{"size":%d,"sha256":"%s"}`, len(e.content), digestOf(e.content))
			}
		}
		is = fmt.Sprintf(`{"size":%d,"sha256":"%s"}`, len(queue), digestOf(queue))
		return repack(t, archive, func(h *tar.Header, b *[]byte) bool {
			if h.Name == "queue.db" {
				*b = queue
			}
			if h.Name == backupFoot {
				*b = bytes.Replace(*b, []byte(was), []byte(is), 1)
			}
			return true
		})
	}(), broker.ErrCorrupt)
}

func TestARestoreOverSomethingIsRefused(t *testing.T) {
	s, archive := backedUp(t)
	before := read(t, filepath.Join(s.dir, "records.db"))
	for name, dir := range map[string]string{"a store": s.dir, "a folder with a file": func() string {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}()} {
		names := func() string {
			list, err := os.ReadDir(dir)
			return fmt.Sprint(list, err)
		}
		was := names()
		if _, err := Restore(t.Context(), dir, bytes.NewReader(archive)); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("over %s, restore answers %v", name, err)
		}
		if is := names(); is != was {
			t.Errorf("%s had %s and has %s", name, was, is)
		}
	}
	if !bytes.Equal(before, read(t, filepath.Join(s.dir, "records.db"))) {
		t.Error("the records were changed")
	}
}

func TestARestoreEndsWithItsContext(t *testing.T) {
	_, archive := backedUp(t)
	dir := filepath.Join(t.TempDir(), "data")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Restore(ctx, dir, bytes.NewReader(archive)); !errors.Is(err, context.Canceled) || !missing(dir) {
		t.Errorf("restore answers %v", err)
	}
}

// FuzzRestore: no archive makes a restore panic, hang, or leave something after an error or outside of its folder.
func FuzzRestore(f *testing.F) {
	_, archive := backedUp(f)
	small := repack(f, archive, func(h *tar.Header, _ *[]byte) bool { return !strings.HasSuffix(h.Name, ".db") })
	f.Add(small, uint32(0), byte(0))
	f.Add(small, uint32(600), byte(1))
	f.Add([]byte{}, uint32(0), byte(0))
	f.Fuzz(func(t *testing.T, b []byte, at uint32, xor byte) {
		b = bytes.Clone(b)
		if len(b) > 0 {
			b[int(at)%len(b)] ^= xor
		}
		parent := t.TempDir()
		dir := filepath.Join(parent, "data")
		_, err := Restore(t.Context(), dir, bytes.NewReader(b))
		found, rerr := os.ReadDir(parent)
		if rerr != nil || err != nil && len(found) > 0 || len(found) > 1 {
			t.Errorf("restore answers %v and leaves %v", err, found)
		}
	})
}

func TestNamesInABackup(t *testing.T) {
	digest := strings.Repeat("ab", 32)
	want := map[string]bool{
		"records.db": true, "secret.key": true, "token": true, "A-b_c.1": true, "blobs/ab/" + digest: true,
		"blobs/aa/" + digest: false, "blobs/ab/" + digest + "/x": false, "blobs/" + digest: false, "blobs/": false, "..": false, "a b": false, strings.Repeat("x", 101): false,
	}
	for name := range maps.Keys(want) {
		if restorable(name) != want[name] {
			t.Errorf("%q may be restored: %t", name, restorable(name))
		}
	}
}

func digestOf(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
