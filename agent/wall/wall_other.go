//go:build !linux

package wall

import (
	"errors"
	goruntime "runtime"
)

var errPlatform = errors.New("not on " + goruntime.GOOS)

// Enter does nothing here: there is no such wall on this platform, and every Measure says what that leaves open.
func Enter(Options) []Measure { return Probe() }

// Hide does nothing here.
func Hide() Measure { return measure(hidden, "", errPlatform) }

// Probe says which measures this machine offers: none.
func Probe() []Measure {
	var all []Measure
	for _, name := range []string{noNewPrivs, capabilities, seccompName, landlockName, hidden, descriptors, limits} {
		all = append(all, measure(name, "", errPlatform))
	}
	return all
}
