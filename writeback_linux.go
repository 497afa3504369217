package backup

import (
	"os"

	"github.com/spf13/afero"
	"golang.org/x/sys/unix"
)

// beginWriteback has the disk begin to write so many bytes of a file, and does
// not wait for it: see sync_file_range(2). That makes nothing durable, and takes
// no error away from the sync that does.
func beginWriteback(f afero.File, off, n int64) {
	if file, ok := f.(*os.File); ok {
		_ = unix.SyncFileRange(int(file.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE) // the sync will tell
	}
}

// copyRange copies at most n bytes from where src is read to where dst is
// written, which may be fewer, or none: see copy_file_range(2). Some kernels
// return 0 for what they cannot copy so.
func copyRange(dst, src *os.File, n int) int64 {
	copied, err := unix.CopyFileRange(int(src.Fd()), nil, int(dst.Fd()), nil, n, 0)
	if err != nil {
		return 0
	}
	return int64(copied)
}
