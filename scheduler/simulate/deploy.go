package simulate

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ripstop-vm/ripstop/broker"
)

// grace is how long a blob stays that no record names: as long as a deployer may take from putting it to naming it, and as a
// sweeper may take from its list to its sweep, with what messages and machines may be late.
const (
	grace      = 8 * time.Minute
	deployTime = 2 * time.Minute
)

// newDeployer puts blobs, and then commits records that name them.
func (w *world) newDeployer(i int) {
	var m *machine
	n := 0
	var deploy func()
	deploy = func() {
		m.after(w.Between(10*time.Second, 40*time.Second), deploy)
		n++
		content := fmt.Sprintf("module %d of %s", n, m.name)
		m.send(func() {
			began := w.Now()
			blob, err := w.b.Blobs.Put(background, strings.NewReader(content))
			m.logf("puts %.8s: %v", blob.Digest, err)
			if err != nil {
				return
			}
			m.after(w.Between(time.Second, 90*time.Second), func() {
				if w.Now().Sub(began) > deployTime {
					return // it stalled; the blob is left to the sweeper
				}
				key := fmt.Sprint("module/", w.Rand.IntN(6))
				at, err := w.b.Records.Commit(background, broker.Commit{Writes: []broker.Write{{Key: key, Value: []byte(blob.Digest)}}})
				m.logf("commits %s as %s: %s %v", key, blob.Digest[:8], at, err)
			})
		})
	}
	m = w.newMachine(fmt.Sprint("deployer", i), func() { deploy() })
}

func (w *world) named(records broker.Records) (map[broker.Digest]string, error) {
	list, _, err := records.List(background, broker.Range{Prefix: "module/"})
	if err != nil {
		return nil, err
	}
	named := map[broker.Digest]string{}
	for _, rec := range list {
		named[broker.Digest(rec.Value)] = rec.Key
	}
	return named, nil
}

// newSweeper deletes blobs that no record names, and another one looks that none is missing.
func (w *world) newSweeper() {
	var m *machine
	var sweep func()
	sweep = func() {
		m.after(w.Between(20*time.Second, 60*time.Second), sweep)
		named, err := w.named(w.b.Records)
		if err != nil {
			return
		}
		m.send(func() {
			swept, err := w.b.Blobs.Sweep(background, grace, func(d broker.Digest) bool { return named[d] != "" })
			m.logf("sweeps %d blobs: %v", len(swept), err)
		})
	}
	m = w.newMachine("sweeper", func() { sweep() })

	var look func()
	look = func() {
		named, err := w.named(w.plain.Records)
		if err != nil {
			w.check.fail("list: %v", err)
		}
		for _, d := range slices.Sorted(maps.Keys(named)) {
			if _, err := w.plain.Blobs.Stat(background, d); errors.Is(err, broker.ErrNotFound) {
				w.check.fail("%s names a blob that is gone", named[d])
			}
		}
		w.After(5*time.Second, look)
	}
	w.After(0, look)
}
