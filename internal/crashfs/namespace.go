package crashfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/afero"
)

// Create opens a file for reading and writing, new or emptied.
func (fsys *FS) Create(name string) (afero.File, error) {
	return fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
}

// Open opens a file or directory for reading.
func (fsys *FS) Open(name string) (afero.File, error) {
	return fsys.OpenFile(name, os.O_RDONLY, 0)
}

// OpenFile opens name as [os.OpenFile] does. O_SYNC has no meaning.
func (fsys *FS) OpenFile(name string, flag int, perm fs.FileMode) (afero.File, error) {
	var f *file
	err := fsys.do(Op{Kind: OpOpen, Path: name, Flag: flag}, func(Fault) error {
		n, err := fsys.open(name, flag, perm)
		if err == nil {
			n.opens++
			f = &file{fsys: fsys, node: n, name: name, flag: flag}
		}
		return err
	})
	switch {
	case err == nil:
		return f, nil
	case f != nil: // it took effect, and failed
		fsys.mu.Lock()
		defer fsys.mu.Unlock()
		f.drop()
	}
	return nil, err
}

func (fsys *FS) open(name string, flag int, perm fs.FileMode) (*inode, error) {
	exclusive := flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0
	last := followLast
	if exclusive || flag&oNoFollow != 0 {
		last = keepLast
	}
	at, err := fsys.walk(name, last)
	writes := flag&(os.O_WRONLY|os.O_RDWR|os.O_TRUNC) != 0
	switch n := at.node; {
	case err != nil:
		return nil, err
	case at.slash && flag&os.O_CREATE != 0:
		return nil, syscall.EISDIR
	case n == nil:
		return fsys.create(at, flag, perm, name)
	case exclusive:
		return nil, syscall.EEXIST
	case n.isSymlink():
		return nil, syscall.ELOOP
	case n.isDir() && (writes || flag&os.O_CREATE != 0):
		return nil, syscall.EISDIR
	case at.slash && !n.isDir():
		return nil, syscall.ENOTDIR
	case writes && fsys.rofs:
		return nil, syscall.EROFS
	case flag&os.O_TRUNC != 0 && n.content.size > 0:
		fsys.truncate(n, 0, name)
	}
	return at.node, nil
}

func (fsys *FS) create(at place, flag int, perm fs.FileMode, name string) (*inode, error) {
	switch {
	case flag&os.O_CREATE == 0:
		return nil, syscall.ENOENT
	case fsys.rofs:
		return nil, syscall.EROFS
	}
	n := fsys.newInode(perm & settable)
	fsys.enter(Effect{Kind: Create, Path: name}, n, slot{entry: at.entry, after: n})
	return n, nil
}

// Mkdir makes a directory.
func (fsys *FS) Mkdir(name string, perm fs.FileMode) error {
	return fsys.do(Op{Kind: OpMkdir, Path: name}, func(Fault) error {
		at, err := fsys.walk(name, takeEntry)
		switch {
		case err != nil:
			return err
		case at.node != nil:
			return syscall.EEXIST
		case fsys.rofs:
			return syscall.EROFS
		}
		n := fsys.newInode(fs.ModeDir | perm&settable)
		fsys.enter(Effect{Kind: Mkdir, Path: name}, n, slot{entry: at.entry, after: n})
		return nil
	})
}

// MkdirAll makes a directory and those above it, by a Stat and a Mkdir for
// each that is missing, as [os.MkdirAll] does.
func (fsys *FS) MkdirAll(path string, perm fs.FileMode) error {
	if info, err := fsys.Stat(path); err == nil {
		if !info.IsDir() {
			return Op{Kind: OpMkdir, Path: path}.wrap(syscall.ENOTDIR)
		}
		return nil
	}
	trimmed := strings.TrimRight(filepath.ToSlash(path), "/")
	if i := strings.LastIndexByte(trimmed, '/'); i > len(filepath.VolumeName(path)) {
		if err := fsys.MkdirAll(path[:i], perm); err != nil {
			return err
		}
	}
	err := fsys.Mkdir(path, perm)
	if err != nil {
		if info, _, statErr := fsys.LstatIfPossible(path); statErr == nil && info.IsDir() {
			return nil
		}
	}
	return err
}

// Remove removes a file or an empty directory.
func (fsys *FS) Remove(name string) error {
	return fsys.do(Op{Kind: OpRemove, Path: name}, func(Fault) error {
		at, err := fsys.walk(name, takeEntry)
		switch n := at.node; {
		case err != nil:
			return err
		case n == nil:
			return syscall.ENOENT
		case at.unnamed && n == fsys.root, n.mount:
			return syscall.EBUSY
		case at.unnamed:
			return syscall.EINVAL
		case at.slash && !n.isDir():
			return syscall.ENOTDIR
		case fsys.rofs:
			return syscall.EROFS
		case len(n.entries) > 0:
			return syscall.ENOTEMPTY
		}
		kind := Unlink
		if at.node.isDir() {
			kind = Rmdir
		}
		fsys.enter(Effect{Kind: kind, Path: name}, at.node, slot{entry: at.entry, before: at.node})
		return nil
	})
}

// RemoveAll removes path and all that is in it, in the order of names, by a
// Readdir for each directory and a Remove for everything. It goes on after an
// error, and returns the first.
func (fsys *FS) RemoveAll(path string) error {
	if path == "" {
		return nil // as os.RemoveAll
	}
	if path == "." || strings.HasSuffix(filepath.ToSlash(path), "/.") {
		return &fs.PathError{Op: "RemoveAll", Path: path, Err: syscall.EINVAL}
	}
	var first error
	if fsys.lstatIsDir(path) {
		var names []string
		first = fsys.do(Op{Kind: OpReaddir, Path: path}, func(Fault) error {
			n, err := fsys.find(path, keepLast)
			if err == nil {
				names = n.names()
			}
			return err
		})
		for _, name := range names {
			if err := fsys.RemoveAll(path + "/" + name); first == nil {
				first = err
			}
		}
	}
	if err := fsys.Remove(path); first == nil && !errors.Is(err, syscall.ENOENT) {
		first = err
	}
	return first
}

func (fsys *FS) lstatIsDir(path string) bool {
	fsys.mu.Lock()
	defer fsys.mu.Unlock()
	n, err := fsys.find(path, keepLast)
	return err == nil && n.isDir()
}

// Rename gives a file another name, atomically taking the place of a file
// that had it.
func (fsys *FS) Rename(oldname, newname string) error {
	return fsys.do(Op{Kind: OpRename, Path: oldname, To: newname}, func(Fault) error {
		if err := fsys.osRename(oldname, newname); err != nil {
			return err
		}
		from, err := fsys.walk(oldname, takeEntry)
		if err != nil {
			return err
		}
		to, err := fsys.walk(newname, takeEntry)
		if err != nil {
			return err
		}
		if err := fsys.mayRename(from, to); err != nil {
			return err
		}
		if from.node == to.node {
			return nil
		}
		fsys.enter(Effect{Kind: Rename, Path: oldname, To: newname}, from.node,
			slot{entry: from.entry, before: from.node},
			slot{entry: to.entry, before: to.node, after: from.node})
		return nil
	})
}

// osRename returns what os.Rename finds before it asks the system.
func (fsys *FS) osRename(oldname, newname string) error {
	at, err := fsys.find(newname, keepLast)
	if fsys.opts.RawRename || err != nil || !at.isDir() {
		return nil
	}
	from, err := fsys.find(oldname, keepLast)
	switch {
	case err != nil:
		return err
	case newname == oldname || from != at:
		return syscall.EEXIST
	}
	return nil
}

// mayRename returns what forbids to rename from to to.
func (fsys *FS) mayRename(from, to place) error {
	n, old := from.node, to.node
	switch {
	case from.unnamed || to.unnamed:
		return syscall.EBUSY
	case from.dir.device() != to.dir.device():
		return syscall.EXDEV
	case fsys.rofs:
		return syscall.EROFS
	case n == nil:
		return syscall.ENOENT
	case !n.isDir() && (from.slash || to.slash):
		return syscall.ENOTDIR
	case n.isDir() && to.dir.within(n):
		return syscall.EINVAL
	case n == old:
		return nil
	case n.mount, old != nil && old.mount:
		return syscall.EBUSY
	case old == nil:
		return nil
	case from.dir.within(old):
		return syscall.ENOTEMPTY
	case n.isDir() && !old.isDir():
		return syscall.ENOTDIR
	case !n.isDir() && old.isDir():
		return syscall.EISDIR
	case len(old.entries) > 0:
		return syscall.ENOTEMPTY
	}
	return nil
}

// SymlinkIfPossible makes newname a symbolic link that holds oldname, as it is.
func (fsys *FS) SymlinkIfPossible(oldname, newname string) error {
	return fsys.do(Op{Kind: OpSymlink, Path: newname, To: oldname}, func(Fault) error {
		at, err := fsys.walk(newname, takeEntry)
		switch {
		case err != nil:
			return err
		case oldname == "":
			return syscall.ENOENT
		case at.node != nil:
			return syscall.EEXIST
		case at.slash:
			return syscall.ENOENT
		case fsys.rofs:
			return syscall.EROFS
		}
		n := fsys.newInode(fs.ModeSymlink | 0o777)
		n.target = oldname
		fsys.enter(Effect{Kind: Symlink, Path: newname}, n, slot{entry: at.entry, after: n})
		return nil
	})
}

// LinkIfPossible gives the file oldname another name, as link(2) does on
// Linux: if oldname is a symbolic link, that link gets it, and not its target.
func (fsys *FS) LinkIfPossible(oldname, newname string) error {
	return fsys.do(Op{Kind: OpLink, Path: oldname, To: newname}, func(Fault) error {
		from, err := fsys.findPlace(oldname, keepLast)
		if err != nil {
			return err
		}
		to, err := fsys.walk(newname, takeEntry)
		if err != nil {
			return err
		}
		if err := fsys.mayLink(from, to); err != nil {
			return err
		}
		fsys.enter(Effect{Kind: Link, Path: oldname, To: newname}, from.node, slot{entry: to.entry, after: from.node})
		return nil
	})
}

// mayLink returns what forbids to make to another name of from, which exists.
func (fsys *FS) mayLink(from, to place) error {
	switch {
	case to.node != nil:
		return syscall.EEXIST
	case to.slash:
		return syscall.ENOENT
	case fsys.rofs:
		return syscall.EROFS
	case from.device() != to.dir.device():
		return syscall.EXDEV
	case from.node.isDir():
		return syscall.EPERM
	}
	return nil
}

// ReadlinkIfPossible returns what the symbolic link name holds.
func (fsys *FS) ReadlinkIfPossible(name string) (target string, err error) {
	err = fsys.do(Op{Kind: OpReadlink, Path: name}, func(Fault) error {
		n, err := fsys.find(name, keepLast)
		switch {
		case err != nil:
			return err
		case !n.isSymlink():
			return syscall.EINVAL
		}
		target = n.target
		return nil
	})
	if err != nil {
		return "", err
	}
	return target, nil
}
