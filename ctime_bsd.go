//go:build darwin || freebsd || netbsd

package backup

import (
	"io/fs"
	"syscall"
	"time"
)

// changeTime returns when a file was last changed in any way, which nobody
// can set as they like, or zero.
func changeTime(fi fs.FileInfo) time.Time {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Ctimespec.Unix())
	}
	return time.Time{}
}
