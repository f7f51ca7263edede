package engine

import "unicode/utf8"

// MaxTable is how many elements the tables of a module may grow to, together: 256 KiB of them. Engines allocate whatever table.grow
// asks for.
const MaxTable = 1 << 15

// Bounds of what a trap tells. Names are the guest's, and as long as it likes.
const (
	maxFrames = 30
	maxText   = 256 // bytes
)

// NewTrap makes a trap for the reason an engine gives, of which 256 bytes are kept. Add gives it frames.
func NewTrap(reason string) *Trap { return &Trap{Reason: cut(reason)} }

// Add adds the next frame outwards; false if there are enough.
func (t *Trap) Add(function string) bool {
	if len(t.Frames) == maxFrames {
		return false
	}
	t.Frames = append(t.Frames, Frame{Function: cut(function)})
	return true
}

// cut shortens s to maxText bytes, but not within a character.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	n := maxText
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
