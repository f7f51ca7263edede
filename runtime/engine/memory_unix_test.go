//go:build linux || darwin

package engine

import "testing"

// Memories that are too many take none of the mappings that images need.
func TestOnlySoManyMemoriesHaveAddressesReserved(t *testing.T) {
	var all []*OwnMemory
	for i := range maxReserved + 2 {
		m := NewMemory(2)
		all = append(all, m)
		for _, pages := range []uint64{1, 2} {
			if err := m.Grow(pages * PageSize); err != nil || uint64(len(m.Bytes())) != pages*PageSize {
				t.Fatalf("memory %d: %v", i, err)
			}
			m.Bytes()[pages*PageSize-1] = 1
		}
		if m.all.heap != (i >= maxReserved) || m.Bytes()[PageSize-1] != 1 {
			t.Fatalf("memory %d is of the heap: %v", i, m.all.heap)
		}
	}
	for _, m := range all {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := reserved.Load(); n != 0 {
		t.Errorf("%d are still reserved", n)
	}
}
