package backup

import (
	"io"
	"os"

	"github.com/spf13/afero"
	"golang.org/x/sys/unix"
)

// cloneFile makes dst share the blocks of src, up to size, if the file system
// can do that: see ioctl_ficlone(2). It takes no time, whatever the size, and
// no space until one of them is written to.
func cloneFile(dst afero.File, src io.ReaderAt, size int64) (bool, error) {
	to, ok := dst.(*os.File)
	from, hasFd := src.(interface{ Fd() uintptr })
	if !ok || !hasFd || size == 0 {
		return false, nil
	}
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err != nil {
		return false, nil // other file systems, most of them, or a swap file: to be copied
	}
	fi, err := to.Stat()
	if err == nil && fi.Size() > size {
		err = to.Truncate(size)
	}
	return true, err
}
