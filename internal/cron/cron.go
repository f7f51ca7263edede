// Package cron says when a schedule fires: five fields, as crontab(5) has them, by the clock on the wall of a time zone.
//
// Fields are read and searched by a library, on a calendar without time zones. What a day does that is an hour longer or shorter is decided here, as
// Vixie's cron does: a schedule of fixed hours fires once a day; one that begins its minute or hour with '*' goes by the time that passes.
package cron

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // the same zones on every machine, also on one that has none

	"github.com/adhocore/gronx"
)

// An Error is what is wrong with an expression.
type Error struct {
	Offset int    // byte in the expression where it is; -1: all of it
	Msg    string // what is wrong, and what to write instead
}

func (e *Error) Error() string { return e.Msg }

// A Schedule is an expression in a time zone. It never changes.
type Schedule struct {
	expr  string
	zone  *time.Location
	fixed bool // minute and hour are named
}

// maxExpression bounds an expression, in bytes. The longest sensible list of minutes has 170.
const maxExpression = 512

var fields = []struct {
	name    string
	low, hi int
	names   string // three letters each, for low, low+1, …
}{
	{"minute", 0, 59, ""}, {"hour", 0, 23, ""}, {"day of the month", 1, 31, ""}, {"month", 1, 12, "JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC"},
	{"day of the week", 0, 7, "SUNMONTUEWEDTHUFRISAT"},
}

// Check is Parse, and refuses an expression that never fires with an *Error. It may take some tenths of a second to find out.
func Check(expr, zone string) error {
	s, err := Parse(expr, zone)
	// From a fixed day on, so that whether an expression is good does not depend on when it is asked. Leap days come within the library's reach.
	if err == nil && s.wall(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return &Error{-1, "never fires: no such day of the month is in any month that it names"}
	}
	return err
}

// Parse reads an expression of five fields. zone is a name of the IANA's database; empty means UTC. The error is an *Error, or about the zone.
func Parse(expr, zone string) (*Schedule, error) {
	if zone == "Local" {
		return nil, errors.New("there is no time zone \"Local\" that is the same everywhere: name one, such as Europe/Vienna")
	}
	loc, err := time.LoadLocation(zone)
	if err != nil || len(zone) > 64 {
		return nil, fmt.Errorf("there is no time zone %.64q: write one such as UTC or Europe/Vienna", zone)
	}
	if len(expr) > maxExpression {
		return nil, &Error{-1, fmt.Sprintf("has %d bytes, at most %d are allowed", len(expr), maxExpression)}
	}
	var parts []string
	for at := 0; at < len(expr); {
		if expr[at] == ' ' || expr[at] == '\t' {
			at++
			continue
		}
		part, _, _ := strings.Cut(strings.ReplaceAll(expr[at:], "\t", " "), " ")
		if len(parts) < len(fields) {
			if why := check(len(parts), part); why != "" {
				return nil, &Error{at, why}
			}
		}
		parts = append(parts, part)
		at += len(part)
	}
	if len(parts) != len(fields) {
		return nil, &Error{-1, fmt.Sprintf("has %d fields, not the five of minute, hour, day of the month, month and day of the week, as in \"0 3 * * MON-FRI\"", len(parts))}
	}
	return &Schedule{expr: strings.ToUpper(strings.Join(parts, " ")), zone: loc, fixed: parts[0][0] != '*' && parts[1][0] != '*'}, nil
}

// check says what is wrong with a field; empty if nothing is.
func check(i int, part string) string {
	f := fields[i]
	for item := range strings.SplitSeq(part, ",") {
		span, step, stepped := strings.Cut(item, "/")
		if span != "*" {
			from, to, ranged := strings.Cut(span, "-")
			low, ok := number(i, from)
			if !ok {
				return fmt.Sprintf("%.40q is no %s: %d to %d is allowed%s", from, f.name, f.low, f.hi, namesOf(i))
			}
			hi := low
			if ranged {
				if hi, ok = number(i, to); !ok {
					return fmt.Sprintf("%.40q is no %s: %d to %d is allowed%s", to, f.name, f.low, f.hi, namesOf(i))
				}
			} else if stepped {
				hi = f.hi
			}
			if hi < low {
				return fmt.Sprintf("%.40q ends before it begins", span)
			}
		}
		if n, ok := digits(step); stepped && (!ok || n < 1 || n > f.hi) {
			return fmt.Sprintf("%.40q is no step: 1 to %d is allowed", step, f.hi)
		}
	}
	if !gronx.IsValid(strings.Repeat("* ", i) + strings.ToUpper(part) + strings.Repeat(" *", len(fields)-1-i)) {
		return fmt.Sprintf("%.40q is no %s", part, f.name)
	}
	return ""
}

func namesOf(i int) string {
	if n := fields[i].names; n != "" {
		return ", and names such as " + n[:3]
	}
	return ""
}

// number reads a value of a field.
func number(i int, s string) (int, bool) {
	f := fields[i]
	if at := strings.Index(f.names, strings.ToUpper(s)); len(s) == 3 && at >= 0 && at%3 == 0 {
		return f.low + at/3, true
	}
	n, ok := digits(s)
	return n, ok && n >= f.low && n <= f.hi
}

// digits reads one or two digits.
func digits(s string) (n int, ok bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = 10*n + int(s[i]-'0')
	}
	return n, len(s) == 1 || len(s) == 2
}

// wall is the first time after at that the expression names; zero if there is none within the library's reach. Both are what a clock on the wall says, written as
// if in UTC.
func (s *Schedule) wall(at time.Time) time.Time {
	t, err := gronx.NextTickAfter(s.expr, at, false)
	if err != nil || !t.After(at) {
		return time.Time{}
	}
	return t
}

// onWall is what the clock on the wall of t's zone says, written as if in UTC.
func onWall(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// instant is when the clock on the wall, which said it would, has said w in zone for the first time. A time that it leaves out comes when it goes on.
func instant(w time.Time, zone *time.Location) time.Time {
	for t := w.Add(-26 * time.Hour).In(zone); ; { // no zone is further from UTC
		start, end := t.ZoneBounds()
		_, offset := t.Zone()
		at := w.Add(-time.Duration(offset) * time.Second).In(zone)
		switch {
		case !start.IsZero() && at.Before(start):
			return start
		case end.IsZero() || at.Before(end):
			return at
		}
		t = end
	}
}

// Next is the first time after t at which the schedule fires; zero if there is none within decades.
func (s *Schedule) Next(t time.Time) time.Time {
	t = t.In(s.zone)
	if s.fixed {
		for w := onWall(t); ; {
			if w = s.wall(w); w.IsZero() {
				return w
			}
			if at := instant(w, s.zone); at.After(t) {
				return at
			}
		}
	}
	for w := onWall(t); ; {
		_, end := t.ZoneBounds()
		_, offset := t.Zone()
		if w = s.wall(w); w.IsZero() {
			return w
		}
		if at := w.Add(-time.Duration(offset) * time.Second).In(s.zone); end.IsZero() || at.Before(end) {
			return at
		}
		t = end.In(s.zone)
		w = onWall(t).Add(-time.Nanosecond) // the change itself counts
	}
}
