package backup

import "golang.org/x/sys/unix"

// Locks of the open file description: nothing but closing it gives them up.
// See fcntl(2), "Open file description locks".
const (
	setLock = unix.F_OFD_SETLK
	getLock = unix.F_OFD_GETLK
)
