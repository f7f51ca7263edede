package agent

import (
	"fmt"
	"strings"
	"testing"
)

func TestTheEndOfAStartsOutputIsKept(t *testing.T) {
	var o startOutput
	if s := o.String(); s != "" {
		t.Errorf("nothing is %q", s)
	}
	o.add("panic: no\n\ngoroutine 1\n")
	if s := o.String(); s != "\nit had written:\n  panic: no\n  \n  goroutine 1" {
		t.Errorf("it is %q", s)
	}
	for i := range startLines {
		o.add(fmt.Sprintf("line %d", i))
	}
	if s := o.String(); !strings.HasPrefix(s, "\nit had written:\n  line 0\n") || !strings.HasSuffix(s, fmt.Sprintf("\n  line %d", startLines-1)) {
		t.Errorf("after %d more lines it is %q", startLines, s)
	}
	o.add(strings.Repeat("x", 3*startBytes))
	if s := o.String(); s != "\nit had written:\n  "+strings.Repeat("x", startBytes) {
		t.Errorf("after a long line it has %d bytes: %.40q", len(s), s)
	}
}
