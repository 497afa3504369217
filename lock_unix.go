//go:build unix

package backup

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func lockRange(f *os.File, id int64, mode lockMode) error {
	kind := int16(unix.F_RDLCK)
	if mode == exclusive {
		kind = unix.F_WRLCK
	}
	return fcntlRange(f, id, kind)
}

// isLocked reports whether another process has the lock. It takes none, which
// others might see.
func isLocked(f *os.File, id int64) bool {
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: id, Len: 1}
	return unix.FcntlFlock(f.Fd(), getLock, &lock) == nil && lock.Type != unix.F_UNLCK
}

func unlockRange(f *os.File, id int64) error { return fcntlRange(f, id, unix.F_UNLCK) }

func fcntlRange(f *os.File, id int64, kind int16) error {
	lock := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: id, Len: 1}
	for {
		err := unix.FcntlFlock(f.Fd(), setLock, &lock)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES):
			return ErrBusy
		case !errors.Is(err, syscall.EINTR):
			return &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
	}
}
