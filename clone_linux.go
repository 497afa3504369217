package backup

import (
	"errors"
	"io"
	"os"
	"slices"

	"github.com/spf13/afero"
	"golang.org/x/sys/unix"
)

// cloning finds out by trying: not every XFS can. What it makes for that has no
// name, see O_TMPFILE in open(2), which not every file system has.
func (d *dir) cloning() cloning {
	here, err := d.handle()
	if err != nil {
		return clonesUnknown
	}
	var files [2]*os.File
	for i := range files {
		fd, err := unix.Openat(int(here.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return clonesUnknown
		}
		files[i] = os.NewFile(uintptr(fd), "")
		defer files[i].Close() // what was written is of no use
	}
	const block = 4096 // bytes
	if _, err := files[0].Write(make([]byte, block)); err != nil {
		return clonesUnknown
	}
	switch err := unix.IoctlFileClone(int(files[1].Fd()), int(files[0].Fd())); {
	case err == nil:
		return clonesAlways
	case cannotClone(err):
		return clonesNever
	}
	return clonesUnknown
}

// cannotClone reports whether an error says that a file system never clones, or
// that the files are on two of them.
func cannotClone(err error) bool {
	return slices.Contains([]error{unix.EOPNOTSUPP, unix.ENOTTY, unix.EXDEV, unix.EINVAL}, err)
}

// createClone makes the file name, which must not exist, and has it share the
// blocks of src, up to size, if the file system can do that: see
// ioctl_ficlone(2). It takes no time, whatever the size, and no space until one
// of them is written to.
func (d *dir) createClone(name string, src io.ReaderAt, size int64) (newFile, error) {
	f, err := d.create(name)
	if err != nil {
		return f, err
	}
	f.cloned, err = shareBlocks(f.File, src, size)
	if err != nil {
		return f, errors.Join(err, f.Close(), d.remove(name))
	}
	return f, nil
}

// shareBlocks reports whether dst, which is empty, has the first size bytes of
// src by now.
func shareBlocks(dst afero.File, src io.ReaderAt, size int64) (bool, error) {
	to, ok := dst.(*os.File)
	from, hasFd := src.(interface{ Fd() uintptr })
	if !ok || !hasFd || size == 0 {
		return false, nil
	}
	err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd()))
	if cannotClone(err) {
		return false, nil
	}
	if err != nil { // it may have begun
		return false, to.Truncate(0)
	}
	fi, err := to.Stat()
	if err == nil && fi.Size() > size {
		err = to.Truncate(size)
	}
	return true, err
}
