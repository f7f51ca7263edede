package wire

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestALogOfBytesIsSentInLittleMoreThanThat(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		raw  bool
	}{
		"nothing":            {"", false},
		"text":               {"a line of a log, with \"quotes\" and ünïcode", false},
		"lines":              {"trap: unreachable\n\tin a\n\tin b\n", false},
		"NULs":               {strings.Repeat("\x00", 8<<10), true},
		"no UTF-8":           {strings.Repeat("\xff", 8<<10), true},
		"a byte that is not": {"the token is hunter2-\xffcorrect-horse", true},
		"some that is so":    {strings.Repeat("a", 100) + strings.Repeat("\x01", 8), true},
	} {
		t.Run(name, func(t *testing.T) {
			r := Report{Kind: ReportLog, Text: c.text}
			r.Pack()
			if got := r.Raw != nil; got != c.raw {
				t.Errorf("it is sent as bytes: %t", got)
			}
			b, err := json.Marshal(r)
			if err != nil || len(b) > len(c.text)*3/2+200 {
				t.Errorf("%d bytes are sent as %d: %v", len(c.text), len(b), err)
			}
			var got Report
			if err := json.Unmarshal(b, &got); err != nil {
				t.Fatal(err)
			}
			got.Unpack()
			if got.Text != c.text || got.Raw != nil {
				t.Errorf("%q became %q", c.text, got.Text)
			}
		})
	}
	r := Report{Kind: ReportAudit, Text: "\x00\x00"}
	if r.Pack(); r.Raw != nil {
		t.Error("what is no log is sent as bytes")
	}
}
