//go:build unix && soak

package embedded

import "testing"

// TestKillSoak kills a process that works on a queue 500 times.
func TestKillSoak(t *testing.T) { killRounds(t, 500) }
