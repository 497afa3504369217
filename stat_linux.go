package backup

import (
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/spf13/afero"
	"golang.org/x/sys/unix"
)

// Each file of a tree is looked at many times. Asked itself, the system says all
// there is to say without a FileInfo for each time, and, of what a directory holds,
// without a search for links in its name.

// lstatIn is lstat for what is called base in the directory name, which the caller
// has opened.
func (d *dir) lstatIn(open afero.File, name, base string) (fileInfo, error) {
	here, ok := open.(*os.File)
	if !ok || !d.native {
		return d.lstat(below(name, base))
	}
	var st unix.Stat_t
	err := ignoringEINTR(func() error { return unix.Fstatat(int(here.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return fileInfo{}, &fs.PathError{Op: "lstat", Path: d.full(below(name, base)), Err: err}
	}
	return infoOf(base, &st), nil
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
		nativeInfo: nativeInfo{isNative: true, dev: uint64(st.Dev), uid: st.Uid, gid: st.Gid},
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
