//go:build !unix

package main

import "errors"

// limitProcess fails: there is no way here to bound what a compiler uses.
func limitProcess(uint64, uint64, uint64, int) error {
	return errors.New("this platform cannot bound a process's resources")
}
