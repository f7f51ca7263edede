package cron

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// firings lists when a schedule fires after from, n times, as its zone writes it.
func firings(t *testing.T, expr, zone, from string, n int) string {
	t.Helper()
	s, err := Parse(expr, zone)
	if err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339, from)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for range n {
		at = s.Next(at)
		if at.IsZero() {
			list = append(list, "never")
			break
		}
		list = append(list, at.Format("0102 15:04 -07"))
	}
	return strings.Join(list, ", ")
}

func TestSchedulesFireByTheClockOnTheWall(t *testing.T) {
	for _, c := range []struct{ what, expr, zone, from, want string }{
		{"every day", "30 3 * * *", "", "2026-03-01T03:30:00Z", "0302 03:30 +00, 0303 03:30 +00, 0304 03:30 +00"},
		{"the very minute is not after itself", "* * * * *", "", "2026-03-01T03:30:00Z", "0301 03:31 +00, 0301 03:32 +00, 0301 03:33 +00"},
		{"seconds are left behind", "* * * * *", "", "2026-03-01T03:30:59.9Z", "0301 03:31 +00, 0301 03:32 +00, 0301 03:33 +00"},
		{"names, lists and steps", "5,10-20/5 12 1 jan,DEC *", "", "2026-03-01T00:00:00Z", "1201 12:05 +00, 1201 12:10 +00, 1201 12:15 +00"},
		{"weekdays", "0 9 * * mon-fri", "", "2026-11-26T10:00:00Z", "1127 09:00 +00, 1130 09:00 +00, 1201 09:00 +00"},
		{"Sunday is 0 and 7", "0 0 * * 7", "", "2026-11-26T10:00:00Z", "1129 00:00 +00, 1206 00:00 +00, 1213 00:00 +00"},
		{"a day of the month or of the week", "0 0 13 * FRI", "", "2026-11-26T10:00:00Z", "1127 00:00 +00, 1204 00:00 +00, 1211 00:00 +00"},
		{"both, where one begins with a star", "0 0 */2 * FRI", "", "2026-11-26T10:00:00Z", "1127 00:00 +00, 1211 00:00 +00, 1225 00:00 +00"},
		{"a leap day", "0 0 29 2 *", "", "2026-01-01T00:00:00Z", "0229 00:00 +00, 0229 00:00 +00, 0229 00:00 +00"},
		{"the last day of some months", "0 0 31 * *", "", "2026-01-31T00:00:00Z", "0331 00:00 +00, 0531 00:00 +00, 0731 00:00 +00"},

		{"an hour that is left out comes late", "30 2 * * *", "Europe/Vienna", "2026-03-28T00:00:00Z", "0328 02:30 +01, 0329 03:00 +02, 0330 02:30 +02"},
		{"minutes of it come once", "10,20 2 * * *", "Europe/Vienna", "2026-03-28T10:00:00Z", "0329 03:00 +02, 0330 02:10 +02, 0330 02:20 +02"},
		{"and not again with the hour after it", "0 2,3 * * *", "Europe/Vienna", "2026-03-28T10:00:00Z", "0329 03:00 +02, 0330 02:00 +02, 0330 03:00 +02"},
		{"each hour, where one is left out", "0 * * * *", "Europe/Vienna", "2026-03-28T23:30:00Z", "0329 01:00 +01, 0329 03:00 +02, 0329 04:00 +02"},
		{"each half hour, where one is left out", "*/30 * * * *", "Europe/Vienna", "2026-03-29T00:15:00Z", "0329 01:30 +01, 0329 03:00 +02, 0329 03:30 +02"},
		{"an hour that is there twice", "30 2 * * *", "Europe/Vienna", "2026-10-24T10:00:00Z", "1025 02:30 +02, 1026 02:30 +01, 1027 02:30 +01"},
		{"asked between the two", "30 2 * * *", "Europe/Vienna", "2026-10-25T00:45:00Z", "1026 02:30 +01, 1027 02:30 +01, 1028 02:30 +01"},
		{"asked in the second", "30 2 * * *", "Europe/Vienna", "2026-10-25T01:15:00Z", "1026 02:30 +01, 1027 02:30 +01, 1028 02:30 +01"},
		{"each hour, where one is there twice", "0 * * * *", "Europe/Vienna", "2026-10-24T23:30:00Z", "1025 02:00 +02, 1025 02:00 +01, 1025 03:00 +01"},
		{"each half of one hour, where it is there twice", "*/30 2 * * *", "Europe/Vienna", "2026-10-24T23:30:00Z", "1025 02:00 +02, 1025 02:30 +02, 1025 02:00 +01"},
		{"the other side of the world", "30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", "0308 03:00 -04, 0309 02:30 -04, 0310 02:30 -04"},
		{"a midnight that is left out", "0 0 * * *", "America/Asuncion", "2024-10-05T12:00:00Z", "1006 01:00 -03, 1007 00:00 -03, 1008 00:00 -03"},
		{"half an hour", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", "1004 02:30 +11, 1005 02:15 +11, 1006 02:15 +11"},
		{"a day that is left out", "0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", "1231 00:00 +14, 1230 12:00 +14, 1230 12:00 +14"},
	} {
		if got := firings(t, c.expr, c.zone, c.from, 3); got != c.want {
			t.Errorf("%s: %q in %q after %s fires at\n\t%s, want\n\t%s", c.what, c.expr, c.zone, c.from, got, c.want)
		}
	}
}

func TestWhatIsNoScheduleIsRefusedAndWhereItIsWrong(t *testing.T) {
	for _, c := range []struct {
		expr   string
		offset int
		word   string
	}{
		{"", -1, "0 fields"}, {"* * * *", -1, "4 fields"}, {"* * * * * *", -1, "6 fields"}, {"@daily", 0, "is no minute"},
		{"60 * * * *", 0, `"60" is no minute: 0 to 59`}, {"0  24 * * *", 3, `"24" is no hour`}, {"0 0 0 * *", 4, `"0" is no day of the month: 1 to 31`},
		{"0 0 1 13 *", 6, "names such as JAN"}, {"0 0 1 1 8", 8, "is no day of the week"}, {"0 0 1 MON *", 6, "is no month"}, {"0 0 * * ONM", 8, "day of the week"},
		{"5-1 * * * *", 0, "ends before it begins"}, {"0 0 * * FRI-MON", 8, "ends before it begins"}, {"*/0 * * * *", 0, "is no step"}, {"*/60 * * * *", 0, "is no step"},
		{"1,,2 * * * *", 0, "is no minute"}, {"+1 * * * *", 0, "is no minute"}, {"-1 * * * *", 0, "is no minute"}, {"? * * * *", 0, "is no minute"},
		{"0 0 L * *", 4, "is no day"}, {"0 0 15W * *", 4, "is no day"}, {"0 0 * * 1#2", 8, "is no day"}, {"99999999999999999999 * * * *", 0, "is no minute"},
		{"0 0 30 2 *", -1, "never fires"}, {"0 0 31 2,4,6,9,11 *", -1, "never fires"}, {"0 0 31 4 */2", -1, "never fires"}, {strings.Repeat("1,", 300) + "1 * * * *", -1, "bytes"},
		{"TZ=UTC 0 0 * *", 0, "is no minute"},
	} {
		err := Check(c.expr, "")
		var e *Error
		if !errors.As(err, &e) || e.Offset != c.offset || !strings.Contains(e.Msg, c.word) {
			t.Errorf("%.40q: %+v, want %q at %d", c.expr, err, c.word, c.offset)
		}
	}
	for _, zone := range []string{"Local", "Mars/Olympus", "../../etc/passwd", "CET2", strings.Repeat("x", 100)} {
		if _, err := Parse("* * * * *", zone); err == nil || !strings.Contains(err.Error(), "zone") {
			t.Errorf("the zone %.20q: %v", zone, err)
		}
	}
}

// Asked from any moment, a schedule goes on forwards, and names nothing in between.
func TestNextGoesForwardsAndLeavesNothingOut(t *testing.T) {
	zones := []string{"", "Europe/Vienna", "America/New_York", "Australia/Lord_Howe", "America/Asuncion", "Pacific/Apia", "Asia/Kathmandu"}
	rapid.Check(t, func(t *rapid.T) {
		field := func(name string, low, hi int) string {
			n := rapid.IntRange(low, hi)
			switch rapid.IntRange(0, 3).Draw(t, name+" kind") {
			case 0, 1:
				return "*"
			case 2:
				return "*/" + strconv.Itoa(rapid.IntRange(1, hi).Draw(t, name))
			}
			return strconv.Itoa(n.Draw(t, name))
		}
		expr := field("minute", 0, 59) + " " + field("hour", 0, 23) + " * * " + field("weekday", 0, 7)
		s, err := Parse(expr, rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		from := time.Unix(rapid.Int64Range(1_300_000_000, 1_800_000_000).Draw(t, "from"), 0)
		at := s.Next(from)
		if at.IsZero() || !at.After(from) || at.Sub(from) > 9*24*time.Hour {
			t.Fatalf("%s after %s: %s", expr, from, at)
		}
		between := from.Add(time.Duration(rapid.Int64Range(0, int64(at.Sub(from))-1).Draw(t, "between")))
		if again := s.Next(between); !again.Equal(at) {
			t.Fatalf("%s after %s: %s; after %s: %s", expr, from, at, between, again)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, expr := range []string{"* * * * *", "*/5 1-4,7 * JAN 7", "0 0 29 2 *", "0 0 31 2 *", "@daily", "0 0 L * 1#2", "TZ=0", "\t0 0 1,1,1-2/3 * *", "0 0 31 4 */2"} {
		f.Add(expr, "Europe/Vienna", int64(1_770_000_000))
	}
	f.Fuzz(func(t *testing.T, expr, zone string, unix int64) {
		s, err := Parse(expr, zone)
		if err != nil {
			var e *Error
			if errors.As(err, &e) && (e.Offset < -1 || e.Offset > len(expr)) {
				t.Errorf("%q is wrong at %d", expr, e.Offset)
			}
			return
		}
		from := time.Unix(unix%4_000_000_000, 0)
		if at := s.Next(from); !at.IsZero() && !at.After(from) {
			t.Errorf("%q after %s fires at %s", expr, from, at)
		}
	})
}
