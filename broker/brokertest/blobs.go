package brokertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
	"github.com/ripstop-vm/ripstop/internal/clock"
)

// Blobs runs the suite of broker.Blobs. open answers empty blobs that tell time by a clock, and ends them with the test.
func Blobs(t *testing.T, open func(*testing.T, clock.Clock) broker.Blobs) {
	timedSuite(t, open, map[string]func(*testing.T, broker.Blobs, *clock.Manual){
		"bytes are named by their digest and read back":         blobIsReadBack,
		"a large blob is read back":                             largeBlob,
		"an unknown blob is not found":                          unknownBlob,
		"a digest of another form is invalid":                   badDigest,
		"a reader that fails leaves nothing":                    failedPut,
		"a context that ends leaves nothing":                    cancelledPut,
		"the same bytes are stored once":                        putTwice,
		"a sweep deletes old orphans only":                      sweepDeletesOrphans,
		"putting a blob again renews its grace":                 putRenewsGrace,
		"a put beside sweeps is not lost":                       putBesideSweeps,
		"an open reader goes on though its blob is swept":       readerOutlivesSweep,
		"many puts of the same bytes at once are one good blob": concurrentPuts,
	})
}

func digestOf(content string) broker.Digest {
	return broker.Digest(fmt.Sprintf("%x", sha256.Sum256([]byte(content))))
}

func putBlob(t *testing.T, b broker.Blobs, content string) broker.Blob {
	t.Helper()
	blob, err := b.Put(t.Context(), strings.NewReader(content))
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	return blob
}

func readBlob(t *testing.T, b broker.Blobs, d broker.Digest) string {
	t.Helper()
	r, err := b.Open(t.Context(), d)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(content)
}

func wantBlobs(t *testing.T, b broker.Blobs, contents ...string) {
	t.Helper()
	have := map[broker.Digest]bool{}
	for blob, err := range b.List(t.Context()) {
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		if have[blob.Digest] {
			t.Errorf("%s is listed twice", blob.Digest)
		}
		have[blob.Digest] = true
	}
	for _, c := range contents {
		if !have[digestOf(c)] {
			t.Errorf("the blob %.20q is gone", c)
		}
		delete(have, digestOf(c))
	}
	if len(have) > 0 {
		t.Errorf("%d blobs too many are there", len(have))
	}
}

func blobIsReadBack(t *testing.T, b broker.Blobs, c *clock.Manual) {
	for _, content := range []string{"hello", ""} {
		blob := putBlob(t, b, content)
		if blob.Digest != digestOf(content) || blob.Size != int64(len(content)) || !blob.Put.Equal(c.Now()) {
			t.Errorf("put answers %+v", blob)
		}
		if got, err := b.Stat(t.Context(), blob.Digest); err != nil || got.Digest != blob.Digest || got.Size != blob.Size || !got.Put.Equal(blob.Put) {
			t.Errorf("stat answers %+v, %v; want %+v", got, err, blob)
		}
		if got := readBlob(t, b, blob.Digest); got != content {
			t.Errorf("%q reads %q", content, got)
		}
	}
	wantBlobs(t, b, "hello", "")
}

func largeBlob(t *testing.T, b broker.Blobs, _ *clock.Manual) {
	content := strings.Repeat("0123456789abcdef", 5<<20/16) + "end"
	blob, err := b.Put(t.Context(), iotest.HalfReader(strings.NewReader(content)))
	if err != nil || blob.Size != int64(len(content)) {
		t.Fatalf("put answers %+v, %v", blob, err)
	}
	if readBlob(t, b, blob.Digest) != content {
		t.Error("the blob reads differently")
	}
}

func unknownBlob(t *testing.T, b broker.Blobs, _ *clock.Manual) {
	if _, err := b.Open(t.Context(), digestOf("x")); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("open answers %v", err)
	}
	if _, err := b.Stat(t.Context(), digestOf("x")); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("stat answers %v", err)
	}
	wantBlobs(t, b)
}

func badDigest(t *testing.T, b broker.Blobs, _ *clock.Manual) {
	good := string(digestOf("x"))
	for _, d := range []string{"", "x", "../../../etc/passwd", strings.ToUpper(good), good + "0", good[:63] + "/"} {
		if _, err := b.Open(t.Context(), broker.Digest(d)); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("open %q answers %v", d, err)
		}
		if _, err := b.Stat(t.Context(), broker.Digest(d)); !errors.Is(err, broker.ErrInvalid) {
			t.Errorf("stat %q answers %v", d, err)
		}
	}
}

func failedPut(t *testing.T, b broker.Blobs, _ *clock.Manual) {
	cut := errors.New("the client went away")
	_, err := b.Put(t.Context(), io.MultiReader(strings.NewReader("half"), iotest.ErrReader(cut)))
	if !errors.Is(err, cut) {
		t.Errorf("put answers %v", err)
	}
	wantBlobs(t, b)
}

func cancelledPut(t *testing.T, b broker.Blobs, _ *clock.Manual) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() {
		_, _ = w.Write([]byte("half"))
		cancel()
		_, _ = w.Write([]byte("the rest"))
		_ = w.Close()
	}()
	if _, err := b.Put(ctx, r); !errors.Is(err, context.Canceled) {
		t.Errorf("put answers %v", err)
	}
	_ = r.Close()
	wantBlobs(t, b)
}

func putTwice(t *testing.T, b broker.Blobs, _ *clock.Manual) {
	first, second := putBlob(t, b, "x"), putBlob(t, b, "x")
	if first.Digest != second.Digest {
		t.Errorf("digests are %s and %s", first.Digest, second.Digest)
	}
	wantBlobs(t, b, "x")
}

func sweepDeletesOrphans(t *testing.T, b broker.Blobs, c *clock.Manual) {
	putBlob(t, b, "orphan")
	putBlob(t, b, "kept")
	c.Advance(time.Hour)
	putBlob(t, b, "young")
	c.Advance(time.Minute)
	keep := func(d broker.Digest) bool { return d == digestOf("kept") }
	swept, err := b.Sweep(t.Context(), 30*time.Minute, keep)
	if err != nil || len(swept) != 1 || swept[0].Digest != digestOf("orphan") || swept[0].Size != 6 {
		t.Errorf("sweep answers %+v, %v", swept, err)
	}
	wantBlobs(t, b, "kept", "young")
	if _, err := b.Open(t.Context(), digestOf("orphan")); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("a swept blob opens: %v", err)
	}
}

func putRenewsGrace(t *testing.T, b broker.Blobs, c *clock.Manual) {
	putBlob(t, b, "x")
	c.Advance(time.Hour)
	putBlob(t, b, "x")
	c.Advance(time.Minute)
	none := func(broker.Digest) bool { return false }
	if swept, err := b.Sweep(t.Context(), 30*time.Minute, none); err != nil || len(swept) != 0 {
		t.Errorf("sweep answers %+v, %v", swept, err)
	}
	wantBlobs(t, b, "x")
}

func putBesideSweeps(t *testing.T, b broker.Blobs, c *clock.Manual) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := b.Sweep(t.Context(), time.Minute, func(broker.Digest) bool { return false }); err != nil {
				t.Error(err)
			}
		}
	})
	for range 100 {
		c.Advance(time.Hour) // what was put in the last round may go at any moment
		blob := putBlob(t, b, "x")
		if got := readBlob(t, b, blob.Digest); got != "x" {
			t.Errorf("the blob reads %q", got)
		}
	}
	cancel()
	wg.Wait()
}

func readerOutlivesSweep(t *testing.T, b broker.Blobs, c *clock.Manual) {
	content := strings.Repeat("x", 1<<20)
	blob := putBlob(t, b, content)
	r, err := b.Open(t.Context(), blob.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	c.Advance(time.Hour)
	if _, err := b.Sweep(t.Context(), time.Minute, func(broker.Digest) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) != len(content)-10 {
		t.Errorf("the reader gave %d bytes, %v", len(rest), err)
	}
}

func concurrentPuts(t *testing.T, b broker.Blobs, _ *clock.Manual) {
	content := bytes.Repeat([]byte("content "), 50_000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := b.Put(t.Context(), bytes.NewReader(content)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantBlobs(t, b, string(content))
	if readBlob(t, b, digestOf(string(content))) != string(content) {
		t.Error("the blob reads differently")
	}
}
