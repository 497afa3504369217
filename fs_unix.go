//go:build unix

package backup

import (
	"errors"
	"syscall"
)

const (
	oNonblock        = syscall.O_NONBLOCK
	oNofollow        = syscall.O_NOFOLLOW
	syncsDirectories = true
	locksForbid      = false // what has locked a part of a file keeps nobody from reading it
)

// isLeased reports whether an error of open(2) says that, with O_NONBLOCK, the
// file would have been opened later.
func isLeased(err error) bool { return errors.Is(err, syscall.EAGAIN) }
