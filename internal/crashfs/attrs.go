package crashfs

import (
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
)

// settable are the bits of a mode that Chmod can set.
const settable = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// Stat describes a file, following symbolic links.
func (fsys *FS) Stat(name string) (fs.FileInfo, error) {
	return fsys.stat(OpStat, name, followLast)
}

// LstatIfPossible describes a file, or the symbolic link that name is.
func (fsys *FS) LstatIfPossible(name string) (fs.FileInfo, bool, error) {
	info, err := fsys.stat(OpLstat, name, keepLast)
	return info, true, err
}

func (fsys *FS) stat(kind OpKind, name string, last lastLink) (info fs.FileInfo, err error) {
	err = fsys.do(Op{Kind: kind, Path: name}, func(Fault) error {
		n, err := fsys.find(name, last)
		if err == nil {
			info = n.info(filepath.Base(name))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// Chmod sets the permission bits, setuid, setgid and sticky.
func (fsys *FS) Chmod(name string, mode fs.FileMode) error {
	return fsys.setAttrs(OpChmod, name, func(a *attrs) {
		a.mode = a.mode&^settable | mode&settable
	})
}

// Chown sets the owner, which nothing here ever asks for. -1 leaves it.
func (fsys *FS) Chown(name string, uid, gid int) error {
	return fsys.setAttrs(OpChown, name, func(a *attrs) {
		if uid != -1 {
			a.uid = uid
		}
		if gid != -1 {
			a.gid = gid
		}
	})
}

// Chtimes sets the modification time, unless it is zero. Access times are not
// kept.
func (fsys *FS) Chtimes(name string, _, mtime time.Time) error {
	return fsys.setAttrs(OpChtimes, name, func(a *attrs) {
		if !mtime.IsZero() {
			a.mtime = mtime
		}
	})
}

func (fsys *FS) setAttrs(kind OpKind, name string, set func(*attrs)) error {
	return fsys.do(Op{Kind: kind, Path: name}, func(Fault) error {
		n, err := fsys.find(name, followLast)
		switch {
		case err != nil:
			return err
		case fsys.rofs:
			return syscall.EROFS
		}
		fsys.change(n, Effect{Kind: Attrs, Path: name}, effect{set: set})
		set(&n.attrs)
		return nil
	})
}
