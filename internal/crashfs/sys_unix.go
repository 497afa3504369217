//go:build unix

package crashfs

import (
	"io/fs"
	"syscall"
	"time"
)

// Sys returns a *[syscall.Stat_t] with the number of the inode and of its
// names, type, mode, owner, size and times, but no access time. Directories
// have one name, as on btrfs. What is mounted has no device number of its own.
func (i fileInfo) Sys() any {
	st := &syscall.Stat_t{Size: i.size}
	set(&st.Ino, i.ino)
	set(&st.Nlink, i.links)
	set(&st.Mode, i.unixMode())
	set(&st.Uid, i.uid)
	set(&st.Gid, i.gid)
	i.setTimes(st)
	return st
}

func (i fileInfo) unixMode() uint32 {
	mode := uint32(i.mode.Perm())
	for _, bit := range []struct {
		of   fs.FileMode
		unix uint32
	}{
		{fs.ModeSetuid, syscall.S_ISUID},
		{fs.ModeSetgid, syscall.S_ISGID},
		{fs.ModeSticky, syscall.S_ISVTX},
	} {
		if i.mode&bit.of != 0 {
			mode |= bit.unix
		}
	}
	switch i.mode.Type() {
	case fs.ModeDir:
		return mode | syscall.S_IFDIR
	case fs.ModeSymlink:
		return mode | syscall.S_IFLNK
	}
	return mode | syscall.S_IFREG
}

type integer interface {
	~int | ~int16 | ~int32 | ~int64 | ~uint16 | ~uint32 | ~uint64
}

// set sets a field of a Stat_t, whose type is another on each system.
func set[T, V integer](to *T, v V) { *to = T(v) }

func setTime[S, N integer](sec *S, nsec *N, when time.Time) {
	set(sec, when.Unix())
	set(nsec, when.Nanosecond())
}
