package image

import (
	"bytes"
	"sync"
	"testing"
)

func TestImagesThatAreTheSameShareTheirBytes(t *testing.T) {
	var set Set
	one, other := bytes.Repeat([]byte{1}, page), bytes.Repeat([]byte{2}, page)
	taken := func(b []byte, module byte) *Image {
		im, err := set.Take(Source{Module: [32]byte{module}, Memory: b})
		if err != nil {
			t.Fatal(err)
		}
		return im
	}
	a, b, c, d := taken(one, 1), taken(one, 1), taken(other, 1), taken(one, 2)
	if a.content != b.content || a.Digest() != b.Digest() {
		t.Error("two that are the same have bytes of their own")
	}
	if a.content == c.content || a.content == d.content {
		t.Error("two that differ share their bytes")
	}
	s := space(t, SpaceOptions{})
	m := memoryOf(t, s, b, page)
	for range 2 { // the second does nothing
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	memoryOf(t, s, b, page) // it is still open
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	m.Bytes()[9] = 7
	if err := m.Return(); err != nil || !bytes.Equal(m.Bytes(), one) {
		t.Errorf("a memory of images that are closed does not return: %v", err)
	}
	if again := taken(one, 1); again.content != m.image.content {
		t.Error("bytes that a memory still uses are not found")
	} else if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	for _, im := range []*Image{c, d} {
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestASetForgetsWhatNobodyUses(t *testing.T) {
	var set Set
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 50 {
				im, err := set.Take(Source{Memory: bytes.Repeat([]byte{byte(1 + i%3)}, page)})
				if err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, page)
				if im.CopyTo(got); got[5] != byte(1+i%3) {
					t.Errorf("it holds %d", got[5])
				}
				if err := im.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(set.have) != 0 {
		t.Errorf("%d are left", len(set.have))
	}
}
