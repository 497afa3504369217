//go:build darwin || freebsd || netbsd

package backup

import (
	"io/fs"
	"syscall"
	"time"
)

// identity returns the number that a file has on its file system, and when it
// was last changed in any way, which nobody can set as they like; or zeros.
func identity(fi fs.FileInfo) (inode uint64, changed time.Time) {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Ino), time.Unix(st.Ctimespec.Unix())
	}
	return 0, time.Time{}
}
