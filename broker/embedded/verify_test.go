package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/ripstop-vm/ripstop/broker"
)

// fullFiles answers a folder with some thousand pages in both files, free ones among them.
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
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
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
	for i := 0; i < 10 && err == nil; i++ {
		_, err = s.Records().Commit(t.Context(), broker.Commit{Writes: []broker.Write{{Key: fmt.Sprintf("key/%02d/00", i), Value: make([]byte, 5000)}}})
	}
	if err != nil && !errors.Is(err, broker.ErrCorrupt) {
		t.Errorf("the error is %v", err)
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
	for _, name := range []string{"records.db", "buckets.db"} {
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
		path := filepath.Join(dir, []string{"records.db", "buckets.db"}[rng.IntN(2)])
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
	for _, name := range []string{"records.db", "buckets.db"} {
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
		for _, kind := range []string{"records", "buckets"} {
			err := verify(bytes.NewReader(b), int64(len(b)), kind)
			if v := (*pageError)(nil); err != nil && !errors.As(err, &v) {
				t.Errorf("verify answers %v", err)
			}
		}
	})
}
