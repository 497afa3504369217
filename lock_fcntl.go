//go:build unix && !linux

package backup

import "syscall"

// POSIX locks: the process's, and gone when it closes any handle on the
// file; lockTable keeps one and closes it last. See fcntl(2).
const (
	setLock = syscall.F_SETLK
	getLock = syscall.F_GETLK
)
