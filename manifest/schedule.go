package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/ripstop-vm/ripstop/internal/cron"
	"github.com/ripstop-vm/ripstop/runtime/policy"
)

// Bounds of schedules.
const (
	MaxSchedules       = 16
	MaxScheduleName    = 40       // bytes
	MaxScheduleHeaders = 32       // fields of one
	MaxScheduleBytes   = 48 << 10 // path, header and body of one, together
)

// Schedule enqueues an invocation of the job again and again. A zero field means the default in brackets.
type Schedule struct {
	// Name tells a schedule from others of the job; what is known of earlier firings goes by it [made from the time and the request].
	Name    string            `json:"name,omitempty"`
	Cron    string            `json:"cron"`              // minute, hour, day of the month, month, day of the week
	Zone    string            `json:"zone,omitempty"`    // of the IANA's database [UTC]
	Missed  string            `json:"missed,omitempty"`  // what becomes of firings that nobody was there for: "run-once" [run-once] or "skip"
	Overlap string            `json:"overlap,omitempty"` // while the one before has not ended: "skip" [skip], "wait" or "allow"
	Method  string            `json:"method,omitempty"`  // [POST]
	Path    string            `json:"path,omitempty"`    // and query, as the guest sees them [/]
	Headers map[string]string `json:"headers,omitempty"`
	Body    string            `json:"body,omitempty"`
}

// What Schedule.Missed and Schedule.Overlap may say.
const (
	MissedRunOnce = "run-once" // the last of them is made up for
	MissedSkip    = "skip"
	OverlapSkip   = "skip"  // it is left out
	OverlapWait   = "wait"  // it is enqueued, and starts after
	OverlapAllow  = "allow" // both run
)

// fill sets what is left out.
func (s *Schedule) fill() {
	for field, usual := range map[*string]string{&s.Zone: "UTC", &s.Missed: MissedRunOnce, &s.Overlap: OverlapSkip, &s.Method: http.MethodPost, &s.Path: "/"} {
		if *field == "" {
			*field = usual
		}
	}
	if s.Name == "" {
		s.Name = s.digest()
	}
}

// digest is a name that the same time and request have in each version.
func (s *Schedule) digest() string {
	b, err := json.Marshal(Schedule{Cron: s.Cron, Zone: s.Zone, Method: s.Method, Path: s.Path, Headers: s.Headers, Body: s.Body})
	if err != nil {
		panic("manifest: a schedule cannot be written: " + err.Error()) // it is made of texts
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

func (c *checker) schedules(list []Schedule) {
	if len(list) > MaxSchedules {
		c.add("schedule", "%d schedules, at most %d are allowed", len(list), MaxSchedules)
		return
	}
	seen := map[string]int{}
	for i, s := range list {
		at := fmt.Sprintf("schedule[%d]", i)
		c.schedule(at, s)
		s.fill()
		if first, dup := seen[s.Name]; dup {
			c.add(at, "is the same as schedule[%d]: give them names of their own", first)
		}
		seen[s.Name] = i
	}
}

func (c *checker) schedule(at string, s Schedule) {
	if s.Name != "" {
		if err := policy.CheckLabel(s.Name); err != nil {
			c.add(at+".name", "%s", err)
		} else if len(s.Name) > MaxScheduleName {
			c.add(at+".name", "%d bytes, at most %d are allowed", len(s.Name), MaxScheduleName)
		}
	}
	err := cron.Check(s.Cron, s.Zone)
	switch e, ok := errors.AsType[*cron.Error](err); {
	case ok:
		c.addAt(at+".cron", e.Offset, "%s", e.Msg)
	case err != nil:
		c.add(at+".zone", "%s", err)
	}
	oneOf := func(key, value string, allowed ...string) {
		if value != "" && !slices.Contains(allowed, value) {
			c.add(at+"."+key, "%s is none of %s", quote(value), strings.Join(allowed, ", "))
		}
	}
	oneOf("missed", s.Missed, MissedRunOnce, MissedSkip)
	oneOf("overlap", s.Overlap, OverlapSkip, OverlapWait, OverlapAllow)
	if s.Method != "" && (!httpguts.ValidHeaderFieldName(s.Method) || len(s.Method) > 32) {
		c.add(at+".method", "%s is no method", quote(s.Method))
	}
	if s.Path != "" && (s.Path[0] != '/' || strings.ContainsFunc(s.Path, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' })) {
		c.add(at+".path", "%s is no path: it begins with a /, and has neither spaces nor a #", quote(s.Path))
	}
	if len(s.Headers) > MaxScheduleHeaders {
		c.add(at+".headers", "%d fields, at most %d are allowed", len(s.Headers), MaxScheduleHeaders)
	}
	total := len(s.Path) + len(s.Body)
	named := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		total += len(name) + len(s.Headers[name])
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			c.add(at+".headers."+name, "%s is no name of a header", quote(name))
		case !httpguts.ValidHeaderFieldValue(s.Headers[name]):
			c.add(at+".headers."+name, "%s is no value of a header", quote(s.Headers[name]))
		case strings.HasPrefix(canonical, "Ripstop-"):
			c.add(at+".headers."+name, "names that begin with Ripstop- are the server's")
		case named[canonical]:
			c.add(at+".headers."+name, "is there twice")
		}
		named[canonical] = true
	}
	if total > MaxScheduleBytes {
		c.add(at, "path, headers and body have %d bytes, at most %d are allowed", total, MaxScheduleBytes)
	}
}
