package engine

import (
	"errors"
	"testing"
)

func TestAMemoryGrowsToItsBoundIsZeroAndIsGivenBack(t *testing.T) {
	m := NewMemory(3)
	if len(m.Bytes()) != 0 {
		t.Fatalf("it begins with %d bytes", len(m.Bytes()))
	}
	for _, pages := range []uint64{1, 1, 3} {
		if err := m.Grow(pages * PageSize); err != nil || uint64(len(m.Bytes())) != pages*PageSize {
			t.Fatalf("%d pages: %d bytes, %v", pages, len(m.Bytes()), err)
		}
		for i, b := range m.Bytes()[1:] {
			if b != 0 {
				t.Fatalf("byte %d is %d", i+1, b)
			}
		}
		m.Bytes()[0] = 7
	}
	var limit *LimitError
	if err := m.Grow(4 * PageSize); !errors.As(err, &limit) || limit.Max != 3*PageSize || len(m.Bytes()) != 3*PageSize || m.Bytes()[0] != 7 {
		t.Errorf("past its bound: %v, %d bytes", err, len(m.Bytes()))
	}
	for range 2 {
		if err := m.Close(); err != nil || len(m.Bytes()) != 0 {
			t.Errorf("closed: %v, %d bytes", err, len(m.Bytes()))
		}
	}
	if err := m.Grow(PageSize); !errors.As(err, &limit) {
		t.Errorf("a closed one grew: %v", err)
	}
	none := NewMemory(0)
	if err := none.Grow(0); err != nil {
		t.Error(err)
	}
	if err := none.Close(); err != nil {
		t.Error(err)
	}
}
