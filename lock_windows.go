package backup

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

func lockRange(f *os.File, id int64, mode lockMode) error {
	flags := uint32(windows.LOCKFILE_FAIL_IMMEDIATELY)
	if mode == exclusive {
		flags |= windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, overlapped(id))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return ErrBusy
	}
	if err != nil {
		return &fs.PathError{Op: "lock", Path: f.Name(), Err: err}
	}
	return nil
}

// isLocked reports whether another process has the lock.
func isLocked(f *os.File, id int64) bool {
	err := lockRange(f, id, exclusive)
	if err == nil {
		err = unlockRange(f, id)
	}
	return err != nil
}

func unlockRange(f *os.File, id int64) error {
	return windows.UnlockFileEx(windows.Handle(f.Fd()), 0, 1, 0, overlapped(id))
}

func overlapped(id int64) *windows.Overlapped {
	return &windows.Overlapped{Offset: uint32(id), OffsetHigh: uint32(id >> 32)}
}

// fileID identifies a file or directory by its path: Windows gives no number
// without another call.
func fileID(_ fileInfo, path string) any { return path }
