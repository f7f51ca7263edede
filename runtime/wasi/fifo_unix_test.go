//go:build unix

package wasi

import "syscall"

func makeFIFO(p string) error { return syscall.Mkfifo(p, 0o666) }
