package backup

import (
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/spf13/afero"
	"golang.org/x/sys/unix"
)

// What lies in an open directory itself is reached by that directory's descriptor
// in one system call: there is no element in the name that could be a link to
// somewhere else, which is what [os.Root] looks for. The files of a tree are many,
// and each is reached many times.

// at returns the descriptor of d if name is that of something that lies in d
// itself.
func (d *dir) at(name string) (fd int, ok bool) {
	if !d.native || name == "." || name == ".." || strings.Contains(name, "/") {
		return 0, false
	}
	here, err := d.handle()
	if err != nil {
		return 0, false
	}
	return int(here.Fd()), true
}

// tryLstat is lstat for what lies in d itself, and reports whether name does.
func (d *dir) tryLstat(name string) (fi fileInfo, done bool, err error) {
	at, ok := d.at(name)
	if !ok {
		return fi, false, nil
	}
	var st unix.Stat_t
	err = ignoringEINTR(func() error { return unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return fi, true, &fs.PathError{Op: "lstat", Path: d.full(name), Err: err}
	}
	return infoOf(name, &st), true, nil
}

// tryOpen is openFile for what lies in d itself, and reports whether name does.
// It opens a file as rootFs does.
func (d *dir) tryOpen(name string, flag int, perm fs.FileMode) (f afero.File, done bool, err error) {
	at, ok := d.at(name)
	if !ok {
		return nil, false, nil
	}
	flag |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := openQuietly(flag, func(flag int) (fd int, err error) {
		err = ignoringEINTR(func() error {
			fd, err = unix.Openat(at, name, flag, uint32(perm.Perm()))
			return err
		})
		return fd, err
	})
	if err != nil {
		return nil, true, &fs.PathError{Op: "open", Path: d.full(name), Err: err}
	}
	// Package os would ask for the poller's help with a file that does not block,
	// which has none to give.
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil {
		_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^oNonblock) // else it does
	}
	return os.NewFile(uintptr(fd), below(d.base, name)), true, nil
}

// trySetAttributes is setAttributes for what lies in d itself, in two system
// calls, where [os.Root] makes five: see fchmodat2(2), which Linux has since
// 6.6, and utimensat(2). It reports whether it has done all.
func (d *dir) trySetAttributes(name string, perm fs.FileMode, mtime time.Time) bool {
	at, ok := d.at(name)
	if !ok || mtime.IsZero() || !isKernel(6, 6) {
		return false
	}
	to, err := unix.TimeToTimespec(mtime)
	if err != nil {
		return false
	}
	return unix.Fchmodat(at, name, uint32(perm.Perm()), unix.AT_SYMLINK_NOFOLLOW) == nil &&
		unix.UtimesNanoAt(at, name, []unix.Timespec{to, to}, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// statFile returns what f.Stat says.
func statFile(f afero.File) (fileInfo, error) {
	file, ok := f.(*os.File)
	if !ok {
		return statAny(f)
	}
	var st unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Fstat(int(file.Fd()), &st) }); err != nil {
		return fileInfo{}, &fs.PathError{Op: "stat", Path: file.Name(), Err: err}
	}
	return infoOf(path.Base(file.Name()), &st), nil
}

// infoOf is newFileInfo for what the system has said itself.
func infoOf(name string, st *unix.Stat_t) fileInfo {
	fi := fileInfo{
		name: name, mode: modeOf(st.Mode), size: st.Size, mtime: time.Unix(st.Mtim.Unix()),
		ctime: time.Unix(st.Ctim.Unix()), inode: st.Ino,
		identity: identity{known: true, dev: st.Dev, uid: st.Uid, gid: st.Gid},
	}
	if fi.isDir() {
		fi.size = 0
	}
	return fi
}

// modeOf translates st_mode, see inode(7).
func modeOf(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for _, bit := range []struct {
		is   uint32
		mode fs.FileMode
	}{{unix.S_ISUID, fs.ModeSetuid}, {unix.S_ISGID, fs.ModeSetgid}, {unix.S_ISVTX, fs.ModeSticky}} {
		if mode&bit.is != 0 {
			m |= bit.mode
		}
	}
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	default:
		m |= fs.ModeIrregular
	}
	return m
}
