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
