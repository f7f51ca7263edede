package ids

import "testing"

func TestNamesSortInTheOrderInWhichTheyWereMade(t *testing.T) {
	last := New()
	for range 1000 {
		next := New()
		if next <= last {
			t.Fatalf("%s was made after %s", next, last)
		}
		last = next
	}
}

func TestAnInvocationNameIsReadBack(t *testing.T) {
	id := NewInvocation()
	if got, err := ParseInvocation(string(id)); err != nil || got != id {
		t.Errorf("ParseInvocation(%q) = %q, %v", id, got, err)
	}
	for _, bad := range []string{"", "x", "0190", string(id) + "0"} {
		if got, err := ParseInvocation(bad); err == nil {
			t.Errorf("ParseInvocation(%q) = %q, want an error", bad, got)
		}
	}
}
