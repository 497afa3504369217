package backup

import (
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// trySetAttributes is setAttributes for what lies in d itself, in two system
// calls, where [os.Root] makes five: see fchmodat2(2), which Linux has since
// 6.6, and utimensat(2). It reports whether it has done all.
func (d *dir) trySetAttributes(name string, perm fs.FileMode, mtime time.Time) bool {
	if !d.native || strings.Contains(name, "/") || mtime.IsZero() || !isKernel(6, 6) {
		return false
	}
	here, err := d.handle()
	if err != nil {
		return false
	}
	at := int(here.Fd())
	to, err := unix.TimeToTimespec(mtime)
	if err != nil {
		return false
	}
	return unix.Fchmodat(at, name, uint32(perm.Perm()), unix.AT_SYMLINK_NOFOLLOW) == nil &&
		unix.UtimesNanoAt(at, name, []unix.Timespec{to, to}, unix.AT_SYMLINK_NOFOLLOW) == nil
}
