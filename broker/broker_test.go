package broker

import (
	"errors"
	"strings"
	"testing"
)

func TestARevisionIsReadBack(t *testing.T) {
	for _, r := range []Revision{{}, {Number: 7, Mark: "abc"}, {Number: 1<<64 - 1, Mark: "x"}} {
		if got, err := ParseRevision(r.String()); err != nil || got != r {
			t.Errorf("%+v is read back as %+v, %v", r, got, err)
		}
	}
	for _, bad := range []string{"", "7", "-a", "x-a", "07-a", "+7-a", "7-a-b", "18446744073709551616-a"} {
		if got, err := ParseRevision(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is read as %+v, %v", bad, got, err)
		}
	}
}

func FuzzParseRevision(f *testing.F) {
	for _, s := range []string{"0-", "7-abc", "x", "-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if r, err := ParseRevision(s); err == nil && r.String() != s {
			t.Errorf("%q is read as %q", s, r)
		}
	})
}

func TestADigestHasOneForm(t *testing.T) {
	good := strings.Repeat("0123456789abcdef", 4)
	if d, err := ParseDigest(good); err != nil || string(d) != good {
		t.Errorf("ParseDigest answers %s, %v", d, err)
	}
	for _, bad := range []string{"", good[1:], good + "0", strings.ToUpper(good), "/" + good[1:], "g" + good[1:]} {
		if _, err := ParseDigest(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: ParseDigest answers %v", bad, err)
		}
	}
}

func TestAConflictSaysWhatItFound(t *testing.T) {
	for want, err := range map[string]*ConflictError{
		"a exists already, at revision 3":              {Key: "a", Have: 3},
		"a does not exist any more; wanted revision 2": {Key: "a", Want: 2},
		"a is at revision 3, not 2":                    {Key: "a", Want: 2, Have: 3},
	} {
		if err.Error() != want || !errors.Is(err, ErrConflict) {
			t.Errorf("the error is %q, want %q", err, want)
		}
	}
}
