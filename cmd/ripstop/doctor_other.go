//go:build !linux

package main

import "github.com/ripstop-vm/ripstop/agent/wall"

func kernelVersion() string { return "" }

// platformChecks has nothing to ask here: what the server would use is Linux's.
func platformChecks() []wall.Measure { return nil }
