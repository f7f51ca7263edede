package manifest

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is bytes: 512, 64KiB, 1MiB, 2GiB in YAML and JSON; a plain number is bytes.
type Size int64

// Units of Size.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

var sizeUnits = []struct {
	name string
	size Size
}{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}, {"B", 1}}

// ParseSize reads "64KiB", "2GiB", "512B" or "512".
func ParseSize(s string) (Size, error) {
	number, unit := s, Size(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			number, unit = strings.TrimSuffix(rest, " "), u.size
			break
		}
	}
	n, err := strconv.ParseUint(number, 10, 63)
	switch {
	case err == nil && n > uint64(math.MaxInt64/int64(unit)):
		return 0, fmt.Errorf("%s is too large to be a size", quote(s))
	case err != nil && looksDecimal(number):
		return 0, fmt.Errorf("%s is no size: write a whole number with KiB, MiB, GiB or TiB, such as 64MiB", quote(s))
	case err != nil:
		return 0, fmt.Errorf("%s is no size: write it like 512, 64KiB, 1MiB or 2GiB", quote(s))
	}
	return Size(n) * unit, nil
}

// looksDecimal recognizes 1.5, 64M, 64MB and the like.
func looksDecimal(s string) bool {
	s = strings.TrimRight(s, "kKMGTBb")
	_, err := strconv.ParseFloat(s, 64)
	return err == nil
}

// String is the size in the largest unit that loses nothing.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && s%u.size == 0 && u.size > 1 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalJSON writes the text form, or a number of bytes where no unit fits.
func (s Size) MarshalJSON() ([]byte, error) {
	if t := s.String(); strings.HasSuffix(t, "B") {
		return json.Marshal(t)
	}
	return json.Marshal(int64(s))
}

// UnmarshalJSON reads both forms.
func (s *Size) UnmarshalJSON(b []byte) error {
	text := string(b)
	if len(b) > 0 && b[0] == '"' {
		if err := json.Unmarshal(b, &text); err != nil {
			return err
		}
	}
	n, err := ParseSize(text)
	if err != nil {
		return err
	}
	*s = n
	return nil
}

// Duration is a time.Duration, written as Go does (1h30m, 250ms).
type Duration time.Duration

// ParseDuration reads "1h30m", "250ms" or, with days of 24 hours before all other units, "5d" or "1d12h". A number without a
// unit is refused, but for 0.
func ParseDuration(s string) (Duration, error) {
	d, err := time.ParseDuration(withoutDays(s))
	if err != nil {
		return 0, fmt.Errorf("%s is no duration: write it with units, such as 250ms, 10s, 1h30m or 5d", quote(s))
	}
	return Duration(d), nil
}

// withoutDays writes a duration's days, if it has any, as hours.
func withoutDays(s string) string {
	digits := strings.TrimLeft(s, "+-")
	sign := s[:len(s)-len(digits)]
	digits, rest, ok := strings.Cut(digits, "d")
	days, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil {
		return s
	}
	return sign + strconv.FormatUint(days*24, 10) + "h" + rest
}

// String is the text form, without empty units at its end ("1h", not "1h0m0s").
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalJSON writes the text form.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }

// UnmarshalJSON reads the text form.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return fmt.Errorf("%s is no duration: write a text such as \"10s\"", b)
	}
	n, err := ParseDuration(text)
	if err != nil {
		return err
	}
	*d = n
	return nil
}

func quote(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return strconv.Quote(s)
}
