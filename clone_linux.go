package backup

import (
	"io"
	"os"

	"github.com/spf13/afero"
	"golang.org/x/sys/unix"
)

// canClone reports whether files in d can be clones of each other, by trying:
// not every XFS can. What it makes for that has no name, see O_TMPFILE in
// open(2).
func (d *dir) canClone() bool {
	here, err := d.handle()
	if err != nil {
		return false
	}
	var files [2]*os.File
	for i := range files {
		fd, err := unix.Openat(int(here.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return false
		}
		files[i] = os.NewFile(uintptr(fd), "")
		defer files[i].Close() // what was written is of no use
	}
	const block = 4096 // bytes
	if _, err := files[0].Write(make([]byte, block)); err != nil {
		return false
	}
	cloned, err := cloneFile(files[1], files[0], block)
	return cloned && err == nil
}

// cloneFile makes dst share the blocks of src, up to size, if the file system
// can do that: see ioctl_ficlone(2). It takes no time, whatever the size, and
// no space until one of them is written to.
func cloneFile(dst afero.File, src io.ReaderAt, size int64) (bool, error) {
	to, ok := dst.(*os.File)
	from, hasFd := src.(interface{ Fd() uintptr })
	if !ok || !hasFd || size == 0 {
		return false, nil
	}
	switch err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err {
	case nil:
	case unix.EOPNOTSUPP, unix.ENOTTY, unix.EXDEV, unix.EINVAL: // file systems that cannot, most of them, or two of them
		return false, nil
	default: // it may have begun
		return false, to.Truncate(0)
	}
	fi, err := to.Stat()
	if err == nil && fi.Size() > size {
		err = to.Truncate(size)
	}
	return true, err
}
