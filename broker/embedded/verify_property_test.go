package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

var errRolledBack = errors.New("rolled back")

// TestNoValidFileIsRefused does random things with a database, commits and what is rolled back, with readers that hold pages, and has its
// file verified after each, as it is and as a crash leaves it that tore the last meta page.
func TestNoValidFileIsRefused(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 3 {
		path := filepath.Join(t.TempDir(), "db")
		opts := &bolt.Options{NoSync: true, InitialMmapSize: 1 << 30, FreelistType: []bolt.FreelistType{bolt.FreelistArrayType, bolt.FreelistMapType}[round%2]}
		// Readers keep the file from being mapped anew: it is mapped large at once.
		db, err := bolt.Open(path, 0o600, opts)
		if err != nil {
			t.Fatal(err)
		}
		var readers []*bolt.Tx
		value := func() []byte {
			switch rng.IntN(20) {
			case 0:
				return make([]byte, rng.IntN(200_000))
			case 1, 2, 3:
				return bytes.Repeat([]byte{1}, rng.IntN(5000))
			}
			return bytes.Repeat([]byte{2}, rng.IntN(60))
		}
		for step := range 30 {
			err := db.Update(func(tx *bolt.Tx) error {
				top, err := tx.CreateBucketIfNotExists([]byte("top"))
				if err != nil {
					return err
				}
				for range 1 + rng.IntN(6) {
					name := fmt.Appendf(nil, "b%d", rng.IntN(12))
					switch rng.IntN(10) {
					case 0:
						if top.Bucket(name) != nil {
							if err := top.DeleteBucket(name); err != nil {
								return err
							}
						}
						continue
					case 1: // everything goes, one by one
						if b := top.Bucket(name); b != nil {
							var keys [][]byte
							_ = b.ForEach(func(k, _ []byte) error { keys = append(keys, bytes.Clone(k)); return nil })
							for _, k := range keys {
								if err := b.Delete(k); err != nil {
									return err
								}
							}
						}
						continue
					}
					b, err := top.CreateBucketIfNotExists(name)
					if err != nil {
						return err
					}
					most := 1 + rng.IntN(1+rng.IntN(2000))
					for range rng.IntN(1 + rng.IntN(800)) {
						key := fmt.Appendf(nil, "%0*d", 1+rng.IntN(1+rng.IntN(60)), rng.IntN(most))
						if rng.IntN(3) == 0 {
							err = b.Delete(key)
						} else {
							err = b.Put(key, value())
						}
						if err != nil {
							return err
						}
					}
					if _, err := b.NextSequence(); err != nil {
						return err
					}
				}
				if rng.IntN(4) == 0 {
					return errRolledBack
				}
				return nil
			})
			if err != nil && !errors.Is(err, errRolledBack) {
				t.Fatal(err)
			}
			switch rng.IntN(12) {
			case 0:
				if r, err := db.Begin(false); err == nil {
					readers = append(readers, r)
				}
				fallthrough
			case 1:
				if len(readers) > 2 {
					_ = readers[0].Rollback()
					readers = readers[1:]
				}
			case 2:
				for _, r := range readers {
					_ = r.Rollback()
				}
				readers = nil
				if rng.IntN(2) == 0 {
					if err := db.Close(); err != nil {
						t.Fatal(err)
					}
					if db, err = bolt.Open(path, 0o600, opts); err != nil {
						t.Fatal(err)
					}
				}
			}
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := verify(bytes.NewReader(content), int64(len(content)), "records"); err != nil {
				t.Fatalf("round %d, step %d: %v", round, step, err)
			}
			m0, _ := parseMeta(content)
			m1, _ := parseMeta(content[os.Getpagesize():])
			at := 0
			if m1.txid > m0.txid {
				at = os.Getpagesize()
			}
			content[at+pageHead+20] ^= 0xff
			if err := verify(bytes.NewReader(content), int64(len(content)), "records"); err != nil {
				t.Fatalf("round %d, step %d, one commit before: %v", round, step, err)
			}
		}
		for _, r := range readers {
			_ = r.Rollback()
		}
		_ = db.Close()
	}
}
