//go:build !linux

package supervisor

import "syscall"

// attributes keeps the terminal's signals from a child. It ends with us because its link does.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
